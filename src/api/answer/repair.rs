//! The answer of `POST /v1/repair`: a given text, its edits, and a diff.

use super::objects::{Refinement, Usage};
use super::score::ScoredToken;
use super::{Detokenizer, Spelling};
use crate::diffusion::TokenId;
use crate::engine::{Answer, Written};
use serde::Serialize;
use similar::TextDiff;
use utoipa::ToSchema;

/// The answer of a repair.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Repair<'a> {
    id: String,
    /// Always `repair`.
    object: &'static str,
    model: &'a str,
    /// The repaired text.
    text: &'a str,
    /// The replaced tokens.
    edits: Vec<Replaced>,
    /// A unified diff; empty if nothing changed.
    diff: String,
    /// Only if requested: the quality of each token that was not pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<ScoredToken>>,
    usage: Usage,
    diffusion: Refinement,
}

impl<'a> Repair<'a> {
    /// The answer to the request `id`, whose text had the tokens `given`.
    pub(crate) fn new(
        id: &str,
        model: &'a str,
        given: &[TokenId],
        answer: &'a Answer,
        detokenizer: Detokenizer<'_>,
    ) -> Self {
        Self {
            id: format!("repair-{id}"),
            object: "repair",
            model,
            text: answer.output.text(),
            edits: replaced(given, answer, detokenizer),
            diff: diff(given, answer, detokenizer),
            tokens: answer.is_judged.then(|| ScoredToken::all(answer, detokenizer)),
            usage: Usage::of(std::slice::from_ref(answer), 1),
            diffusion: Refinement::of(std::slice::from_ref(answer)),
        }
    }
}

/// A replaced token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replaced {
    pub(crate) at: usize,
    pub(crate) was: u32,
    #[schema(required)]
    pub(crate) was_text: Option<String>,
    /// Only of a token that has a part of a character: its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) was_bytes: Option<Vec<u8>>,
    pub(crate) token: u32,
    #[schema(required)]
    pub(crate) text: Option<String>,
    /// Only of a token that has a part of a character: its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<Vec<u8>>,
    /// The new token's probability when it was written.
    pub(crate) confidence: f32,
}

pub(crate) fn replaced(given: &[TokenId], answer: &Answer, detokenizer: Detokenizer<'_>) -> Vec<Replaced> {
    let replaced = answer.written.iter().filter_map(|&Written { at, token, confidence, .. }| {
        let was = *given.get(at.index()).filter(|was| **was != token)?;
        let Spelling { text: was_text, bytes: was_bytes } = detokenizer.spelling(was);
        let Spelling { text, bytes } = detokenizer.spelling(token);
        let (at, was, token, confidence) = (at.index(), was.0, token.0, confidence.get());
        Some(Replaced { at, was, was_text, was_bytes, token, text, bytes, confidence })
    });
    replaced.collect()
}

/// The difference to the text `given`, as `diff -u` writes it; empty where nothing was changed.
pub(crate) fn diff(given: &[TokenId], answer: &Answer, detokenizer: Detokenizer<'_>) -> String {
    let (before, after) = (detokenizer.text(given), answer.output.text());
    TextDiff::from_lines(before.as_str(), after).unified_diff().header("given", "repaired").to_string()
}
