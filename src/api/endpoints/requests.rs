//! `/v1/requests/{id}`: a request under way, by its name: read on, or stopped. Refuses to know what was asked.

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::request::context::Ticket;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

/// The event after which a stream is to be read on, if the caller lost one.
pub(crate) fn last_event(request: &Request) -> Option<&str> {
    request.headers().get("last-event-id")?.to_str().ok().filter(|id| !id.is_empty())
}

/// A request's name in a path.
type Name = Result<Path<String>, PathRejection>;

/// What is not UTF-8 is nobody's name.
fn name(name: Name) -> String {
    name.map_or_else(|_| "\u{fffd}".to_owned(), |Path(name)| name)
}

/// A named stream, from its beginning or behind `Last-Event-ID`.
pub(crate) async fn read(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    id: Name,
    request: Request,
) -> Result<Response, ApiError> {
    let id = name(id);
    let last = last_event(&request).filter(|last| last.rsplit_once(':').is_some_and(|(of, _)| of == id));
    state.requests().resume(last.unwrap_or(&id), ticket.owner())
}

/// A request that stops.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cancelled {
    id: String,
    object: &'static str,
    cancelled: bool,
}

/// Stops a request before its next forward pass.
pub(crate) async fn cancel(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    id: Name,
) -> Result<Json<impl Serialize>, ApiError> {
    let id = name(id);
    state.requests().cancel(&id, ticket.owner())?;
    Ok(Json(Cancelled { id, object: "request", cancelled: true }))
}
