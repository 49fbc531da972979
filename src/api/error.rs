//! Errors as OpenAI's error object, and one table with the HTTP and gRPC status of every error.

use crate::api::schema;
use crate::engine::{Failure, Rejected};
use crate::text::without_middle;
use Code as C;
use StatusCode as S;
use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::any::Any;
use std::collections::BTreeSet;
use tonic::Code as G;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// Seconds until a retry while the server is loading, or its successor is starting.
const RETRY_LATER: u64 = 5;

/// Seconds until a retry when an API key has too many requests under way.
const RETRY_SOON: u64 = 1;

/// Most characters of a message. The values in it are cut before, by
/// [`shown`](crate::text::shown); this holds if one is not.
const MESSAGE_MAX: usize = 640;

/// Most characters of the path of a field.
const PATH_MAX: usize = 160;

/// nginx's status for a request whose client wants no answer any more.
pub(crate) const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// The kinds of errors that a client can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The body or one of its fields is at fault.
    InvalidRequest,
    /// The prompt, or the prompt and what is to be written, does not fit on a canvas.
    ContextLength,
    NoKey,
    /// The API key has as many requests under way as it may.
    KeyFull,
    UnknownPath,
    ModelNotFound,
    /// No request with this id is under way or kept.
    UnknownRequest,
    /// A request with this id is under way.
    IdInUse,
    /// One Idempotency-Key came with two different requests.
    KeyReused,
    WrongMethod,
    /// The body did not arrive in time.
    BodyTooSlow,
    BodyTooLarge,
    /// As many long bodies are being received as there is memory for.
    BodiesFull,
    UnsupportedMediaType,
    QueueFull,
    ModelFailure,
    /// There is no place for another connection.
    NoPlace,
    /// The request's deadline passed before its first step.
    TooLate,
    /// The request reached the server's time limit.
    TimedOut,
    Cancelled,
    Internal,
    Loading,
    ModelFailing,
    /// The server shut down before the answer was complete.
    ShutDown,
    Draining,
}

pub(crate) struct Statuses {
    row_of: Code,
    status: StatusCode,
    pub(crate) grpc: tonic::Code,
    kind: &'static str,
    pub(crate) code: Option<&'static str>,
}

const USER: &str = "invalid_request_error";
const SERVER: &str = "server_error";
const LIMIT: &str = "rate_limit_error";

/// The table, in the order of the codes. No other place chooses a status.
const TABLE: &[Statuses; Code::Draining as usize + 1] = &[
    row(C::InvalidRequest, S::BAD_REQUEST, G::InvalidArgument, USER, None),
    row(C::ContextLength, S::BAD_REQUEST, G::InvalidArgument, USER, Some("context_length_exceeded")),
    row(C::NoKey, S::UNAUTHORIZED, G::Unauthenticated, USER, Some("invalid_api_key")),
    row(C::KeyFull, S::TOO_MANY_REQUESTS, G::ResourceExhausted, LIMIT, Some("key_limit")),
    row(C::UnknownPath, S::NOT_FOUND, G::Unimplemented, USER, Some("unknown_url")),
    row(C::ModelNotFound, S::NOT_FOUND, G::NotFound, USER, Some("model_not_found")),
    row(C::UnknownRequest, S::NOT_FOUND, G::NotFound, USER, Some("request_not_found")),
    row(C::IdInUse, S::CONFLICT, G::AlreadyExists, USER, Some("request_id_in_use")),
    row(C::KeyReused, S::UNPROCESSABLE_ENTITY, G::FailedPrecondition, USER, Some("idempotency_key_reused")),
    row(C::WrongMethod, S::METHOD_NOT_ALLOWED, G::Unimplemented, USER, Some("method_not_supported")),
    row(C::BodyTooSlow, S::REQUEST_TIMEOUT, G::DeadlineExceeded, USER, Some("body_timeout")),
    // as gRPC's libraries in C, Go and Java answer; tonic would say OUT_OF_RANGE
    row(C::BodyTooLarge, S::PAYLOAD_TOO_LARGE, G::ResourceExhausted, USER, Some("body_too_large")),
    row(C::BodiesFull, S::SERVICE_UNAVAILABLE, G::Unavailable, LIMIT, Some("bodies_full")),
    row(C::UnsupportedMediaType, S::UNSUPPORTED_MEDIA_TYPE, G::Unimplemented, USER, Some("unsupported_media_type")),
    row(C::QueueFull, S::TOO_MANY_REQUESTS, G::ResourceExhausted, LIMIT, Some("queue_full")),
    row(C::ModelFailure, S::INTERNAL_SERVER_ERROR, G::Internal, SERVER, Some("model_failure")),
    row(C::NoPlace, S::SERVICE_UNAVAILABLE, G::Unavailable, LIMIT, Some("connection_limit")),
    row(C::TooLate, S::GATEWAY_TIMEOUT, G::DeadlineExceeded, SERVER, Some("deadline_exceeded")),
    row(C::TimedOut, S::GATEWAY_TIMEOUT, G::DeadlineExceeded, SERVER, Some("timeout")),
    row(C::Cancelled, CLIENT_CLOSED_REQUEST, G::Cancelled, USER, Some("cancelled")),
    row(C::Internal, S::INTERNAL_SERVER_ERROR, G::Internal, SERVER, Some("internal_error")),
    row(C::Loading, S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("loading")),
    row(C::ModelFailing, S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("model_failing")),
    row(C::ShutDown, S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("draining")),
    row(C::Draining, S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("draining")),
];

const fn row(row_of: C, status: S, grpc: G, kind: &'static str, code: Option<&'static str>) -> Statuses {
    Statuses { row_of, status, grpc, kind, code }
}

const _: () = {
    let mut index = 0;
    while index < TABLE.len() {
        assert!(TABLE[index].row_of as usize == index);
        index += 1;
    }
};

impl Code {
    pub(crate) fn statuses(self) -> &'static Statuses {
        &TABLE[self as usize]
    }

    /// Seconds until a retry makes sense, unless the engine measures a better value.
    fn retry_after(self) -> Option<u64> {
        match (self, self.statuses().status) {
            (Self::KeyFull, _) => Some(RETRY_SOON),
            (_, StatusCode::SERVICE_UNAVAILABLE) => Some(RETRY_LATER),
            _ => None,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// The invalid field, as a path such as `diffusion.steps`.
    pub(crate) param: Option<String>,
    /// Seconds until a retry makes sense.
    pub(crate) retry_after: Option<u64>,
}

/// A response, or what else a handler returns, or an error.
pub(crate) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = without_middle(message.into(), MESSAGE_MAX);
        Self { code, message, param: None, retry_after: code.retry_after() }
    }

    /// An error of the field `param`, given as a path such as `diffusion.steps`.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message).at(Some(param.into()))
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes, the limit"))
    }

    pub(crate) fn at(self, param: Option<String>) -> Self {
        Self { param: param.map(Self::path), ..self }
    }

    /// The path of a field, of which an error repeats so much: a key of the caller's may be long.
    pub(crate) fn path(path: String) -> String {
        without_middle(path, PATH_MAX)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.code.statuses().status
    }

    /// OpenAI's error object, for answers outside the router.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&self.body(None)).unwrap_or_default()
    }

    /// OpenAI's error object, with the request's id where it is known.
    pub(crate) fn body<'a>(&'a self, request_id: Option<&'a str>) -> impl Serialize + 'a {
        let &Statuses { kind, code, .. } = self.code.statuses();
        let error = ErrorObject { message: &self.message, kind, param: self.param.as_deref(), code };
        ErrorBody { error, request_id }
    }
}

/// OpenAI's error object.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    #[schema(inline)]
    error: ErrorObject<'a>,
    /// The id in the header `X-Request-Id` and in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct ErrorObject<'a> {
    /// What was given, what is allowed, how to fix it.
    message: &'a str,
    #[serde(rename = "type")]
    #[schema(schema_with = kinds)]
    kind: &'static str,
    /// The invalid field, as a path such as `diffusion.steps`.
    #[schema(required)]
    param: Option<&'a str>,
    #[schema(schema_with = codes, required)]
    code: Option<&'static str>,
}

fn kinds() -> RefOr<Schema> {
    schema::words(TABLE.iter().map(|row| row.kind).collect::<BTreeSet<_>>())
}

fn codes() -> RefOr<Schema> {
    let codes = schema::words(codes_where(|_| true));
    schema::either_or_null([codes], "Distinguishes errors of the same status.")
}

pub(crate) fn codes_of(status: StatusCode) -> Vec<&'static str> {
    codes_where(|row| row.status == status)
}

/// The codes of some rows, each once.
fn codes_where(matches: impl Fn(&Statuses) -> bool) -> Vec<&'static str> {
    let mut codes: Vec<_> = TABLE.iter().filter(|row| matches(row)).filter_map(|row| row.code).collect();
    codes.dedup();
    codes
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body(None))).into_response();
        if self.code == Code::NoKey {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self); // gRPC's layer reads it there
        response
    }
}

/// The same response, with the request's id beside the error if it is an error in JSON.
pub(crate) fn with_request_id(response: Response, request_id: &str) -> Response {
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    match response.extensions().get::<ApiError>().filter(|_| is_json).cloned() {
        None => response,
        Some(error) => {
            let (parts, _) = response.into_parts();
            (parts, Json(error.body(Some(request_id)))).into_response()
        }
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let message = rejected.to_string();
        match rejected {
            Rejected::Invalid { param, .. } => Self::invalid(param, message),
            Rejected::TooLong { param, .. } => Self::new(Code::ContextLength, message).at(Some(param.into_owned())),
            Rejected::Full { retry_after, .. } => {
                Self { retry_after: Some(retry_after), ..Self::new(Code::QueueFull, message) }
            }
            Rejected::Draining => Self::new(Code::Draining, message),
            Rejected::GivenUp => Self::new(Code::ModelFailing, message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let code = match failure {
            Failure::Model(_) => Code::ModelFailure,
            Failure::TooLate { .. } => Code::TooLate,
            Failure::BrokeDown => Code::Internal,
            Failure::ShutDown => Code::ShutDown,
        };
        Self::new(code, failure.to_string())
    }
}

/// The answer to a request whose handler panicked. The log has the panic.
#[allow(clippy::needless_pass_by_value)] // the signature tower-http calls
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(Code::Internal, "the server made a mistake in answering this request; its log says more")
        .into_response()
}
