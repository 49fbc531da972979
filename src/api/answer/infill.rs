//! The answer of `POST /v1/infill`.

use super::Detokenizer;
use super::objects::{FinishReason, Quality, Refinement, Usage};
use crate::engine::{Answer, Output};
use serde::Serialize;
use utoipa::ToSchema;

/// The answer of an infill.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Infill<'a> {
    id: String,
    /// Always `infill`.
    object: &'static str,
    model: &'a str,
    choices: [Choice<'a>; 1],
    usage: Usage,
    diffusion: Refinement,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfillChoice)]
struct Choice<'a> {
    index: usize,
    /// The whole template.
    text: &'a str,
    /// The filling of each gap; adjacent blanks are one gap.
    gaps: &'a [String],
    #[schema(inline)]
    finish_reason: FinishReason,
    /// Only if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

impl<'a> Infill<'a> {
    pub(crate) fn new(id: &str, model: &'a str, answer: &'a Answer, detokenizer: Detokenizer<'_>) -> Self {
        let (text, gaps) = match &answer.output {
            Output::Infill { text, gaps } => (text, gaps.as_slice()),
            Output::Continuation(text) | Output::Revision(text) => (text, [].as_slice()),
        };
        let quality = Quality::of(answer, detokenizer);
        Self {
            id: format!("infill-{id}"),
            object: "infill",
            model,
            choices: [Choice { index: 0, text, gaps, finish_reason: answer.finish.into(), quality }],
            usage: Usage::of(std::slice::from_ref(answer), 1),
            diffusion: Refinement::of(std::slice::from_ref(answer)),
        }
    }
}
