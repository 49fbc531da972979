//! `POST /tokenize` and `POST /detokenize`, as in vLLM.

use crate::api::answer::server::{Detokenized, Tokenized};
use crate::api::error::{ApiError, ApiResult};
use crate::api::request::body::read_for_model;
use crate::api::state::AppState;
use crate::api::state::services::Service;
use crate::api::state::text_work::BYTES_MAX;
use crate::api::wire::neutral::Screened;
use crate::api::wire::params::missing;
use crate::api::wire::tokenize::{DetokenizeRequest, Given, TokenizeRequest};
use crate::diffusion::TokenId;
use crate::engine::Handle;
use crate::text::{Conversation, Special, Tokenizer};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

/// A request to tokenize: a text's answer, or a conversation that is still to be written. That may
/// take long however short it is, so it is done on another thread.
enum Read {
    Text(Response),
    Chat { conversation: Conversation, with_texts: bool },
}

/// The token ids of a text or a conversation. Names of special tokens in them are ordinary text.
pub(super) async fn tokenize(State(state): State<AppState>, request: Request) -> ApiResult {
    let read = |Screened(body): TokenizeRequest, service: &Service| {
        let tokenizer = tokenizer(&service.handle)?;
        let with_texts = body.return_token_strs == Some(true);
        match body.read()? {
            Given::Text { text, field } => {
                check_bytes(field, "has", text.len())?;
                let tokens = tokenizer.encode(&text, Special::AsText);
                let tokens = tokens.map_err(|error| ApiError::invalid(field, format!("{field}: {error}")))?;
                Ok(Read::Text(tokenized(&service.handle, &tokens, with_texts)?))
            }
            Given::Chat(conversation) => {
                check_bytes("messages", "have", conversation.bytes())?;
                Ok(Read::Chat { conversation, with_texts })
            }
        }
    };
    let (service, read) =
        read_for_model(&state, request, |Screened(body): &TokenizeRequest| body.model.as_deref(), read).await?;
    match read {
        Read::Text(answer) => Ok(answer),
        Read::Chat { conversation, with_texts } => {
            let (handle, weight) = (service.handle.clone(), conversation.weight());
            let encoded = move || tokenized(&handle, &handle.encode_chat(&conversation, BYTES_MAX)?, with_texts);
            state.shared.text_work.run(weight, encoded).await?
        }
    }
}

fn check_bytes(param: &'static str, has: &str, bytes: usize) -> ApiResult<()> {
    if bytes <= BYTES_MAX {
        return Ok(());
    }
    let message = format!("the {param} {has} {bytes} bytes; give at most {BYTES_MAX} at once");
    Err(ApiError::invalid(param, message))
}

fn tokenized(handle: &Handle, tokens: &[TokenId], with_texts: bool) -> ApiResult {
    let tokenizer = tokenizer(handle)?;
    let texts = || tokens.iter().map(|token| tokenizer.piece(*token)).collect();
    let answer = Tokenized {
        count: tokens.len(),
        max_model_len: handle.canvas_max(),
        token_strs: with_texts.then(texts),
        tokens: tokens.iter().map(|token| token.0).collect(),
    };
    Ok(Json(answer).into_response())
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
