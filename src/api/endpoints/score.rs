//! `POST /v1/score`.

use crate::api::answer::Detokenizer;
use crate::api::answer::score::Score;
use crate::api::error::ApiResult;
use crate::api::request::body::read_for_model;
use crate::api::request::context::RequestContext;
use crate::api::state::AppState;
use crate::api::state::services::Reads;
use crate::api::stream::sessions;
use crate::api::wire::score::ScoreRequest;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::IntoResponse;

/// Judges every token of a text, in one forward pass.
pub(super) async fn create(State(state): State<AppState>, context: RequestContext, request: Request) -> ApiResult {
    let (service, (request, below)) =
        read_for_model(&state, request, |body: &ScoreRequest| body.model.as_deref(), |body, _| body.read()).await?;
    let answer = sessions::answer(service.submit(context.origin(), request, Reads::Answer).await?, &context).await?;
    let (handle, name, tokens) = (service.handle.clone(), service.name.clone(), answer.written.len());
    let write = move || {
        let score = Score::new(context.id(), &name, &answer, below, Detokenizer(handle.tokenizer()));
        Json(score).into_response()
    };
    state.shared.text_work.run(tokens, write).await
}
