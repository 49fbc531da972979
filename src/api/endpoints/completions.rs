//! `POST /v1/completions` and `POST /v1/chat/completions`. Refuses to know what an answer looks like.

use crate::api::AppState;
use crate::api::answer::completion;
use crate::api::answer::completion::Shape;
use crate::api::answer::objects::Words;
use crate::api::error::ApiError;
use crate::api::request::body;
use crate::api::request::context::Ticket;
use crate::api::wire::ChatRequest;
use crate::api::wire::CompletionRequest;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

/// Writes on from a prompt, or between two texts.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: CompletionRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let wish = asked.read(|tokens| Words(service.handle.tokenizer()).text(tokens))?;
    completion::respond(service, ticket, wish, Shape::Text).await
}

/// Answers in a conversation.
pub(crate) async fn chat(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: ChatRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    completion::respond(service, ticket, asked.read()?, Shape::Chat).await
}
