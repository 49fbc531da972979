//! `POST /v1/completions`.

use crate::api::answer::{Detokenizer, Shape};
use crate::api::error::ApiError;
use crate::api::request::{body::read_for_model, context::RequestContext};
use crate::api::state::AppState;
use crate::api::stream::chunks;
use crate::api::wire::completion::CompletionRequest;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

/// Continues a prompt, or writes between two texts.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let (service, body) = read_for_model(&state, request, |body: &CompletionRequest| body.model.as_deref()).await?;
    let params = body.read(|tokens| Detokenizer(service.handle.tokenizer()).text(tokens))?;
    chunks::respond(service, context, params, Shape::Text).await
}
