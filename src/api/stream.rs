//! Server-sent events: hears a session to its end and has each event put into frames. Refuses to know their shape.

use super::error::{ApiError, Code};
use super::ticket::{Streamed, Ticket};
use crate::engine::{Answer, Event, Session, Start, StepEvent};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use std::time::Duration;

/// Silence after which a comment is sent, so that proxies do not take a thinking model for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One server-sent event, or why it could not be written.
pub(super) type Frame = Result<sse::Event, axum::Error>;

/// How one endpoint puts the events of its choices into frames; each choice is a session, by its index.
pub(super) trait Script: Send + 'static {
    fn begin(&mut self, index: usize, start: &Start) -> Vec<Frame>;
    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Frame>;
    fn finish(&mut self, index: usize, answer: Answer) -> Vec<Frame>;
    /// After the last choice.
    fn close(&mut self) -> Vec<Frame>;
    fn fail(&mut self, error: &ApiError) -> Vec<Frame>;
}

/// What a session brings next; `None` when it ended without an answer.
type Heard = (usize, Option<Event>);

/// Sessions being streamed. Dropping it, as happens when the client goes away, drops the sessions.
struct Show<S> {
    sessions: Pin<Box<dyn Stream<Item = Heard> + Send>>,
    starts: Vec<Start>,
    script: S,
    ticket: Ticket,
    unfinished: usize,
}

/// The response that streams `sessions`, put into frames by `script`.
pub(super) fn respond(sessions: Vec<Session>, mut script: impl Script, ticket: Ticket) -> Response {
    let starts: Vec<Start> = sessions.iter().map(|session| session.start.clone()).collect();
    let opening: Vec<Frame> = starts.iter().enumerate().flat_map(|(index, start)| script.begin(index, start)).collect();
    let unfinished = sessions.len();
    let sessions = Box::pin(stream::select_all(sessions.into_iter().enumerate().map(heard)));
    let show = Show { sessions, starts, script, ticket, unfinished };
    let events = stream::unfold(show, async |mut show| Some((show.next().await?, show)));
    let frames = stream::once(async { opening }).chain(events).flat_map(stream::iter);
    let mut response = Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.extensions_mut().insert(Streamed);
    // nginx would hold frames back until its buffer is full
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// A session's events, to its last one.
fn heard((index, session): (usize, Session)) -> Pin<Box<dyn Stream<Item = Heard> + Send>> {
    Box::pin(stream::unfold(Some(session), move |session| async move {
        let mut session = session?;
        let event = session.next().await;
        let goes_on = matches!(event, Some(Event::Step(_)));
        Some(((index, event), goes_on.then_some(session)))
    }))
}

impl<S: Script> Show<S> {
    async fn next(&mut self) -> Option<Vec<Frame>> {
        if self.unfinished == 0 {
            return None;
        }
        let (index, event) = self.sessions.next().await?;
        Some(match event {
            Some(Event::Step(step)) => {
                if !step.text.is_empty() {
                    self.ticket.has_text();
                }
                self.script.step(index, &step, &self.starts[index])
            }
            Some(Event::Finished(answer)) => {
                self.unfinished -= 1;
                self.ticket.has_answer(&answer);
                let mut frames = self.script.finish(index, *answer);
                if self.unfinished == 0 {
                    self.ticket.settle(StatusCode::OK);
                    frames.extend(self.script.close());
                }
                frames
            }
            Some(Event::Failed(failure)) => self.fail(&failure.into()),
            None => self.fail(&gone()),
        })
    }

    /// One choice without an answer ends them all.
    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        self.unfinished = 0;
        self.ticket.settle(error.status());
        self.script.fail(error)
    }
}

/// Waits for all answers, in order. The sessions live in the returned future, so that dropping it cancels them.
///
/// # Errors
/// When a session fails.
pub(super) async fn answers(sessions: Vec<Session>, ticket: &Ticket) -> Result<Vec<Answer>, ApiError> {
    let mut answers = Vec::with_capacity(sessions.len());
    for mut session in sessions {
        answers.push(loop {
            match session.next().await {
                Some(Event::Step(_)) => {}
                Some(Event::Finished(answer)) => {
                    ticket.has_answer(&answer);
                    break *answer;
                }
                Some(Event::Failed(failure)) => return Err(failure.into()),
                None => return Err(gone()),
            }
        });
    }
    Ok(answers)
}

/// The engine's thread has ended; it never does while anybody holds a session, unless it panicked.
pub(super) fn gone() -> ApiError {
    ApiError::new(Code::Internal, "the engine stopped without an answer; the server's log says more")
}
