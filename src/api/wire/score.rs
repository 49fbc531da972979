//! The body of `POST /v1/score`.

use super::field::{number, rank};
use super::text::TextField;
use crate::api::error::ApiError;
use crate::api::schema;
use crate::engine::{DOUBTFUL, Request, Task};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

/// A text to be judged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct ScoreRequest {
    /// As `/v1/models` has it; default: the model that is served.
    pub(crate) model: Option<String>,
    /// A text, or token ids.
    #[schema(required, nullable = false)]
    text: Option<TextField>,
    /// Tokens of lower quality are listed as doubtful; default 0.5.
    #[serde(default, deserialize_with = "number")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// Also return each token's probability given all others: one more forward pass for each token.
    likelihood: Option<bool>,
    /// Who waits with a lower number is served first; default 0.
    #[serde(default, deserialize_with = "rank")]
    #[schema(schema_with = schema::rank)]
    priority: Option<i32>,
    #[serde(rename = "user")]
    #[schema(schema_with = schema::ignored)]
    _user: Option<IgnoredAny>,
}

impl ScoreRequest {
    /// The request to the engine, and the quality below which a token is doubtful.
    pub(crate) fn read(self) -> Result<(Request, f32), ApiError> {
        let below = threshold(self.below)?;
        let task = Task::Score { text: TextField::read(self.text)?, likelihood: self.likelihood == Some(true) };
        Ok((Request { priority: self.priority.unwrap_or(0), ..Request::new(task) }, below))
    }
}

/// The quality below which a token is doubtful, where a request gives `below`.
pub(crate) fn threshold(below: Option<f32>) -> Result<f32, ApiError> {
    match below.unwrap_or(DOUBTFUL) {
        below if (0.0..=1.0).contains(&below) => Ok(below),
        below => Err(ApiError::invalid("below", format!("below is {below}; give a number from 0 to 1"))),
    }
}
