//! Logprobs of the written tokens, in OpenAI's two shapes. `top_logprobs` are not known.

use super::{Detokenizer, Shape};
use crate::api::schema;
use crate::engine::{Answer, Written};
use serde::Serialize;
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
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
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
    token: String,
    logprob: f32,
    /// Null if the token is part of a character.
    #[schema(required)]
    bytes: Option<Vec<u8>>,
    #[schema(schema_with = schema::empty)]
    top_logprobs: [(); 0],
}

impl Logprobs {
    /// The logprobs of an answer whose text follows `echo`.
    pub(crate) fn of(answer: &Answer, shape: Shape, detokenizer: Detokenizer<'_>, echo: &str) -> Self {
        let written = &answer.written[..answer.completion_tokens.min(answer.written.len())];
        let piece = |written: &Written| detokenizer.piece(written.token).unwrap_or_default();
        let logprob = |written: &Written| written.confidence.get().ln().max(LOWEST);
        match shape {
            Shape::Text => {
                let tokens: Vec<String> = written.iter().map(piece).collect();
                let lengths = tokens.iter().map(|token| token.chars().count());
                let text_offset = lengths.scan(echo.chars().count(), |end, length| {
                    let start = *end;
                    *end += length;
                    Some(start)
                });
                let text_offset = text_offset.collect();
                let token_logprobs = written.iter().map(logprob).collect();
                Self::Text(TextLogprobs { tokens, token_logprobs, top_logprobs: None, text_offset })
            }
            Shape::Chat => {
                let token = |written: &Written| {
                    let token = piece(written);
                    let bytes = Some(token.bytes().collect()).filter(|_| !token.contains('\u{fffd}'));
                    Token { token, logprob: logprob(written), bytes, top_logprobs: [] }
                };
                Self::Chat(ChatLogprobs { content: written.iter().map(token).collect(), refusal: None })
            }
        }
    }
}
