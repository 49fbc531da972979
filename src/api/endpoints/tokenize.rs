//! `POST /tokenize` and `POST /detokenize`, as in vLLM.

use crate::api::answer::server::{Detokenized, Tokenized};
use crate::api::error::{ApiError, ApiResult};
use crate::api::request::body::read_for_model;
use crate::api::state::{AppState, Service, text_work};
use crate::api::wire::params::missing;
use crate::api::wire::tokenize::{DetokenizeRequest, TokenizeRequest};
use crate::diffusion::TokenId;
use crate::engine::Handle;
use crate::text::{Special, Tokenizer};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::IntoResponse;

/// The token ids of a text. Names of special tokens in it are ordinary text.
pub(super) async fn tokenize(State(state): State<AppState>, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &TokenizeRequest| body.model.as_deref()).await?;
    let prompt = body.prompt.ok_or_else(|| missing("prompt", "a string"))?;
    let (bytes, bytes_max) = (prompt.len(), text_work::BYTES_MAX);
    if bytes > bytes_max {
        let message = format!("the prompt has {bytes} bytes; give at most {bytes_max} at once, and the rest in parts");
        return Err(ApiError::invalid("prompt", message));
    }
    let (handle, with_texts) = (handle(service)?, body.return_token_strs == Some(true));
    let tokenized = move || {
        let tokenizer = tokenizer(&handle)?;
        let tokens = tokenizer.encode(&prompt, Special::AsText);
        let tokens = tokens.map_err(|error| ApiError::invalid("prompt", format!("prompt: {error}")))?;
        let texts = || tokens.iter().map(|token| tokenizer.piece(*token)).collect();
        let answer = Tokenized {
            count: tokens.len(),
            max_model_len: handle.canvas_max(),
            token_strs: with_texts.then(texts),
            tokens: tokens.iter().map(|token| token.0).collect(),
        };
        Ok(Json(answer).into_response())
    };
    state.shared.text_work.run(bytes, tokenized).await?
}

/// The text of some token ids.
pub(super) async fn detokenize(State(state): State<AppState>, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &DetokenizeRequest| body.model.as_deref()).await?;
    let tokens = body.tokens.ok_or_else(|| missing("tokens", "an array of token ids"))?;
    let (handle, count) = (handle(service)?, tokens.len());
    let detokenized = move || {
        let (tokenizer, tokens) = (tokenizer(&handle)?, tokens.into_iter().map(TokenId::from).collect::<Vec<_>>());
        check_known(tokenizer, &tokens)?;
        Ok(Json(Detokenized { prompt: tokenizer.decode(&tokens) }).into_response())
    };
    state.shared.text_work.run(count, detokenized).await?
}

/// Refuses ids that are no tokens: decoding would leave them out.
fn check_known(tokenizer: &Tokenizer, tokens: &[TokenId]) -> ApiResult<()> {
    let unknown = tokens.iter().enumerate().find(|(_, token)| !tokenizer.has_token(**token));
    let Some((at, TokenId(id))) = unknown else { return Ok(()) };
    let allowed = match tokenizer.ids_end() {
        end if *id < end => "the vocabulary has no token with this id; leave it out".to_owned(),
        end => format!("ids are below {end}"),
    };
    Err(ApiError::invalid("tokens", format!("token {at} of the tokens is {id}; {allowed}")))
}

/// Access to a model that has a tokenizer.
fn handle(service: &Service) -> ApiResult<Handle> {
    tokenizer(&service.handle).map(|_| service.handle.clone())
}

fn tokenizer(handle: &Handle) -> ApiResult<&Tokenizer> {
    let message = "this model was loaded without a tokenizer.json, so its tokens have no texts";
    handle.tokenizer().ok_or_else(|| ApiError::invalid("model", message))
}
