//! What a gRPC caller is told where an HTTP caller gets an error object: the same, as a status. Refuses to pick statuses,
//! which `error.rs` does.

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::grpc::METHODS;
use crate::api::request::context::Ticket;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::error::Error;
use tonic::Status;

/// Whether a request calls itself gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|one| essence.eq_ignore_ascii_case(one))
}

/// Nothing is served under this path of a port that speaks gRPC alone.
pub(crate) async fn no_http(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message =
        format!("there is no {method} {path} on this port, which speaks gRPC; the server's other port speaks HTTP");
    ApiError::new(Code::UnknownPath, message)
}

/// The layer before gRPC's own paths: tonic would take any body for a message.
pub(crate) async fn only_grpc(request: Request, next: Next) -> Response {
    if is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let message = "this path speaks gRPC; send application/grpc over HTTP/2, as a client made of \
                   proto/remask/v1/remask.proto does";
    ApiError::new(Code::UnsupportedMediaType, message).into_response()
}

/// The layer around everything that may refuse: has gRPC callers hear a status, and the outcome counted.
pub(crate) async fn translate(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let ticket = request.extensions().get::<Ticket>().cloned();
    let settle = |status: StatusCode| ticket.iter().for_each(|ticket| ticket.settle(status));
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if let Some(error) = response.extensions().get::<ApiError>() {
        settle(error.status());
        return Status::from(in_grpcs_words(error.clone(), &path)).into_http();
    }
    let Some(status) = response.extensions().get::<Status>() else { return response };
    if let Some(error) = status.source().and_then(|source| source.downcast_ref::<ApiError>()) {
        settle(error.status());
        return response;
    }
    // tonic's own: it could not read the message
    let error = match status.code() {
        tonic::Code::OutOfRange => ApiError::body_too_large(state.body_max()),
        tonic::Code::Internal => {
            ApiError::new(Code::InvalidRequest, format!("the message could not be read: {}", status.message()))
        }
        _ => {
            settle(StatusCode::BAD_REQUEST);
            return response;
        }
    };
    settle(error.status());
    Status::from(error).into_http()
}

/// HTTP's paths are of no help to whoever looks for a method.
fn in_grpcs_words(error: ApiError, path: &str) -> ApiError {
    match error.code() {
        Code::UnknownPath => {
            let message = format!("there is no method {path} here; remask.v1.Remask has {}", METHODS.join(", "));
            ApiError::new(Code::UnknownPath, message)
        }
        _ => error,
    }
}
