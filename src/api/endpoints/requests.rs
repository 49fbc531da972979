//! `GET` and `DELETE /v1/requests/{id}`.

use crate::api::answer::server::{Cancelled, RequestStatus};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::request::body::PathName;
use crate::api::request::context::{RequestContext, last_event_id};
use crate::api::state::AppState;
use crate::api::state::under_way::Work;
use crate::api::stream::log;
use crate::text::quoted;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use std::sync::Arc;

/// Reads a stream of named events, from its beginning or after `Last-Event-ID`. Of any other
/// request it says how far it is.
pub(super) async fn resume(
    State(state): State<AppState>,
    context: RequestContext,
    PathName(id): PathName,
    request: Request,
) -> ApiResult {
    let logs = &state.shared.stream_logs;
    let work = state.shared.under_way.find(&id, context.owner()).ok();
    let (log, last) = (logs.find(&id, context.owner()).ok(), last_event_id(&request));
    // an id may be used again, by a request that is no stream
    let is_of = |work: &Arc<Work>| log.as_ref().is_some_and(|log| last.is_some() || Arc::ptr_eq(&log.asked.work, work));
    match (&last, work) {
        (_, Some(work)) if !is_of(&work) => {
            if last.is_some() {
                let message = format!("the request {} has no events to resume; leave out Last-Event-ID", quoted(&id));
                return Err(ApiError::new(Code::InvalidRequest, message));
            }
            let (created, status) = (work.created, work.progress());
            Ok(Json(RequestStatus { id, object: "request", created, status }).into_response())
        }
        (None, _) => log::from_start(logs, &id, context.owner()),
        (Some(last), _) => log::resume(logs, last, &id, context.owner()),
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
