//! Server-sent events: hears a session to its end and has each event put into frames. Refuses to know their shape.

use super::error::{ApiError, Code};
use super::ticket::{Streamed, Ticket};
use crate::engine::{Answer, Event, Session, Start, StepEvent};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use std::time::Duration;

/// Silence after which a comment is sent, so that proxies do not take a thinking model for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One server-sent event, or why it could not be written.
pub(super) type Frame = Result<sse::Event, axum::Error>;

/// How one endpoint puts events into frames.
pub(super) trait Script: Send + 'static {
    fn begin(&mut self, start: &Start) -> Vec<Frame>;
    fn step(&mut self, step: &StepEvent, start: &Start) -> Vec<Frame>;
    fn finish(&mut self, answer: &Answer) -> Vec<Frame>;
    fn fail(&mut self, error: &ApiError) -> Vec<Frame>;
}

/// A session being streamed. Dropping it, as happens when the client goes away, drops the session.
struct Show<S> {
    session: Session,
    script: S,
    ticket: Ticket,
    is_over: bool,
}

/// The response that streams `session`, put into frames by `script`.
pub(super) fn respond(session: Session, mut script: impl Script, ticket: Ticket) -> Response {
    let opening = script.begin(&session.start);
    let show = Show { session, script, ticket, is_over: false };
    let events = stream::unfold(show, async |mut show| Some((show.next().await?, show)));
    let frames = stream::once(async { opening }).chain(events).flat_map(stream::iter);
    let mut response = Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.extensions_mut().insert(Streamed);
    // nginx would hold frames back until its buffer is full
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<S: Script> Show<S> {
    async fn next(&mut self) -> Option<Vec<Frame>> {
        if self.is_over {
            return None;
        }
        Some(match self.session.next().await {
            Some(Event::Step(step)) => {
                if !step.text.is_empty() {
                    self.ticket.has_text();
                }
                self.script.step(&step, &self.session.start)
            }
            Some(Event::Finished(answer)) => {
                self.is_over = true;
                self.ticket.has_answer(&answer);
                self.ticket.settle(StatusCode::OK);
                self.script.finish(&answer)
            }
            Some(Event::Failed(failure)) => self.fail(&failure.into()),
            None => self.fail(&gone()),
        })
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        self.is_over = true;
        self.ticket.settle(error.status());
        self.script.fail(error)
    }
}

/// Waits for the answer. The session lives in the returned future, so that dropping it cancels the request.
///
/// # Errors
/// When the session fails.
pub(super) async fn answer(mut session: Session, ticket: &Ticket) -> Result<Answer, ApiError> {
    while let Some(event) = session.next().await {
        match event {
            Event::Step(_) => {}
            Event::Finished(answer) => {
                ticket.has_answer(&answer);
                return Ok(*answer);
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
    }
    Err(gone())
}

/// The engine's thread has ended; it never does while anybody holds a session, unless it panicked.
fn gone() -> ApiError {
    ApiError::new(Code::Internal, "the engine stopped without an answer; the server's log says more")
}
