//! `POST /v1/score`.

use crate::api::answer::Detokenizer;
use crate::api::answer::score::Score;
use crate::api::error::ApiResult;
use crate::api::request::body::read_for_model;
use crate::api::request::context::RequestContext;
use crate::api::state::{AppState, Reads};
use crate::api::stream::sessions;
use crate::api::wire::score::ScoreRequest;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::IntoResponse;

/// Judges every token of a text, in one forward pass.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, body) = read_for_model(&state, request, |body: &ScoreRequest| body.model.as_deref()).await?;
    let (request, below) = body.read()?;
    let answer = sessions::answer(service.submit(context.origin(), request, Reads::Answer).await?, &context).await?;
    let detokenizer = Detokenizer(service.handle.tokenizer());
    Ok(Json(Score::new(context.id(), &service.name, &answer, below, detokenizer)).into_response())
}
