//! `POST /v1/score`.

use crate::api::answer::{Detokenizer, score::Score};
use crate::api::error::ApiError;
use crate::api::request::{body::read_for_model, context::RequestContext};
use crate::api::state::AppState;
use crate::api::stream::sessions;
use crate::api::wire::score::ScoreRequest;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

/// Judges every token of a text, in one forward pass.
pub(crate) async fn create(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    let (service, body) = read_for_model(&state, request, |body: &ScoreRequest| body.model.as_deref()).await?;
    let (request, below) = body.read()?;
    let answer = sessions::answer(service.submit(request).await?, &context).await?;
    let detokenizer = Detokenizer(service.handle.tokenizer());
    Ok(Json(Score::new(context.id(), &service.name, &answer, below, detokenizer)).into_response())
}
