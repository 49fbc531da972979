//! What callers may write, as serde reads it, and what the engine is asked for in their name. Unknown fields are
//! refused with the list of known ones; refuses to judge values, which `engine::admission` does once for everybody.

mod chat;
mod common;
mod completion;
mod diffusion;
pub(crate) mod field;
mod infill;
mod policy;
mod repair;
mod response_format;

pub(crate) use chat::ChatRequest;
pub(crate) use completion::{CompletionRequest, task};
pub(in crate::api) use diffusion::rounds;
pub(crate) use infill::InfillRequest;
pub(crate) use repair::{RepairRequest, ScoreRequest, doubtful, mending};
pub(crate) use response_format::read as response_format;

use crate::api::error::ApiError;
use crate::engine::Request;

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
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
pub(crate) struct Wish {
    /// What the engine is asked for, one request for each choice of the answer.
    pub(crate) requests: Vec<Request>,
    /// Choices for each prompt.
    pub(crate) choices: usize,
    /// How the answer is wanted.
    pub(crate) delivery: Delivery,
    /// Whether each token's logarithm of probability is told.
    pub(crate) logprobs: bool,
    /// What stands before the text of each choice; empty where nothing does.
    pub(crate) echo: Vec<String>,
}

pub(crate) fn missing(param: &'static str, wanted: &str) -> ApiError {
    ApiError::invalid(param, format!("{param} is missing; give {wanted}"))
}

fn needs_stream(param: &'static str) -> ApiError {
    ApiError::invalid(param, format!("{param} goes only with \"stream\": true"))
}
