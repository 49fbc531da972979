//! `POST /v1/chat/completions`.

use crate::api::answer::Shape;
use crate::api::error::ApiResult;
use crate::api::request::body::read_for_model;
use crate::api::request::context::RequestContext;
use crate::api::state::AppState;
use crate::api::stream::chunks;
use crate::api::wire::chat::ChatRequest;
use axum::extract::{Request, State};

/// Answers in a conversation.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, params) =
        read_for_model(&state, request, |body: &ChatRequest| body.0.model.as_deref(), |body, _| body.0.read()).await?;
    chunks::respond((&service, &state.shared.text_work), context, params, Shape::Chat).await
}
