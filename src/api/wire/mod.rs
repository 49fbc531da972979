//! What callers may write, as serde reads it, and what the engine is asked for in their name. Unknown fields are
//! refused with the list of known ones; refuses to judge values, which `engine::admission` does once for everybody.

mod chat;
mod completion;
mod diffusion;
mod format;
mod given;
mod infill;
mod options;
mod policy;

pub(super) use chat::ChatRequest;
pub(super) use completion::{CompletionRequest, task};
pub(super) use diffusion::rounds;
pub(super) use format::read as response_format;
pub(super) use given::{RepairRequest, ScoreRequest, doubtful, mending};
pub(super) use infill::InfillRequest;

use super::error::ApiError;
use crate::engine::Request;

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// As one JSON object.
    Whole,
    /// As server-sent events.
    Stream {
        /// Every step's edits are sent too.
        with_edits: bool,
        /// One more chunk tells the usage.
        with_usage: bool,
    },
}

/// What one body asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    /// What the engine is asked for, one request for each choice of the answer.
    pub(super) requests: Vec<Request>,
    /// Choices for each prompt.
    pub(super) choices: usize,
    /// How the answer is wanted.
    pub(super) delivery: Delivery,
    /// Whether each token's logarithm of probability is told.
    pub(super) logprobs: bool,
    /// What stands before the text of each choice; empty where nothing does.
    pub(super) echo: Vec<String>,
}

pub(super) fn missing(param: &'static str, wanted: &str) -> ApiError {
    ApiError::invalid(param, format!("{param} is missing; give {wanted}"))
}

fn needs_stream(param: &'static str) -> ApiError {
    ApiError::invalid(param, format!("{param} goes only with \"stream\": true"))
}
