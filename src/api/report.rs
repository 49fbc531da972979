//! Streams of named events: `start`, `step`, `done` and `error`, for the endpoints that are nobody's but ours. Refuses to
//! know what an answer says in the end.

use super::answer::{StartObject, StepObject, Words};
use super::error::ApiError;
use super::stream::{Frame, Script};
use super::ticket::Ticket;
use crate::engine::{Answer, Handle, Start, StepEvent};
use axum::response::sse::Event;
use serde::Serialize;

/// What an endpoint answers in the end, streamed or not.
pub(super) trait Ending: Send + 'static {
    /// The answer; `id` names the request.
    fn whole<'a>(&'a self, id: &str, answer: &'a Answer, words: Words<'_>) -> impl Serialize + 'a;
}

/// An answer as it goes along.
pub(super) struct Report<E> {
    id: String,
    handle: Handle,
    ending: E,
    events_sent: usize,
}

impl<E: Ending> Report<E> {
    pub(super) fn new(ticket: &Ticket, handle: Handle, ending: E) -> Self {
        Self { id: ticket.id().to_owned(), handle, ending, events_sent: 0 }
    }

    /// The answer in one piece.
    pub(super) fn whole<'a>(&'a self, answer: &'a Answer) -> impl Serialize + 'a {
        self.ending.whole(&self.id, answer, self.words())
    }

    fn words(&self) -> Words<'_> {
        Words(self.handle.tokenizer())
    }

    /// The next event. Its id says which of which request it is, so that a reader knows how far it came.
    fn event(&mut self, name: &str) -> Event {
        let id = format!("{}:{}", self.id, self.events_sent);
        self.events_sent += 1;
        Event::default().id(id).event(name)
    }
}

impl<E: Ending> Script for Report<E> {
    fn begin(&mut self, _: usize, start: &Start) -> Vec<Frame> {
        let event = self.event("start");
        vec![event.json_data(StartObject::new(start, self.words()))]
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Frame> {
        let event = self.event("step");
        vec![event.json_data(StepObject::new(index, step, start, self.words()))]
    }

    fn finish(&mut self, _: usize, answer: Answer) -> Vec<Frame> {
        let event = self.event("done");
        vec![event.json_data(self.whole(&answer))]
    }

    fn close(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![self.event("error").json_data(error.body())]
    }
}
