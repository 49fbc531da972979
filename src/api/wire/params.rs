//! What the readers of bodies return, and the errors that they share.

use super::tools::ForcedCall;
use crate::api::error::ApiError;
use crate::api::state::services::Reads;
use crate::engine::{Request, Task};

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

impl Delivery {
    /// What the client of a session reads for it.
    pub(crate) const fn reads(self) -> Reads {
        match self {
            Self::Whole => Reads::Answer,
            Self::Stream { .. } => Reads::Steps,
        }
    }
}

/// What the body of a completion or chat completion asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompletionParams {
    /// The options of all choices, with the seed of the first. Its task is empty.
    pub(crate) request: Request,
    /// One for each prompt.
    pub(crate) tasks: Vec<Task>,
    /// Choices for each prompt.
    pub(crate) choices: usize,
    pub(crate) delivery: Delivery,
    /// Whether the answer has the logprob of each token.
    pub(crate) logprobs: bool,
    /// Whether the answer has the ids of its tokens and of the prompt's.
    pub(crate) token_ids: bool,
    /// The text before the choices of each prompt; empty where nothing is echoed.
    pub(crate) echo: Vec<String>,
    /// The call that the answer must be; `None` for a text.
    pub(crate) call: Option<ForcedCall>,
    /// The field that gave the length of the answer, if it is not `max_tokens`.
    pub(crate) length_field: Option<&'static str>,
    /// The field that gave the format of the answer, if it is not `response_format`.
    pub(crate) format_field: Option<&'static str>,
}

/// An error that speaks of the field `name`, about the one that was given in its place.
pub(crate) fn about(error: ApiError, name: &str, given: Option<&str>) -> ApiError {
    let Some(given) = given.filter(|_| error.message.contains(name)) else { return error };
    let param = error.param.as_deref().map(|param| if param == name { given } else { param }.to_owned());
    let message = error.message.replace(name, given);
    ApiError { message, ..error }.at(param)
}

pub(crate) fn missing(param: &'static str, wanted: &str) -> ApiError {
    ApiError::invalid(param, format!("{param} is missing; give {wanted}"))
}

/// The error of a field that is given without a stream.
pub(crate) fn needs_stream(param: &'static str) -> ApiError {
    ApiError::invalid(param, format!("{param} goes only with \"stream\": true"))
}
