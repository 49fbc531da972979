//! Server-sent events: hears a session to its end and has each event put into frames. Refuses to know their shape.

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::request::context::Streamed;
use crate::api::request::context::Ticket;
use crate::api::stream::log::Record;
use crate::api::stream::log::Source;
use crate::engine::{Answer, Event, Session, Start, StepEvent};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use std::time::Duration;

/// Silence after which a comment is sent, so that proxies do not take a thinking model for a dead one.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One server-sent event, or why it could not be written.
pub(crate) type Frame = Result<sse::Event, axum::Error>;

/// How one endpoint puts the events of its choices into frames; each choice is a session, by its index.
pub(crate) trait Script: Send + 'static {
    /// A frame, or what one is made of.
    type Frame: Send + 'static;
    fn begin(&mut self, index: usize, start: &Start) -> Vec<Self::Frame>;
    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Self::Frame>;
    fn finish(&mut self, index: usize, answer: Answer) -> Vec<Self::Frame>;
    /// After the last choice.
    fn close(&mut self) -> Vec<Self::Frame>;
    fn fail(&mut self, error: &ApiError) -> Vec<Self::Frame>;
}

/// What a session brings next; `None` when it ended without an answer.
type Heard = (usize, Option<Event>);

/// Sessions being streamed. Dropping it, as happens when the client goes away, drops the sessions.
struct Show<S: Script> {
    sessions: Pin<Box<dyn Stream<Item = Heard> + Send>>,
    starts: Vec<Start>,
    script: S,
    ticket: Ticket,
    unfinished: usize,
    opening: Option<Vec<S::Frame>>,
}

/// The response that streams `sessions`, put into frames by `script`, for as long as somebody reads it.
pub(crate) fn respond(sessions: Vec<Session>, script: impl Script<Frame = Frame>, ticket: Ticket) -> Response {
    let show = Show::new(sessions, script, ticket);
    let frames = stream::unfold(show, async |mut show| Some((show.next().await?, show))).flat_map(stream::iter);
    streamed(Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The same for named events, which go on for a while without a reader and can be read on.
pub(crate) fn respond_kept(
    state: &AppState,
    session: Session,
    script: impl Script<Frame = Record>,
    ticket: &Ticket,
) -> Response {
    let show = Show::new(vec![session], script, ticket.clone());
    streamed(state.requests().begin(ticket, show, state.patience().resume))
}

fn streamed(mut response: Response) -> Response {
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

impl<S: Script<Frame = Record>> Source for Show<S> {
    async fn next(&mut self) -> Option<Vec<Record>> {
        Self::next(self).await
    }
}

impl<S: Script> Show<S> {
    fn new(sessions: Vec<Session>, mut script: S, ticket: Ticket) -> Self {
        let starts: Vec<Start> = sessions.iter().map(|session| session.start.clone()).collect();
        let opening = starts.iter().enumerate().flat_map(|(index, start)| script.begin(index, start)).collect();
        let unfinished = sessions.len();
        let sessions = Box::pin(stream::select_all(sessions.into_iter().enumerate().map(heard)));
        Self { sessions, starts, script, ticket, unfinished, opening: Some(opening) }
    }

    async fn next(&mut self) -> Option<Vec<S::Frame>> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        if self.unfinished == 0 {
            return None;
        }
        let (index, event) = tokio::select! {
            biased;
            heard = self.sessions.next() => heard?,
            error = self.ticket.interrupted() => return Some(self.fail(&error)),
        };
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
    fn fail(&mut self, error: &ApiError) -> Vec<S::Frame> {
        self.unfinished = 0;
        self.ticket.settle(error.status());
        self.script.fail(error)
    }
}

/// Waits for all answers, in order. The sessions live in the returned future, so that dropping it cancels them.
///
/// # Errors
/// When a session fails, or the request is interrupted.
pub(crate) async fn answers(sessions: Vec<Session>, ticket: &Ticket) -> Result<Vec<Answer>, ApiError> {
    tokio::select! {
        biased;
        answers = all(sessions, ticket) => answers,
        error = ticket.interrupted() => Err(error),
    }
}

async fn all(sessions: Vec<Session>, ticket: &Ticket) -> Result<Vec<Answer>, ApiError> {
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
pub(crate) fn gone() -> ApiError {
    ApiError::new(Code::Internal, "the engine stopped without an answer; the server's log says more")
}
