//! Runs sessions to their end, and returns their answers or streams their events.

use crate::api::error::{ApiError, Code};
use crate::api::request::context::RequestContext;
use crate::engine::{Answer, Event, Session, Start, StepEvent};
use axum::http::StatusCode;
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;

/// Writes the events of an endpoint's choices. Each choice is a session, given by its index.
pub(crate) trait EventWriter: Send + 'static {
    /// A frame of server-sent events, a log entry that becomes one, or a gRPC message.
    type Item: Send + 'static;
    fn begin(&mut self, index: usize, start: &Start) -> Vec<Self::Item>;
    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Self::Item>;
    fn finish(&mut self, index: usize, answer: Answer) -> Vec<Self::Item>;
    /// What follows the last choice.
    fn close(&mut self) -> Vec<Self::Item> {
        Vec::new()
    }
    fn fail(&mut self, error: &ApiError) -> Vec<Self::Item>;
}

/// An event of a session, given by its index; `None` when the session ended without an answer.
type IndexedEvent = (usize, Option<Event>);

/// Sessions that are being streamed. A client that disconnects drops it, and so the sessions.
pub(crate) struct EventStream<W: EventWriter> {
    events: Pin<Box<dyn Stream<Item = IndexedEvent> + Send>>,
    starts: Vec<Start>,
    writer: W,
    context: RequestContext,
    unfinished: usize,
    opening: Option<Vec<W::Item>>,
}

impl<W: EventWriter> EventStream<W> {
    pub(crate) fn new(sessions: Vec<Session>, mut writer: W, context: RequestContext) -> Self {
        let starts: Vec<Start> = sessions.iter().map(|session| session.start.clone()).collect();
        let opening = starts.iter().enumerate().flat_map(|(index, start)| writer.begin(index, start)).collect();
        let unfinished = sessions.len();
        let events = Box::pin(stream::select_all(sessions.into_iter().enumerate().map(events)));
        Self { events, starts, writer, context, unfinished, opening: Some(opening) }
    }

    pub(crate) fn items(self) -> impl Stream<Item = W::Item> + Send {
        self.batches().flat_map(stream::iter)
    }

    /// The items of one event after the other.
    pub(crate) fn batches(self) -> impl Stream<Item = Vec<W::Item>> + Send {
        stream::unfold(self, async |mut events| Some((events.next().await?, events)))
    }

    async fn next(&mut self) -> Option<Vec<W::Item>> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        if self.unfinished == 0 {
            return None;
        }
        let (index, event) = tokio::select! {
            biased;
            event = self.events.next() => event?,
            error = self.context.interrupted() => return Some(self.fail(&error)),
        };
        Some(match event {
            Some(Event::Step(step)) => {
                if !step.text.is_empty() {
                    self.context.record_text();
                }
                self.writer.step(index, &step, &self.starts[index])
            }
            Some(Event::Finished(answer)) => {
                self.unfinished -= 1;
                self.context.record_answer(&answer);
                let mut items = self.writer.finish(index, *answer);
                if self.unfinished == 0 {
                    self.context.set_outcome(StatusCode::OK);
                    items.extend(self.writer.close());
                }
                items
            }
            Some(Event::Failed(failure)) => self.fail(&failure.into()),
            None => self.fail(&engine_stopped()),
        })
    }

    /// A choice without an answer ends all choices.
    fn fail(&mut self, error: &ApiError) -> Vec<W::Item> {
        self.unfinished = 0;
        self.context.set_error(error);
        self.writer.fail(error)
    }
}

fn events((index, session): (usize, Session)) -> Pin<Box<dyn Stream<Item = IndexedEvent> + Send>> {
    Box::pin(stream::unfold(Some(session), move |session| async move {
        let mut session = session?;
        let event = session.next().await;
        let goes_on = matches!(event, Some(Event::Step(_)));
        Some(((index, event), goes_on.then_some(session)))
    }))
}

/// Waits for all answers, in order. The future owns the sessions: dropping it cancels them.
pub(crate) async fn answers(sessions: Vec<Session>, context: &RequestContext) -> Result<Vec<Answer>, ApiError> {
    let all = async {
        let mut answers = Vec::with_capacity(sessions.len());
        for mut session in sessions {
            answers.push(loop {
                match session.next().await {
                    Some(Event::Step(_)) => {}
                    Some(Event::Finished(answer)) => {
                        context.record_answer(&answer);
                        break *answer;
                    }
                    Some(Event::Failed(failure)) => return Err(failure.into()),
                    None => return Err(engine_stopped()),
                }
            });
        }
        Ok(answers)
    };
    tokio::select! {
        biased;
        answers = all => answers,
        error = context.interrupted() => Err(error),
    }
}

/// Waits for one answer, as [`answers`] does.
pub(crate) async fn answer(session: Session, context: &RequestContext) -> Result<Answer, ApiError> {
    answers(vec![session], context).await?.pop().ok_or_else(engine_stopped)
}

/// The error when the engine's thread has ended. While a session is held, it ends by a panic only.
fn engine_stopped() -> ApiError {
    ApiError::new(Code::Internal, "the engine stopped without an answer; the server's log says more")
}
