//! What operators and orchestrators ask: alive, ready, how busy; and what is said to those who are lost. Refuses to
//! know models.

use super::AppState;
use super::error::{ApiError, Code};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// The media type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What this server is, for whoever opens its address.
pub(super) async fn root() -> Json<Value> {
    Json(json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "endpoints": super::ENDPOINTS,
    }))
}

/// Alive: a process that can answer this will be able to serve.
pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether a new request would be accepted, load aside.
pub(super) async fn ready(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    state.check_ready()?;
    Ok(Json(json!({"status": "ready"})))
}

/// Every metric.
pub(super) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, PROMETHEUS)], state.metrics().render())
}

/// Nothing is served under this path.
pub(super) async fn unknown_path(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(
        Code::UnknownPath,
        format!("there is no {method} {path}; this server knows {}", super::ENDPOINTS.join(", ")),
    )
}

/// The path is served, but not so; the `Allow` header says how.
pub(super) async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(Code::WrongMethod, format!("{path} does not take {method}; the Allow header says what it takes"))
}
