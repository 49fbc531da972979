//! Answers of the endpoints that do not run the model.

use serde::Serialize;
use utoipa::ToSchema;

/// The media type of Prometheus' text format.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Root {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Methods and paths.
    pub(crate) endpoints: &'static [String],
}

/// How it goes, in a word.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    pub(crate) status: &'static str,
}

/// A request that stops.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancelled {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) cancelled: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    pub(crate) count: usize,
    /// Cells of a canvas at most.
    pub(crate) max_model_len: usize,
    pub(crate) tokens: Vec<u32>,
    /// Null unless it was asked for.
    #[schema(required)]
    pub(crate) token_strs: Option<Vec<String>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    pub(crate) prompt: String,
}
