//! What a caller is told when a request has no answer: OpenAI's error object or a gRPC status, with one table from code
//! to both.
//! Refuses to decide whether something is an error.

use crate::api::schema;
use crate::engine::{Failure, Rejected};
use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// Seconds after which asking again makes sense while the server is loading, or its successor is starting.
const RETRY_LATER: u64 = 5;

/// Seconds after which one of a key's own requests may have ended.
const RETRY_SOON: u64 = 1;

/// nginx's status for a request whose client has no more use for an answer.
pub(crate) const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// What went wrong, as programs tell cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The body or one of its fields is at fault.
    InvalidRequest,
    /// No API key, or none of ours.
    NoKey,
    /// The API key has as much under way as it may.
    KeyFull,
    UnknownPath,
    ModelNotFound,
    /// None of that name is under way or kept.
    UnknownRequest,
    /// An Idempotency-Key came with two requests.
    KeyReused,
    WrongMethod,
    BodyTooLarge,
    UnsupportedMediaType,
    QueueFull,
    ModelFailure,
    /// The deadline came first.
    TooLate,
    /// It took as long as any may.
    TimedOut,
    /// Its owner had it stopped.
    Cancelled,
    /// A bug of the server's.
    Internal,
    Loading,
    /// The last forward passes all failed.
    ModelFailing,
    Draining,
}

/// A row of the table.
struct Row {
    status: StatusCode,
    grpc: tonic::Code,
    kind: &'static str,
    code: Option<&'static str>,
}

impl Code {
    /// All of them; [`Self::Draining`] is the last.
    const ALL: [Self; Self::Draining as usize + 1] = [
        Self::InvalidRequest,
        Self::NoKey,
        Self::KeyFull,
        Self::UnknownPath,
        Self::ModelNotFound,
        Self::UnknownRequest,
        Self::KeyReused,
        Self::WrongMethod,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::QueueFull,
        Self::ModelFailure,
        Self::TooLate,
        Self::TimedOut,
        Self::Cancelled,
        Self::Internal,
        Self::Loading,
        Self::ModelFailing,
        Self::Draining,
    ];

    /// The one place where statuses are picked.
    const fn row(self) -> Row {
        use StatusCode as S;
        use tonic::Code as G;
        const USER: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        const LIMIT: &str = "rate_limit_error";
        let (status, grpc, kind, code) = match self {
            Self::InvalidRequest => (S::BAD_REQUEST, G::InvalidArgument, USER, None),
            Self::NoKey => (S::UNAUTHORIZED, G::Unauthenticated, USER, Some("invalid_api_key")),
            Self::KeyFull => (S::TOO_MANY_REQUESTS, G::ResourceExhausted, LIMIT, Some("key_limit")),
            Self::UnknownPath => (S::NOT_FOUND, G::Unimplemented, USER, Some("unknown_url")),
            Self::ModelNotFound => (S::NOT_FOUND, G::NotFound, USER, Some("model_not_found")),
            Self::UnknownRequest => (S::NOT_FOUND, G::NotFound, USER, Some("request_not_found")),
            Self::KeyReused => (S::UNPROCESSABLE_ENTITY, G::FailedPrecondition, USER, Some("idempotency_key_reused")),
            Self::WrongMethod => (S::METHOD_NOT_ALLOWED, G::Unimplemented, USER, Some("method_not_supported")),
            // what gRPC's own libraries in C, Go and Java answer; OUT_OF_RANGE is tonic's alone
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, G::ResourceExhausted, USER, Some("body_too_large")),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, G::Unimplemented, USER, Some("unsupported_media_type"))
            }
            Self::QueueFull => (S::TOO_MANY_REQUESTS, G::ResourceExhausted, LIMIT, Some("queue_full")),
            Self::ModelFailure => (S::INTERNAL_SERVER_ERROR, G::Internal, SERVER, Some("model_failure")),
            Self::TooLate => (S::GATEWAY_TIMEOUT, G::DeadlineExceeded, SERVER, Some("deadline_exceeded")),
            Self::TimedOut => (S::GATEWAY_TIMEOUT, G::DeadlineExceeded, SERVER, Some("timeout")),
            Self::Cancelled => (CLIENT_CLOSED_REQUEST, G::Cancelled, USER, Some("cancelled")),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, G::Internal, SERVER, Some("internal_error")),
            Self::Loading => (S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("loading")),
            Self::ModelFailing => (S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("model_failing")),
            Self::Draining => (S::SERVICE_UNAVAILABLE, G::Unavailable, SERVER, Some("draining")),
        };
        Row { status, grpc, kind, code }
    }

    /// Seconds after which asking again makes sense, where the engine has not measured better.
    const fn retry_after(self) -> Option<u64> {
        match self {
            Self::Loading | Self::ModelFailing | Self::Draining => Some(RETRY_LATER),
            Self::KeyFull => Some(RETRY_SOON),
            Self::InvalidRequest
            | Self::NoKey
            | Self::UnknownPath
            | Self::ModelNotFound
            | Self::UnknownRequest
            | Self::KeyReused
            | Self::WrongMethod
            | Self::BodyTooLarge
            | Self::UnsupportedMediaType
            | Self::QueueFull
            | Self::ModelFailure
            | Self::TooLate
            | Self::TimedOut
            | Self::Cancelled
            | Self::Internal => None,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    code: Code,
    message: String,
    param: Option<String>,
    retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after: code.retry_after() }
    }

    /// A request at fault in the field `param`, named as a path such as `diffusion.steps`.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Code::InvalidRequest, message) }
    }

    /// A body, or a message, of more than `limit` bytes.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes, the limit"))
    }

    /// Names the field at fault.
    pub(crate) fn at(self, param: Option<String>) -> Self {
        Self { param, ..self }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.code.row().status
    }

    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// As OpenAI writes it, for bodies and for streams that have begun; with the request's id where it is known.
    pub(crate) fn body<'a>(&'a self, request_id: Option<&'a str>) -> impl Serialize + 'a {
        let Row { kind, code, .. } = self.code.row();
        let error = ErrorObject { message: &self.message, kind, param: self.param.as_deref(), code };
        ErrorBody { error, request_id }
    }
}

/// Why there is no answer, as OpenAI says it.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    #[schema(inline)]
    error: ErrorObject<'a>,
    /// What the header `X-Request-Id` says, and the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
struct ErrorObject<'a> {
    /// What was given, what is allowed, how to mend it.
    message: &'a str,
    #[serde(rename = "type")]
    #[schema(schema_with = kinds)]
    kind: &'static str,
    /// The field at fault, as a path such as `diffusion.steps`.
    #[schema(required)]
    param: Option<&'a str>,
    #[schema(schema_with = codes, required)]
    code: Option<&'static str>,
}

fn kinds() -> RefOr<Schema> {
    schema::words(Code::ALL.iter().map(|code| code.row().kind).collect::<BTreeSet<_>>())
}

fn codes() -> RefOr<Schema> {
    let codes = schema::words(Code::ALL.iter().filter_map(|code| code.row().code));
    schema::either_or_null([codes], "Tells apart what has the same status.")
}

/// What [`ApiError::body`] calls the cases that a status stands for.
pub(crate) fn codes_of(status: StatusCode) -> impl Iterator<Item = &'static str> {
    Code::ALL.iter().map(|code| code.row()).filter(move |row| row.status == status).filter_map(|row| row.code)
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
        response.extensions_mut().insert(self); // for those who have to say it in other words
        response
    }
}

/// `response` with the request's id beside the error, if it is an error in JSON.
pub(crate) fn named(response: Response, request_id: &str) -> Response {
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    match response.extensions().get::<ApiError>().filter(|_| is_json).cloned() {
        None => response,
        Some(error) => {
            let (parts, _) = response.into_parts();
            (parts, Json(error.body(Some(request_id)))).into_response()
        }
    }
}

/// With what the error object says beside its message in the metadata.
impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let Row { grpc, code, .. } = error.code.row();
        let metadata = [
            ("remask-param", error.param.clone()),
            ("remask-code", code.map(str::to_owned)),
            (RETRY_AFTER.as_str(), error.retry_after.map(|seconds| seconds.to_string())),
            // what gRPC's libraries heed by themselves where they are told to try again
            ("grpc-retry-pushback-ms", error.retry_after.map(|seconds| seconds.saturating_mul(1000).to_string())),
        ];
        let mut status = Self::new(grpc, &error.message);
        for (key, value) in metadata {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                status.metadata_mut().insert(key, value);
            }
        }
        status.set_source(Arc::new(error));
        status
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let message = rejected.to_string();
        match rejected {
            Rejected::Invalid { param, .. } => Self::invalid(param, message),
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
            Failure::ShutDown => Code::Draining,
        };
        Self::new(code, failure.to_string())
    }
}

/// The answer to a request whose handler panicked; the log says where.
#[allow(clippy::needless_pass_by_value)] // the signature tower-http calls
pub(crate) fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::new(Code::Internal, "the server made a mistake in answering this request; its log says more")
        .into_response()
}
