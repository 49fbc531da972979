//! `GET` and `DELETE /v1/requests/{id}`.

use crate::api::answer::server::Cancelled;
use crate::api::error::ApiResult;
use crate::api::request::body::PathName;
use crate::api::request::context::{RequestContext, last_event_id};
use crate::api::state::AppState;
use crate::api::stream::log;
use axum::Json;
use axum::extract::{Request, State};

/// Reads a stream of named events, from its beginning or after `Last-Event-ID`.
pub(super) async fn resume(
    State(state): State<AppState>,
    context: RequestContext,
    PathName(id): PathName,
    request: Request,
) -> ApiResult {
    let logs = &state.shared.stream_logs;
    match last_event_id(&request) {
        None => log::from_start(logs, &id, context.owner()),
        Some(last) => log::resume(logs, &last, &id, context.owner()),
    }
}

/// Cancels a request before its next forward pass.
pub(super) async fn cancel(
    State(state): State<AppState>,
    context: RequestContext,
    PathName(id): PathName,
) -> ApiResult<Json<Cancelled>> {
    state.shared.under_way.cancel(&id, context.owner())?;
    Ok(Json(Cancelled { id, object: "request", cancelled: true }))
}
