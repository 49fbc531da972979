//! Responses of server-sent events.

use crate::api::request::context::Streamed;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use std::time::Duration;

/// Silence after which a comment is sent, so that proxies keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One server-sent event, or why it could not be written.
pub(crate) type Frame = Result<Event, axum::Error>;

/// A response of frames, without the marks of [`streamed`].
pub(crate) fn response(frames: impl Stream<Item = Frame> + Send + 'static) -> Response {
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Marks a response whose body decides the request's outcome.
pub(crate) fn streamed(mut response: Response) -> Response {
    response.extensions_mut().insert(Streamed);
    // without this header nginx would hold frames back until its buffer is full
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
