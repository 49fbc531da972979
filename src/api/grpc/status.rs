//! Errors as gRPC statuses, with the messages that HTTP clients get.

use super::names::renamed;
use super::proto::METHODS;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::protocol::Protocol;
use crate::api::request::connections::{SlowBody, is_slow_body};
use crate::api::request::context::RequestContext;
use crate::api::request::room::NoRoom;
use crate::api::state::AppState;
use crate::text::shown;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::middleware::Next;
use axum::response::Response;
use std::error::Error;
use std::sync::Arc;
use tonic::Status;

/// The names of fields are the protocol's. The metadata has what the error object has beside its
/// message.
impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let error = renamed(error);
        let statuses = error.code.statuses();
        let metadata = [
            ("remask-param", error.param.clone()),
            ("remask-code", statuses.code.map(str::to_owned)),
            (RETRY_AFTER.as_str(), error.retry_after.map(|seconds| seconds.to_string())),
            // gRPC's libraries obey this one by themselves
            ("grpc-retry-pushback-ms", error.retry_after.map(|seconds| seconds.saturating_mul(1000).to_string())),
        ];
        let mut status = Self::new(statuses.grpc, &error.message);
        for (key, value) in metadata {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                status.metadata_mut().insert(key, value);
            }
        }
        status.set_source(Arc::new(error));
        status
    }
}

/// The error of an HTTP request on a port for gRPC only.
pub(crate) async fn no_http(request: Request) -> ApiError {
    let (method, path) = (request.method(), shown(request.uri().path()));
    let ports = "on this port, which speaks gRPC; the server's other port speaks HTTP";
    ApiError::new(Code::UnknownPath, format!("there is no {method} {path} {ports}"))
}

/// The layer around gRPC's paths that rejects other requests. tonic would decode any body.
pub(super) async fn only_grpc(context: RequestContext, request: Request, next: Next) -> ApiResult {
    if context.protocol() == Protocol::Grpc {
        return Ok(next.run(request).await);
    }
    let message = "this path speaks gRPC; send application/grpc over HTTP/2, as a client made of \
                   proto/remask/v1/remask.proto does";
    Err(ApiError::new(Code::UnsupportedMediaType, message))
}

/// The layer that turns errors into statuses for gRPC clients, and sets the request's outcome.
pub(crate) async fn translate(
    State(state): State<AppState>,
    context: RequestContext,
    request: Request,
    next: Next,
) -> Response {
    if context.protocol() == Protocol::Http {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if let Some(error) = response.extensions().get::<ApiError>() {
        context.set_error(error);
        let mut error = error.clone();
        if error.code == Code::UnknownPath {
            // lists gRPC's methods instead of HTTP's paths
            error.message =
                format!("there is no method {} here; remask.v1.Remask has {}", shown(&path), METHODS.join(", "));
        }
        return Status::from(error).into_http();
    }
    let Some(status) = response.extensions().get::<Status>() else { return response };
    if let Some(error) = status.source().and_then(|source| source.downcast_ref::<ApiError>()) {
        context.set_error(error);
        return response;
    }
    // an error of tonic's own: it could not decode the message
    let error = match (status.code(), NoRoom::of(status)) {
        (_, Some(error)) => error,
        _ if is_slow_body(status) => ApiError::new(Code::BodyTooSlow, SlowBody.to_string()),
        (tonic::Code::OutOfRange, None) => ApiError::body_too_large(state.shared.body_max),
        (tonic::Code::Internal, None) => {
            ApiError::new(Code::InvalidRequest, format!("the message could not be read: {}", status.message()))
        }
        _ => {
            context.set_outcome(StatusCode::BAD_REQUEST);
            return response;
        }
    };
    context.set_error(&error);
    Status::from(error).into_http()
}
