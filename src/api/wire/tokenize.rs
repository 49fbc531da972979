//! The bodies of `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use super::field::Count;
use crate::api::schema;
use serde::{Deserialize, de::IgnoredAny};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct TokenizeRequest {
    /// As `/v1/models` has it; default: the model that is served.
    pub(crate) model: Option<String>,
    /// The text.
    #[schema(required, nullable = false)]
    pub(crate) prompt: Option<String>,
    /// Tell the text of each token as well; default false.
    pub(crate) return_token_strs: Option<bool>,
    /// vLLM's; nothing is ever added here.
    #[serde(rename = "add_special_tokens")]
    #[schema(schema_with = schema::ignored)]
    _add_special_tokens: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct DetokenizeRequest {
    /// As `/v1/models` has it; default: the model that is served.
    pub(crate) model: Option<String>,
    /// Token ids.
    #[schema(schema_with = schema::tokens, required)]
    pub(crate) tokens: Option<Vec<Count>>,
}
