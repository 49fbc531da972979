//! Health, readiness and metrics for operators; and the errors of wrong paths and methods.

use crate::api::answer::server::{PROMETHEUS, Root, Status, Version};
use crate::api::error::{ApiError, Code};
use crate::api::state::AppState;
use crate::text::shown;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

pub(crate) fn root(endpoints: &'static [String]) -> Json<Root> {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    Json(Root { name, version, endpoints })
}

/// As in vLLM.
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Liveness: the process works.
pub(crate) async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Readiness: a new request would be admitted, apart from load.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Status>, ApiError> {
    state.check_ready()?;
    Ok(Json(Status { status: "ready" }))
}

pub(crate) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let metrics = &state.shared.metrics;
    metrics.ready(state.check_ready().is_ok());
    ([(CONTENT_TYPE, PROMETHEUS)], metrics.render())
}

/// The error under a path that none of `endpoints` has.
pub(crate) fn unknown_path(request: &Request, endpoints: &[String]) -> ApiError {
    let (method, path) = (request.method(), shown(request.uri().path()));
    let message = format!("there is no {method} {path}; this server knows {}", endpoints.join(", "));
    ApiError::new(Code::UnknownPath, message)
}

/// The error of a method that a path does not have. The `Allow` header has those that it has.
pub(crate) async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), shown(request.uri().path()));
    ApiError::new(Code::WrongMethod, format!("{path} does not take {method}; the Allow header says what it takes"))
}
