//! What operators and orchestrators ask: alive, ready, how busy; and what is said to those who are lost. Refuses to
//! know models.

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::error::Code;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of Prometheus' text format.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Root {
    name: &'static str,
    version: &'static str,
    /// Methods and paths.
    endpoints: &'static [String],
}

/// How it goes, in a word.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    status: &'static str,
}

/// What this server is, for whoever opens its address.
pub(crate) async fn root() -> Json<Root> {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    Json(Root { name, version, endpoints: &crate::api::ENDPOINTS })
}

/// Alive: a process that can answer this will be able to serve.
pub(crate) async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Whether a new request would be accepted, load aside.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Status>, ApiError> {
    state.check_ready()?;
    Ok(Json(Status { status: "ready" }))
}

/// Every metric.
pub(crate) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let metrics = state.metrics();
    metrics.ready(state.check_ready().is_ok());
    ([(CONTENT_TYPE, PROMETHEUS)], metrics.render())
}

/// Nothing is served under this path.
pub(crate) async fn unknown_path(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(
        Code::UnknownPath,
        format!("there is no {method} {path}; this server knows {}", crate::api::ENDPOINTS.join(", ")),
    )
}

/// The path is served, but not so; the `Allow` header says how.
pub(crate) async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(Code::WrongMethod, format!("{path} does not take {method}; the Allow header says what it takes"))
}
