//! `POST /tokenize` and `POST /detokenize`, as in vLLM.

use crate::api::answer::server::{Detokenized, Tokenized};
use crate::api::error::{ApiError, ApiResult};
use crate::api::request::body::read_for_model;
use crate::api::state::{AppState, Service};
use crate::api::wire::params::missing;
use crate::api::wire::tokenize::{DetokenizeRequest, TokenizeRequest};
use crate::diffusion::TokenId;
use crate::text::{Special, Tokenizer};
use axum::Json;
use axum::extract::{Request, State};

/// The token ids of a text. Names of special tokens in it are ordinary text.
pub(super) async fn tokenize(State(state): State<AppState>, request: Request) -> ApiResult<Json<Tokenized>> {
    let (service, body) = read_for_model(&state, request, |body: &TokenizeRequest| body.model.as_deref()).await?;
    let prompt = body.prompt.ok_or_else(|| missing("prompt", "a string"))?;
    let tokenizer = tokenizer(service)?;
    let tokens = tokenizer.encode(&prompt, Special::AsText);
    let tokens = tokens.map_err(|error| ApiError::invalid("prompt", format!("prompt: {error}")))?;
    let texts = || tokens.iter().map(|token| tokenizer.piece(*token)).collect();
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len: service.handle.canvas_max(),
        token_strs: (body.return_token_strs == Some(true)).then(texts),
        tokens: tokens.iter().map(|token| token.0).collect(),
    }))
}

pub(super) async fn detokenize(State(state): State<AppState>, request: Request) -> ApiResult<Json<Detokenized>> {
    let (service, body) = read_for_model(&state, request, |body: &DetokenizeRequest| body.model.as_deref()).await?;
    let tokens = body.tokens.ok_or_else(|| missing("tokens", "an array of token ids"))?;
    let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId::from).collect();
    Ok(Json(Detokenized { prompt: tokenizer(service)?.decode(&tokens) }))
}

fn tokenizer(service: &Service) -> ApiResult<&Tokenizer> {
    let message = "this model was loaded without a tokenizer.json, so its tokens have no texts";
    service.handle.tokenizer().ok_or_else(|| ApiError::invalid("model", message))
}
