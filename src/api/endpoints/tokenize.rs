//! `POST /tokenize` and `POST /detokenize`, as vLLM has them. Refuses to know what tokens are for.

use crate::api::AppState;
use crate::api::Service;
use crate::api::error::ApiError;
use crate::api::request::body;
use crate::api::schema;
use crate::api::wire::field::Count;
use crate::diffusion::TokenId;
use crate::text::{Special, Tokenizer};
use axum::Json;
use axum::extract::{Request, State};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct TokenizeRequest {
    /// As `/v1/models` has it; default: the model that is served.
    model: Option<String>,
    /// The text.
    #[schema(required, nullable = false)]
    prompt: Option<String>,
    /// Tell the text of each token as well; default false.
    return_token_strs: Option<bool>,
    /// vLLM's; nothing is ever added here.
    #[serde(rename = "add_special_tokens")]
    #[schema(schema_with = schema::ignored)]
    _add_special_tokens: Option<IgnoredAny>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    count: usize,
    /// Cells of a canvas at most.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// Null unless it was asked for.
    #[schema(required)]
    token_strs: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct DetokenizeRequest {
    /// As `/v1/models` has it; default: the model that is served.
    model: Option<String>,
    /// Token ids.
    #[schema(schema_with = schema::tokens, required)]
    tokens: Option<Vec<Count>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    prompt: String,
}

/// The ids of a text; special tokens in it stay text.
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<impl Serialize>, ApiError> {
    let service = state.service()?;
    let asked: TokenizeRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let prompt = asked.prompt.ok_or_else(|| ApiError::invalid("prompt", "prompt is missing; give a string"))?;
    let tokenizer = tokenizer(service)?;
    let tokens = tokenizer
        .encode(&prompt, Special::AsText)
        .map_err(|error| ApiError::invalid("prompt", format!("prompt: {error}")))?;
    let texts = || tokens.iter().map(|token| tokenizer.piece(*token)).collect();
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len: service.handle.canvas_max(),
        token_strs: (asked.return_token_strs == Some(true)).then(texts),
        tokens: tokens.iter().map(|token| token.0).collect(),
    }))
}

/// The text of some ids.
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<impl Serialize>, ApiError> {
    let service = state.service()?;
    let asked: DetokenizeRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let missing = || ApiError::invalid("tokens", "tokens is missing; give an array of token ids");
    let tokens: Vec<TokenId> = asked.tokens.ok_or_else(missing)?.into_iter().map(|Count(id)| TokenId(id)).collect();
    Ok(Json(Detokenized { prompt: tokenizer(service)?.decode(&tokens) }))
}

fn tokenizer(service: &Service) -> Result<&Tokenizer, ApiError> {
    let message = "this model was loaded without a tokenizer.json, so its tokens have no texts";
    service.handle.tokenizer().ok_or_else(|| ApiError::invalid("model", message))
}
