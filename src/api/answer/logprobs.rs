//! Logprobs of the written tokens, in OpenAI's two shapes. The texts of the tokens are together the
//! text of the choice. `top_logprobs` are not known.

use super::{Echo, Shape};
use crate::api::schema;
use crate::diffusion::TokenId;
use crate::engine::{Answer, Part};
use crate::text::{Tokenizer, divide, divide_by_spans, pieces};
use serde::Serialize;
use std::{ops::Range, sync::Arc};
use utoipa::ToSchema;

/// Stands for minus infinity, which JSON does not have.
const LOWEST: f32 = -9999.0;

/// The logarithms of the probabilities that the tokens had when they were written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Logprobs {
    Text(TextLogprobs),
    Chat(ChatLogprobs),
}

/// Of completions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TextLogprobs {
    /// Together the text. A character of several tokens stands at the last of them.
    tokens: Vec<String>,
    /// Null for tokens that the model did not choose: of an echoed prompt, and of JSON that the
    /// server wrote.
    token_logprobs: Vec<Option<f32>>,
    #[schema(schema_with = schema::null, required)]
    top_logprobs: Option<()>,
    /// Characters before each token.
    text_offset: Vec<usize>,
}

/// Of chat completions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    content: Vec<Token>,
    #[schema(schema_with = schema::null, required)]
    refusal: Option<()>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenLogprob)]
pub(crate) struct Token {
    /// The part of the text that the token has. A character of several tokens stands at the last of
    /// them.
    token: String,
    /// Null for JSON that the server wrote.
    #[schema(required)]
    logprob: Option<f32>,
    /// Of the token, which may be a part of a character; null where they are not known.
    #[schema(required)]
    bytes: Option<Vec<u8>>,
    #[schema(schema_with = schema::empty)]
    top_logprobs: [(); 0],
}

/// A token as it stands in the text.
struct Entry {
    text: String,
    bytes: Option<Vec<u8>>,
    logprob: Option<f32>,
}

impl Logprobs {
    /// The logprobs of the bytes `range` of an answer's text, which follows `echo`. Together the
    /// tokens are that text.
    pub(crate) fn of(
        answer: &Answer,
        (text, range): (&str, Range<usize>),
        shape: Shape,
        tokenizer: Option<&Arc<Tokenizer>>,
        echo: Option<&Echo>,
    ) -> Self {
        let (mut entries, mut start) = (Vec::new(), 0);
        for part in &answer.parts {
            let end = start + part.bytes;
            let in_range = range.start.clamp(start, end) - start..range.end.clamp(start, end) - start;
            entries.extend(part_entries(part, text.get(start..end).unwrap_or_default(), &in_range, tokenizer));
            start = end;
        }
        match shape {
            Shape::Text => {
                let before = echo.iter().flat_map(|echo| echo.tokens.iter().cloned());
                let given = echo.map_or(0, |echo| echo.tokens.len());
                let token_logprobs = std::iter::repeat_n(None, given).chain(entries.iter().map(|entry| entry.logprob));
                let token_logprobs = token_logprobs.collect();
                let tokens: Vec<String> = before.chain(entries.into_iter().map(|entry| entry.text)).collect();
                let text_offset = offsets(&tokens).collect();
                Self::Text(TextLogprobs { tokens, token_logprobs, top_logprobs: None, text_offset })
            }
            Shape::Chat => {
                let token = |Entry { text, bytes, logprob }| Token { token: text, logprob, bytes, top_logprobs: [] };
                Self::Chat(ChatLogprobs { content: entries.into_iter().map(token).collect(), refusal: None })
            }
        }
    }
}

/// The tokens of a part of a text, as far as they stand in the bytes `range` of it.
fn part_entries(part: &Part, text: &str, range: &Range<usize>, tokenizer: Option<&Arc<Tokenizer>>) -> Vec<Entry> {
    let tokens: Vec<TokenId> = part.tokens.iter().map(|(token, _)| *token).collect();
    let pieces = tokenizer.map_or_else(|| vec![String::new(); tokens.len()], |known| pieces(known, &tokens, true));
    let division = divide(pieces.iter().map(String::as_str), text);
    let clipped = |piece: &Range<usize>| {
        &text[piece.start.clamp(range.start, range.end)..piece.end.clamp(range.start, range.end)]
    };
    let is_all = *range == (0..text.len());
    let last = division.ranges.iter().rposition(|range| !range.is_empty()).map_or(0, |last| last + 1);
    // tokens behind the end of the text are no part of it
    let count = if division.is_cut { last } else { tokens.len() };
    let mut entries = Vec::with_capacity(count);
    for (at, (token, confidence)) in part.tokens.iter().enumerate().take(count) {
        let own = clipped(&division.ranges[at]);
        if own.is_empty() && !is_all {
            continue;
        }
        let logprob = confidence.map(|confidence| confidence.get().ln().max(LOWEST));
        let bytes = bytes(own, &pieces[at], *token, tokenizer);
        entries.push(Entry { text: own.to_owned(), bytes, logprob });
    }
    let rest = clipped(&(division.end..text.len()));
    if !rest.is_empty() {
        // written by the server, to close the text
        entries.push(Entry { text: rest.to_owned(), bytes: Some(rest.as_bytes().to_vec()), logprob: None });
    }
    entries
}

/// The bytes of a token that stands as `own` in the text and would add `piece` to it.
fn bytes(own: &str, piece: &str, token: TokenId, tokenizer: Option<&Arc<Tokenizer>>) -> Option<Vec<u8>> {
    let partial = tokenizer.filter(|tokenizer| tokenizer.piece(token).contains('\u{fffd}'));
    match partial {
        None => Some(own.as_bytes().to_vec()),
        Some(tokenizer) => tokenizer.bytes(token).filter(|_| own == piece),
    }
}

impl Echo {
    /// A prompt whose tokens have no logprobs to stand beside.
    pub(crate) const fn plain(text: String) -> Self {
        Self { text, tokens: Vec::new() }
    }

    /// A prompt, divided among its tokens. Takes time in proportion to their number.
    pub(crate) fn divided(text: String, tokens: &[TokenId], tokenizer: Option<&Arc<Tokenizer>>) -> Self {
        let Some(tokenizer) = tokenizer else {
            return Self { text, tokens: vec![String::new(); tokens.len()] };
        };
        let pieces = pieces(tokenizer, tokens, false);
        let mut division = divide(pieces.iter().map(String::as_str), &text);
        if division.end < text.len() {
            // the tokens spell another text, for one in which accents are composed
            let spans = tokenizer.encode_with_spans(&text).unwrap_or_default();
            if spans.len() == tokens.len() {
                division = divide_by_spans(spans.into_iter().map(|(_, span)| span), &text);
            } else if let Some(last) = division.ranges.last_mut() {
                last.end = text.len();
            }
        }
        let tokens = division.ranges.into_iter().map(|range| text[range].to_owned()).collect();
        Self { text, tokens }
    }
}

/// The characters before each token.
fn offsets(tokens: &[String]) -> impl Iterator<Item = usize> {
    tokens.iter().scan(0, |end, token| {
        let start = *end;
        *end += token.chars().count();
        Some(start)
    })
}
