//! How the tokens of a sequence become its answer: the text of each task, its parts, and why it
//! ended. Out of scope: when tokens are final.

use super::event::{Finish, Output, Part, Written};
use super::layout::Layout;
use super::template::Segment;
use crate::diffusion::{Canvas, Position, TokenId};
use crate::text::{Brackets, Tokenizer, Transcript, heal};
use std::{collections::BTreeMap, sync::Arc};

/// How the tokens of a sequence become its answer. A clone shares what does not change.
#[derive(Clone, Debug)]
pub(super) enum Writing {
    /// Text that grows block by block, up to one of `ends` or the end of its value if it is JSON.
    Continuation { transcript: Transcript, ends: Arc<[TokenId]>, json: Option<Brackets> },
    /// JSON of a given shape, whose gaps are filled.
    Shaped { tokenizer: Option<Arc<Tokenizer>>, layout: Arc<Layout> },
    /// A template whose gaps are filled. If it has one gap, its text may end before its cells do.
    Infill { tokenizer: Option<Arc<Tokenizer>>, segments: Arc<[Segment]>, until: Option<Box<Until>> },
    /// A text that was complete at the start, and is scored or repaired.
    Revision { tokenizer: Option<Arc<Tokenizer>> },
}

/// The text of a gap, up to a stop string or one of `ends`.
#[derive(Clone, Debug)]
pub(super) struct Until {
    pub(super) transcript: Transcript,
    pub(super) ends: Arc<[TokenId]>,
}

/// A canvas on which nothing changes any more.
#[derive(Debug)]
pub(super) struct Finished<'a> {
    pub(super) canvas: &'a Canvas,
    pub(super) written: &'a BTreeMap<Position, Written>,
    /// Cells before the first one that may be written.
    pub(super) offset: usize,
    /// Tokens of the text, of those that were written.
    pub(super) text_tokens: usize,
    /// Whether the text ended before its cells did.
    pub(super) is_ended: bool,
    /// Fills made.
    pub(super) filled: u32,
}

/// What an answer says of its text.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) output: Output,
    pub(super) parts: Vec<Part>,
    /// The part of the text that was held back.
    pub(super) tail: String,
    pub(super) finish: Finish,
    pub(super) completion_tokens: usize,
}

impl Writing {
    /// The tokens that end the text, if any do.
    pub(super) fn ends(&self) -> Arc<[TokenId]> {
        match self {
            Self::Continuation { ends, .. } => Arc::clone(ends),
            Self::Infill { until: Some(until), .. } => Arc::clone(&until.ends),
            Self::Infill { until: None, .. } | Self::Shaped { .. } | Self::Revision { .. } => Arc::default(),
        }
    }

    /// The text of a finished canvas.
    pub(super) fn end(&mut self, of: &Finished<'_>) -> Ending {
        let &Finished { canvas, offset, text_tokens, is_ended, .. } = of;
        let written: Vec<Written> = of.written.values().copied().collect();
        let of_text = &written[..text_tokens.min(written.len())];
        let (output, parts, tail, finish, completion_tokens) = match self {
            Self::Continuation { transcript, json: Some(_), .. } => {
                transcript.finish();
                let healed = heal(transcript.text());
                let finish = if healed.is_whole { Finish::Stop } else { Finish::Length };
                let parts = vec![Part::of(&healed.json, of_text).behind(canvas.fixed(offset..usize::MAX))];
                (Output::Continuation(healed.json.clone()), parts, healed.json, finish, text_tokens)
            }
            Self::Shaped { tokenizer, layout } => {
                let (json, parts) = layout.json(of.written, canvas, offset, tokenizer.as_deref());
                (Output::Continuation(json.clone()), parts, json, Finish::Stop, written.len())
            }
            Self::Continuation { transcript, .. } => {
                let tail = transcript.finish();
                let finish = if is_ended { Finish::Stop } else { Finish::Length };
                let parts = vec![Part::of(transcript.text(), of_text)];
                (Output::Continuation(transcript.text().to_owned()), parts, tail, finish, text_tokens)
            }
            Self::Infill { tokenizer, segments, until } => {
                let text = until.as_mut().filter(|_| is_ended).map(|until| {
                    until.transcript.finish();
                    until.transcript.text().to_owned()
                });
                let written = if text.is_some() { of_text } else { &written };
                let (output, parts) = fill_in(segments, written, tokenizer.as_deref(), text);
                (output, parts, String::new(), Finish::Stop, written.len())
            }
            Self::Revision { tokenizer } => {
                let tokens: Vec<TokenId> = canvas.cells().iter().filter_map(|cell| cell.token()).collect();
                let text = tokenizer.as_ref().map(|tokenizer| tokenizer.decode(&tokens)).unwrap_or_default();
                (Output::Revision(text), Vec::new(), String::new(), Finish::Stop, of.filled as usize)
            }
        };
        Ending { output, parts, tail, finish, completion_tokens }
    }
}

/// The template, its gaps filled with the written tokens in order, and the part of each gap. The
/// first gap has the text `text_of_first`, if it is given.
fn fill_in(
    segments: &[Segment],
    written: &[Written],
    tokenizer: Option<&Tokenizer>,
    mut text_of_first: Option<String>,
) -> (Output, Vec<Part>) {
    let mut rest = written;
    let (mut text, mut gaps, mut parts) = (String::new(), Vec::new(), Vec::new());
    for (index, segment) in segments.iter().enumerate() {
        match segment {
            Segment::Text(pinned) => text.push_str(pinned),
            Segment::Blanks(cells) => {
                let (filling, after) = rest.split_at(rest.len().min(*cells));
                rest = after;
                let tokens: Vec<TokenId> = filling.iter().map(|written| written.token).collect();
                let gap = tokenizer.map(|tokenizer| match index {
                    0 => tokenizer.decode(&tokens),
                    _ => tokenizer.decode_after(&tokens),
                });
                let gap = text_of_first.take().unwrap_or(gap.unwrap_or_default());
                text.push_str(&gap);
                parts.push(Part::of(&gap, filling));
                gaps.push(gap);
            }
        }
    }
    (Output::Infill { text, gaps }, parts)
}
