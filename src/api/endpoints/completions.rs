//! `POST /v1/completions`.

use crate::api::answer::{Detokenizer, Shape};
use crate::api::error::ApiResult;
use crate::api::request::body::read_for_model;
use crate::api::request::context::RequestContext;
use crate::api::state::AppState;
use crate::api::stream::chunks;
use crate::api::wire::completion::CompletionRequest;
use axum::extract::{Request, State};

/// Continues a prompt, or writes between two texts.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &CompletionRequest| body.0.model.as_deref()).await?;
    let (handle, bytes) = (service.handle.clone(), body.0.echoed_tokens());
    let read = move || body.0.read(|tokens| Detokenizer(handle.tokenizer()).text(tokens));
    let params = state.shared.text_work.run(bytes, read).await??;
    chunks::respond((service, &state.shared.text_work), context, params, Shape::Text).await
}
