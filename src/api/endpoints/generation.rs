//! The endpoints that run the model, and those for the requests under way.

use crate::api::stream::{chunks, log, named_events, sessions};
use crate::api::wire::{chat::ChatRequest, infill::InfillRequest, repair::RepairRequest, score::ScoreRequest};
use crate::api::{answer::Detokenizer, answer::Shape, request::body::PathName, request::body::read_for_model};
use crate::api::{answer::infill::Infill, answer::repair::Repair, answer::score::Score, error::ApiResult};
use crate::api::{answer::server::Cancelled, stream::named_events::WriteAnswer, wire::completion::CompletionRequest};
use crate::api::{request::context::RequestContext, request::context::last_event_id, state::AppState};
use crate::diffusion::TokenId;
use axum::{Json, extract::Request, extract::State, response::IntoResponse};
use serde_json::to_string;

/// Continues a prompt, or writes between two texts.
pub(super) async fn complete(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &CompletionRequest| body.model.as_deref()).await?;
    let params = body.read(|tokens| Detokenizer(service.handle.tokenizer()).text(tokens))?;
    chunks::respond(service, context, params, Shape::Text).await
}

/// Answers in a conversation.
pub(super) async fn chat(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &ChatRequest| body.model.as_deref()).await?;
    chunks::respond(service, context, body.read()?, Shape::Chat).await
}

/// Fills the blanks of a template.
pub(super) async fn infill(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    if let Some(last) = last_event_id(&request) {
        return log::resume(&state.shared.stream_logs, last, context.owner());
    }
    let (service, body) = read_for_model(&state, request, |body: &InfillRequest| body.model.as_deref()).await?;
    let (request, delivery) = body.read()?;
    let session = service.submit(request).await?;
    let model = service.name.clone();
    let write: WriteAnswer =
        Box::new(move |id, answer, detokenizer| to_string(&Infill::new(id, &model, answer, detokenizer)));
    named_events::respond(&state, service, context, session, write, delivery).await
}

/// Judges every token of a text, in one forward pass.
pub(super) async fn score(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &ScoreRequest| body.model.as_deref()).await?;
    let (request, below) = body.read()?;
    let answer = sessions::answer(service.submit(request).await?, &context).await?;
    let detokenizer = Detokenizer(service.handle.tokenizer());
    Ok(Json(Score::new(context.id(), &service.name, &answer, below, detokenizer)).into_response())
}

/// Erases the doubtful tokens of a text and writes them again.
pub(super) async fn repair(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    if let Some(last) = last_event_id(&request) {
        return log::resume(&state.shared.stream_logs, last, context.owner());
    }
    let (service, body) = read_for_model(&state, request, |body: &RepairRequest| body.model.as_deref()).await?;
    let (request, delivery) = body.read()?;
    let session = service.submit(request).await?;
    let given: Vec<TokenId> = session.start.cells.iter().filter_map(|cell| cell.token()).collect();
    let model = service.name.clone();
    let write: WriteAnswer =
        Box::new(move |id, answer, detokenizer| to_string(&Repair::new(id, &model, &given, answer, detokenizer)));
    named_events::respond(&state, service, context, session, write, delivery).await
}

/// Reads a stream of named events, from its beginning or after `Last-Event-ID`.
pub(super) async fn resume(
    State(state): State<AppState>,
    context: RequestContext,
    PathName(id): PathName,
    request: Request,
) -> ApiResult {
    let last = last_event_id(&request).filter(|last| last.rsplit_once(':').is_some_and(|(of, _)| of == id));
    log::resume(&state.shared.stream_logs, last.unwrap_or(&id), context.owner())
}

/// Cancels a request before its next forward pass.
pub(super) async fn cancel(
    State(state): State<AppState>,
    context: RequestContext,
    PathName(id): PathName,
) -> ApiResult<Json<Cancelled>> {
    state.shared.cancels.cancel(&id, context.owner())?;
    Ok(Json(Cancelled { id, object: "request", cancelled: true }))
}
