//! `POST /v1/completions` and `POST /v1/chat/completions`. Refuses to know what an answer looks like.

use super::answer::Words;
use super::error::ApiError;
use super::openai::{self, Shape};
use super::ticket::Ticket;
use super::wire::{ChatRequest, CompletionRequest};
use super::{AppState, body};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;

/// Writes on from a prompt, or between two texts.
pub(super) async fn create(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: CompletionRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let wish = asked.read(|tokens| Words(service.handle.tokenizer()).text(tokens))?;
    openai::respond(service, ticket, wish, Shape::Text).await
}

/// Answers in a conversation.
pub(super) async fn chat(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: ChatRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    openai::respond(service, ticket, asked.read()?, Shape::Chat).await
}
