//! The answer of `POST /v1/score`.

use super::objects::{Refinement, Usage};
use super::{Detokenizer, Spelling};
use crate::diffusion::Probability;
use crate::engine::Answer;
use serde::Serialize;
use utoipa::ToSchema;

/// The answer of a score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Score<'a> {
    id: String,
    /// Always `score`.
    object: &'static str,
    model: &'a str,
    tokens: Vec<ScoredToken>,
    /// Positions of the tokens whose quality is below `below`.
    doubtful: Vec<usize>,
    usage: Usage,
    diffusion: Refinement,
}

impl<'a> Score<'a> {
    /// The answer to the request `id`. Tokens of a quality below `below` are doubtful.
    pub(crate) fn new(id: &str, model: &'a str, answer: &Answer, below: f32, detokenizer: Detokenizer<'_>) -> Self {
        let tokens = ScoredToken::all(answer, detokenizer);
        let doubtful = tokens.iter().filter(|token| token.quality.is_some_and(|quality| quality < below));
        Self {
            id: format!("score-{id}"),
            object: "score",
            model,
            doubtful: doubtful.map(|token| token.at).collect(),
            tokens,
            usage: Usage::of(std::slice::from_ref(answer), 1),
            diffusion: Refinement::of(std::slice::from_ref(answer)),
        }
    }
}

/// A token and the probability that it is right.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Judged)]
pub(crate) struct ScoredToken {
    at: usize,
    token: u32,
    #[schema(required)]
    text: Option<String>,
    /// Only of a token that has a part of a character: its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Vec<u8>>,
    /// `null` for a token that the quality head was not trained to judge.
    #[schema(required)]
    quality: Option<f32>,
    /// Its probability given all other tokens; only if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    likelihood: Option<f32>,
}

impl ScoredToken {
    pub(crate) fn all(answer: &Answer, detokenizer: Detokenizer<'_>) -> Vec<Self> {
        let tokens = answer.written.iter().map(|written| {
            let Spelling { text, bytes } = detokenizer.spelling(written.token);
            let (quality, likelihood) = (written.quality, written.likelihood);
            Self {
                at: written.at.index(),
                token: written.token.0,
                text,
                bytes,
                quality: quality.map(Probability::get),
                likelihood: likelihood.map(Probability::get),
            }
        });
        tokens.collect()
    }
}
