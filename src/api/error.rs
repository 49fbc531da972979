//! What a caller is told when a request has no answer: OpenAI's error object, with one table from code to HTTP.
//! Refuses to decide whether something is an error.

use crate::engine::{Failure, Rejected};
use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::any::Any;

/// Seconds after which asking again makes sense while the server is loading, or its successor is starting.
const RETRY_LATER: u64 = 5;

/// Seconds after which one of a key's own requests may have ended.
const RETRY_SOON: u64 = 1;

/// nginx's status for a request whose client has no more use for an answer.
pub(super) const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// What went wrong, as programs tell cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
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
    kind: &'static str,
    code: Option<&'static str>,
}

impl Code {
    /// The one place where statuses are picked.
    const fn row(self) -> Row {
        use StatusCode as S;
        const USER: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        let (status, kind, code) = match self {
            Self::InvalidRequest => (S::BAD_REQUEST, USER, None),
            Self::NoKey => (S::UNAUTHORIZED, USER, Some("invalid_api_key")),
            Self::KeyFull => (S::TOO_MANY_REQUESTS, "rate_limit_error", Some("key_limit")),
            Self::UnknownPath => (S::NOT_FOUND, USER, Some("unknown_url")),
            Self::ModelNotFound => (S::NOT_FOUND, USER, Some("model_not_found")),
            Self::UnknownRequest => (S::NOT_FOUND, USER, Some("request_not_found")),
            Self::KeyReused => (S::UNPROCESSABLE_ENTITY, USER, Some("idempotency_key_reused")),
            Self::WrongMethod => (S::METHOD_NOT_ALLOWED, USER, Some("method_not_supported")),
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, USER, Some("body_too_large")),
            Self::UnsupportedMediaType => (S::UNSUPPORTED_MEDIA_TYPE, USER, Some("unsupported_media_type")),
            Self::QueueFull => (S::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full")),
            Self::ModelFailure => (S::INTERNAL_SERVER_ERROR, SERVER, Some("model_failure")),
            Self::TooLate => (S::GATEWAY_TIMEOUT, SERVER, Some("deadline_exceeded")),
            Self::TimedOut => (S::GATEWAY_TIMEOUT, SERVER, Some("timeout")),
            Self::Cancelled => (CLIENT_CLOSED_REQUEST, USER, Some("cancelled")),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, SERVER, Some("internal_error")),
            Self::Loading => (S::SERVICE_UNAVAILABLE, SERVER, Some("loading")),
            Self::ModelFailing => (S::SERVICE_UNAVAILABLE, SERVER, Some("model_failing")),
            Self::Draining => (S::SERVICE_UNAVAILABLE, SERVER, Some("draining")),
        };
        Row { status, kind, code }
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
pub(super) struct ApiError {
    code: Code,
    message: String,
    param: Option<String>,
    retry_after: Option<u64>,
}

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after: code.retry_after() }
    }

    /// A request at fault in the field `param`, named as a path such as `diffusion.steps`.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Code::InvalidRequest, message) }
    }

    /// Names the field at fault.
    pub(super) fn at(self, param: Option<String>) -> Self {
        Self { param, ..self }
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.code.row().status
    }

    /// As OpenAI writes it, for bodies and for streams that have begun.
    pub(super) fn body(&self) -> impl Serialize + '_ {
        let Row { kind, code, .. } = self.code.row();
        ErrorBody { error: ErrorObject { message: &self.message, kind, param: self.param.as_deref(), code } }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        if self.code == Code::NoKey {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
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
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let code = match failure {
            Failure::Model(_) => Code::ModelFailure,
            Failure::TooLate { .. } => Code::TooLate,
            Failure::ShutDown => Code::Draining,
        };
        Self::new(code, failure.to_string())
    }
}

/// The answer to a request whose handler panicked; what it panicked with is for the log.
#[allow(clippy::needless_pass_by_value)] // the signature tower-http calls
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("(not a text)"), "a handler panicked");
    ApiError::new(Code::Internal, "the server made a mistake in answering this request; its log says more")
        .into_response()
}
