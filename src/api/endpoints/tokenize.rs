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
    let tokenized = |body: TokenizeRequest, service: &Service| {
        let prompt = body.prompt.ok_or_else(|| missing("prompt", "a string"))?;
        let (bytes, bytes_max) = (prompt.len(), text_work::BYTES_MAX);
        if bytes > bytes_max {
            let message =
                format!("the prompt has {bytes} bytes; give at most {bytes_max} at once, and the rest in parts");
            return Err(ApiError::invalid("prompt", message));
        }
        let tokenizer = tokenizer(&service.handle)?;
        let tokens = tokenizer.encode(&prompt, Special::AsText);
        let tokens = tokens.map_err(|error| ApiError::invalid("prompt", format!("prompt: {error}")))?;
        let texts = || tokens.iter().map(|token| tokenizer.piece(*token)).collect();
        let answer = Tokenized {
            count: tokens.len(),
            max_model_len: service.handle.canvas_max(),
            token_strs: (body.return_token_strs == Some(true)).then(texts),
            tokens: tokens.iter().map(|token| token.0).collect(),
        };
        Ok(Json(answer).into_response())
    };
    Ok(read_for_model(&state, request, |body: &TokenizeRequest| body.model.as_deref(), tokenized).await?.1)
}

/// The text of some token ids.
pub(super) async fn detokenize(State(state): State<AppState>, request: Request) -> ApiResult {
    let detokenized = |body: DetokenizeRequest, service: &Service| {
        let tokens = body.tokens.ok_or_else(|| missing("tokens", "an array of token ids"))?;
        let tokenizer = tokenizer(&service.handle)?;
        let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId::from).collect();
        check_known(tokenizer, &tokens)?;
        Ok(Json(Detokenized { prompt: tokenizer.decode(&tokens) }).into_response())
    };
    Ok(read_for_model(&state, request, |body: &DetokenizeRequest| body.model.as_deref(), detokenized).await?.1)
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

fn tokenizer(handle: &Handle) -> ApiResult<&Tokenizer> {
    let message = "this model was loaded without a tokenizer.json, so its tokens have no texts";
    handle.tokenizer().ok_or_else(|| ApiError::invalid("model", message))
}
