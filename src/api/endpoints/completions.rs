//! `POST /v1/completions`.

use crate::api::answer::{Detokenizer, Shape};
use crate::api::error::ApiResult;
use crate::api::request::body::read_for_model;
use crate::api::request::context::RequestContext;
use crate::api::state::AppState;
use crate::api::state::services::Service;
use crate::api::stream::chunks;
use crate::api::wire::completion::CompletionRequest;
use axum::extract::{Request, State};

/// Continues a prompt, or writes between two texts.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let read = |body: CompletionRequest, service: &Service| {
        body.0.read(|tokens| Detokenizer(service.handle.tokenizer()).text(tokens))
    };
    let (service, params) =
        read_for_model(&state, request, |body: &CompletionRequest| body.0.model.as_deref(), read).await?;
    chunks::respond((&service, &state.shared.text_work), context, params, Shape::Text).await
}
