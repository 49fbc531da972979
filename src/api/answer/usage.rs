//! What an answer cost: tokens, steps, forward passes.

use crate::engine::Answer;
use serde::Serialize;
use utoipa::ToSchema;

/// Tokens, as they are billed elsewhere.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    /// The usage of some answers, `choices` for each prompt. A prompt counts once.
    pub(crate) fn of(answers: &[Answer], choices: usize) -> Self {
        let prompt_tokens = answers.iter().map(|answer| answer.prompt_tokens).sum::<usize>() / choices.max(1);
        let completion_tokens = answers.iter().map(|answer| answer.completion_tokens).sum();
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// What the refinement took.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Refinement {
    steps: u32,
    /// Passes of the model, which may be more than steps.
    forward_passes: u32,
    /// Cells filled, those erased before included.
    filled: u32,
    /// Cells erased.
    erased: u32,
    /// Steps were given up, so that the answer was there in time.
    degraded: bool,
}

impl Refinement {
    /// The most steps of one answer, and the sums of the other counts.
    pub(crate) fn of(answers: &[Answer]) -> Self {
        let sum = |count: fn(&Answer) -> u32| answers.iter().map(count).sum();
        Self {
            steps: answers.iter().map(|answer| answer.steps).max().unwrap_or(0),
            forward_passes: sum(|answer| answer.forward_passes),
            filled: sum(|answer| answer.filled),
            erased: sum(|answer| answer.erased),
            degraded: answers.iter().any(|answer| answer.degraded),
        }
    }
}
