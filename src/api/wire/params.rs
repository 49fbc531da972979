//! What the readers of bodies return, and the errors that they share.

use crate::api::error::ApiError;
use crate::engine::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As one JSON object.
    Whole,
    /// As server-sent events.
    Stream {
        /// Send the edits of every step, too.
        with_edits: bool,
        /// Send one more chunk with the usage.
        with_usage: bool,
    },
}

/// What the body of a completion or chat completion asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompletionParams {
    /// One request to the engine for each choice.
    pub(crate) requests: Vec<Request>,
    pub(crate) choices: usize,
    pub(crate) delivery: Delivery,
    /// Whether the answer has the logprob of each token.
    pub(crate) logprobs: bool,
    /// The text before each choice; empty where nothing is echoed.
    pub(crate) echo: Vec<String>,
}

pub(crate) fn missing(param: &'static str, wanted: &str) -> ApiError {
    ApiError::invalid(param, format!("{param} is missing; give {wanted}"))
}

/// The error of a field that is given without a stream.
pub(crate) fn needs_stream(param: &'static str) -> ApiError {
    ApiError::invalid(param, format!("{param} goes only with \"stream\": true"))
}
