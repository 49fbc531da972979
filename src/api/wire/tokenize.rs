//! The bodies of `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use super::field::Id;
use crate::api::schema;
use serde::{Deserialize, de::IgnoredAny};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct TokenizeRequest {
    /// A name listed by `/v1/models`; default: the served model.
    pub(crate) model: Option<String>,
    /// The text.
    #[schema(required, nullable = false)]
    pub(crate) prompt: Option<String>,
    /// Also return the text of each token; default false.
    pub(crate) return_token_strs: Option<bool>,
    /// vLLM's; nothing is ever added here.
    #[serde(rename = "add_special_tokens")]
    #[schema(schema_with = schema::ignored)]
    _add_special_tokens: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct DetokenizeRequest {
    /// A name listed by `/v1/models`; default: the served model.
    pub(crate) model: Option<String>,
    /// Token ids.
    #[schema(schema_with = schema::tokens, required)]
    pub(crate) tokens: Option<Vec<Id>>,
}
