//! A given text: a string or token ids.

use super::field::Count;
use super::params::missing;
use crate::api::error::ApiError;
use crate::api::schema::{self, SchemaRef};
use crate::diffusion::TokenId;
use crate::engine::Prompt;
use serde::Deserialize;
use utoipa::{PartialSchema, ToSchema};

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "give a string or an array of token ids")]
pub(super) enum TextField {
    Text(String),
    Tokens(Vec<Count>),
}

impl ToSchema for TextField {
    fn name() -> std::borrow::Cow<'static, str> {
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
