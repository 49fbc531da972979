//! The body of `POST /v1/score`, and the text that a repair is given, too: a string or token ids.

use super::field::{Id, fraction, rank};
use super::forms;
use super::params::missing;
use crate::api::error::ApiError;
use crate::api::schema::{self, SchemaRef};
use crate::diffusion::TokenId;
use crate::engine::{DOUBTFUL, Prompt, Request, Task};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;
use std::borrow::Cow;
use utoipa::{PartialSchema, ToSchema};

/// A text to score.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct ScoreRequest {
    /// A name listed by `/v1/models`; default, also where it is empty: the first one there.
    pub(crate) model: Option<String>,
    /// A text, or token ids.
    #[schema(required, nullable = false)]
    text: Option<TextField>,
    /// Tokens of lower quality are listed as doubtful; default 0.5.
    #[serde(default, deserialize_with = "fraction")]
    #[schema(minimum = 0, maximum = 1)]
    below: Option<f32>,
    /// Also return each token's probability given all others: one more row of a pass for each.
    likelihood: Option<bool>,
    /// Requests with a lower number leave the queue first; default 0.
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

#[derive(Debug)]
pub(super) enum TextField {
    Text(String),
    Tokens(Vec<Id>),
}

impl<'de> Deserialize<'de> for TextField {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        forms::field(input, "give a string or an array of token ids", |value| match value {
            Value::Array(items) => forms::list(items, forms::id).map(Self::Tokens),
            one => forms::text(one).map(Self::Text),
        })
    }
}

impl ToSchema for TextField {
    fn name() -> Cow<'static, str> {
        "Text".into()
    }
}

impl PartialSchema for TextField {
    fn schema() -> SchemaRef {
        schema::either([schema::text(1), schema::list(schema::token(), 1, None)])
    }
}

impl TextField {
    /// The text, which must not be missing.
    pub(super) fn read(text: Option<Self>) -> Result<Prompt, ApiError> {
        match text.ok_or_else(|| missing("text", "a string, or an array of token ids"))? {
            Self::Text(text) => Ok(Prompt::Text(text)),
            Self::Tokens(tokens) => Ok(Prompt::Tokens(tokens.into_iter().map(TokenId::from).collect())),
        }
    }
}
