//! Logprobs of the written tokens, in OpenAI's two shapes. `top_logprobs` are not known.

use super::{Detokenizer, Echo, Shape};
use crate::api::schema;
use crate::diffusion::TokenId;
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
    /// Null for the tokens of an echoed prompt: they were given, not predicted.
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
    pub(crate) fn of(answer: &Answer, shape: Shape, detokenizer: Detokenizer<'_>, echo: Option<&Echo>) -> Self {
        let written = &answer.written[..answer.completion_tokens.min(answer.written.len())];
        let piece = |token: TokenId| detokenizer.piece(token).unwrap_or_default();
        let logprob = |written: &Written| written.confidence.get().ln().max(LOWEST);
        match shape {
            Shape::Text => {
                let before: Vec<String> = echo.iter().flat_map(|echo| echo.tokens.iter()).copied().map(piece).collect();
                let tokens: Vec<String> = written.iter().map(|written| piece(written.token)).collect();
                let length = echo.map_or(0, |echo| echo.text.chars().count());
                // special tokens and parts of characters have pieces that the text does not have
                let text_offset = offsets(0, &before).map(|offset| offset.min(length)).chain(offsets(length, &tokens));
                let text_offset = text_offset.collect();
                let given = before.iter().map(|_| None);
                let token_logprobs = given.chain(written.iter().map(|written| Some(logprob(written)))).collect();
                let tokens = before.into_iter().chain(tokens).collect();
                Self::Text(TextLogprobs { tokens, token_logprobs, top_logprobs: None, text_offset })
            }
            Shape::Chat => {
                let token = |written: &Written| {
                    let token = piece(written.token);
                    let bytes = Some(token.bytes().collect()).filter(|_| !token.contains('\u{fffd}'));
                    Token { token, logprob: logprob(written), bytes, top_logprobs: [] }
                };
                Self::Chat(ChatLogprobs { content: written.iter().map(token).collect(), refusal: None })
            }
        }
    }
}

/// The characters before each token, of which there are `start` before the first.
fn offsets(start: usize, tokens: &[String]) -> impl Iterator<Item = usize> {
    tokens.iter().scan(start, |end, token| {
        let start = *end;
        *end += token.chars().count();
        Some(start)
    })
}
