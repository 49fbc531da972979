//! The events that a client receives: the edits of each step, then the answer or a failure. Plain
//! data. Out of scope: how events are delivered.

use crate::diffusion::{Cell, Edit, Position, Probability, TokenId};
use crate::model::ModelError;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The canvas before the first step, known once a request is admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The cells that edits may change: everything behind a prompt, or a whole template.
    pub cells: Vec<Cell>,
    /// Cells before them (the prompt's), which an edit's position counts and the API's `at` omits.
    pub offset: usize,
    /// The tokens before the first one to write: the prompt's, or those before the first gap.
    pub prompt: Arc<[TokenId]>,
    /// Tokens that the user gave.
    pub prompt_tokens: usize,
    /// Most steps, where the pace has a bound.
    pub steps_planned: Option<u32>,
    /// The tokens that end the answer: it has neither the first of them nor what is behind it. None
    /// for an answer that ends with its cells.
    pub ends: Arc<[TokenId]>,
}

/// One step, or several that were merged because the client reads slowly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepEvent {
    /// The (last) step's number, from 0.
    pub step: u32,
    /// Blanks on the canvas after it.
    pub blanks: usize,
    /// The changes, those of filled cells first. Applying them in order gives the canvas after
    /// `step`.
    pub edits: Vec<Edit>,
    /// What erased: the name of the remasking, [`PROOFREADING`](crate::diffusion::PROOFREADING), or
    /// both where steps were merged.
    pub erased_by: Vec<&'static str>,
    /// Text that is final from this step on, following that of earlier steps; empty for infills.
    pub text: String,
}

/// Edits by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EditCounts {
    /// Fills.
    pub filled: u32,
    /// Erasures.
    pub erased: u32,
    /// Replacements.
    pub replaced: u32,
}

impl EditCounts {
    /// Counts some edits.
    pub fn of(edits: &[Edit]) -> Self {
        let mut counts = Self::default();
        counts.add(edits);
        counts
    }

    /// Counts more edits.
    pub(super) fn add(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::Fill { .. } => self.filled += 1,
                Edit::Erase { .. } => self.erased += 1,
                Edit::Replace { .. } => self.replaced += 1,
            }
        }
    }
}

impl StepEvent {
    /// Merges the next step into this one: applying the result gives the same canvas as applying
    /// both. What was written in between is left out, so that at most two edits per cell remain.
    pub fn absorb(&mut self, later: Self) {
        let mut cells: BTreeMap<Position, Vec<Edit>> = BTreeMap::new();
        for edit in self.edits.drain(..).chain(later.edits) {
            let edits = cells.entry(edit.at()).or_default();
            match edits.pop() {
                Some(earlier) => edits.extend(merged(earlier, edit)),
                None => edits.push(edit),
            }
        }
        self.edits = cells.into_values().flatten().collect();
        self.edits.sort_by_key(|edit| matches!(edit, Edit::Fill { .. }));
        self.erased_by.extend(later.erased_by);
        self.erased_by.sort_unstable();
        self.erased_by.dedup();
        self.step = later.step;
        self.blanks = later.blanks;
        self.text.push_str(&later.text);
    }
}

/// Two edits of a cell that follow each other, in as few as have the same effect.
fn merged(earlier: Edit, later: Edit) -> Vec<Edit> {
    match (earlier, later) {
        (Edit::Fill { .. }, Edit::Erase { .. }) => Vec::new(),
        (Edit::Fill { .. }, Edit::Replace { at, token, confidence, .. }) => vec![Edit::Fill { at, token, confidence }],
        (Edit::Replace { was, .. }, Edit::Replace { token, .. }) if was == token => Vec::new(),
        (Edit::Replace { was, .. }, Edit::Replace { at, token, confidence, .. }) => {
            vec![Edit::Replace { at, was, token, confidence }]
        }
        // the token that was judged is not the one that was there before
        (Edit::Replace { at, was, .. }, Edit::Erase { .. }) => vec![Edit::Erase { at, was, quality: None }],
        (Edit::Fill { .. } | Edit::Erase { .. } | Edit::Replace { .. }, _) => vec![earlier, later],
    }
}

/// Why writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// At the end of the text, at a stop string, or when all blanks of a template were filled.
    Stop,
    /// At the end of the canvas.
    Length,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The text after a prompt.
    Continuation(String),
    /// A template, filled.
    Infill {
        /// The whole template.
        text: String,
        /// The text of each run of blanks.
        gaps: Vec<String>,
    },
    /// The whole text of a score or repair request, as it is now.
    Revision(String),
}

impl Output {
    /// The whole text.
    pub fn text(&self) -> &str {
        match self {
            Self::Continuation(text) | Self::Infill { text, .. } | Self::Revision(text) => text,
        }
    }
}

/// A part of the text that was written, and the tokens that it was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// Bytes of the text. They may be fewer or others than the tokens spell: JSON is closed, and a
    /// value ends before its cells do.
    pub bytes: usize,
    /// The tokens, left to right: each with its probability when it was written, or `None` if it
    /// was fixed.
    pub tokens: Vec<(TokenId, Option<Probability>)>,
}

impl Part {
    /// The part with this text, made of tokens that were filled.
    pub(super) fn of<'a>(text: &str, written: impl IntoIterator<Item = &'a Written>) -> Self {
        let tokens = written.into_iter().map(|written| (written.token, Some(written.confidence)));
        Self { bytes: text.len(), tokens: tokens.collect() }
    }

    /// The same with tokens before the others that were fixed.
    #[must_use]
    pub(super) fn behind(mut self, fixed: impl Iterator<Item = TokenId>) -> Self {
        self.tokens.splice(..0, fixed.map(|token| (token, None)));
        self
    }
}

/// A token of the answer, with what the model said about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Written {
    /// Its cell.
    pub at: Position,
    /// The token.
    pub token: TokenId,
    /// Its probability when it was written; 1 for a token that was given.
    pub confidence: Probability,
    /// Its quality on the final canvas, if requested. A token that the quality head was not trained
    /// to judge has none.
    pub quality: Option<Probability>,
    /// Its probability given all other tokens of the final canvas, if requested.
    pub likelihood: Option<Probability>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its text.
    pub output: Output,
    /// Why it ended.
    pub finish: Finish,
    /// The tokens written, left to right.
    pub written: Vec<Written>,
    /// The parts of the text that was written: of a continuation, or of each gap. None of a text
    /// that was scored or repaired.
    pub parts: Vec<Part>,
    /// Tokens that the user gave.
    pub prompt_tokens: usize,
    /// Tokens that were written, up to the end of the text.
    pub completion_tokens: usize,
    /// Steps taken.
    pub steps: u32,
    /// Rows of this request in forward passes: one for each step and measurement.
    pub forward_passes: u32,
    /// Tokens of these rows that were computed, if all was kept that they reused.
    pub forward_tokens: u64,
    /// Fills made.
    pub filled: u32,
    /// Erasures made.
    pub erased: u32,
    /// Tokens replaced.
    pub replaced: u32,
    /// Whether steps were dropped, to meet the deadline or because many requests were queued.
    pub degraded: bool,
    /// Whether the finished canvas was read for the quality of its tokens.
    pub is_judged: bool,
    /// The last part of the text: what follows the text of the steps.
    pub tail: String,
}

/// Why an admitted request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The forward pass failed.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The deadline passed while the request was queued, and no choice of it had begun.
    #[error("the deadline of {} ms came before this request's turn; give it longer, or try when fewer are waiting", deadline.as_millis())]
    TooLate {
        /// The deadline.
        deadline: Duration,
    },
    /// The engine panicked.
    #[error("the server made a mistake while it worked on this request and others; its log says more. Ask again")]
    BrokeDown,
    /// The server shut down before the answer was complete.
    #[error("the server shut down before this answer was ready")]
    ShutDown,
}

/// One event of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The canvas changed.
    Step(StepEvent),
    /// The last event: the answer.
    Finished(Box<Answer>),
    /// The last event: there is no answer.
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Canvas;
    use proptest::prelude::*;

    fn step(step: u32, edits: Vec<Edit>) -> StepEvent {
        StepEvent { step, blanks: 0, edits, erased_by: Vec::new(), text: format!("{step}") }
    }

    proptest! {
        #[test]
        fn merged_steps_lead_to_the_same_canvas(
            script in prop::collection::vec((0u32..5, 0u32..4, any::<bool>()), 0..60)
        ) {
            let start = Canvas::continuing(&[], 5);
            let mut canvas = start.clone();
            let mut merged = StepEvent::default();
            for (number, (at, token, is_replaced)) in script.into_iter().enumerate() {
                let (at, token, confidence) = (Position(at), TokenId(token), Probability::ONE);
                let edit = match canvas.cells()[at.index()].token() {
                    Some(was) if is_replaced && was != token => Edit::Replace { at, was, token, confidence },
                    Some(was) => Edit::Erase { at, was, quality: None },
                    None => Edit::Fill { at, token, confidence },
                };
                canvas.apply(&edit).unwrap();
                merged.absorb(step(u32::try_from(number).unwrap(), vec![edit]));
            }
            let mut replayed = start;
            for edit in &merged.edits {
                replayed.apply(edit).unwrap();
            }
            prop_assert_eq!(replayed, canvas);
            prop_assert!(merged.edits.len() <= 10);
        }
    }
}
