//! `POST /v1/chat/completions`.

use crate::api::answer::Shape;
use crate::api::error::ApiError;
use crate::api::request::{body::read_for_model, context::RequestContext};
use crate::api::state::AppState;
use crate::api::stream::chunks;
use crate::api::wire::chat::ChatRequest;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

/// Answers in a conversation.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let (service, body) = read_for_model(&state, request, |body: &ChatRequest| body.model.as_deref()).await?;
    chunks::respond(service, context, body.read()?, Shape::Chat).await
}
