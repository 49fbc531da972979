//! `GET /v1/requests/{id}` and `DELETE /v1/requests/{id}`.

use crate::api::answer::server::Cancelled;
use crate::api::error::ApiError;
use crate::api::request::{context::RequestContext, context::last_event_id, path, path::PathName};
use crate::api::state::AppState;
use crate::api::stream::log;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use serde::Serialize;

/// Reads a stream of named events, from its beginning or after `Last-Event-ID`.
pub(crate) async fn resume(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    id: PathName,
    request: Request,
) -> Result<Response, ApiError> {
    let id = path::name(id);
    let last = last_event_id(&request).filter(|last| last.rsplit_once(':').is_some_and(|(of, _)| of == id));
    log::resume(&state.shared.stream_logs, last.unwrap_or(&id), context.owner())
}

/// Cancels a request before its next forward pass.
pub(crate) async fn cancel(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    id: PathName,
) -> Result<Json<impl Serialize>, ApiError> {
    let id = path::name(id);
    state.shared.cancels.cancel(&id, context.owner())?;
    Ok(Json(Cancelled { id, object: "request", cancelled: true }))
}
