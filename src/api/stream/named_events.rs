//! Streams of named events: `start`, `step`, `done` and `error`, for the endpoints that are nobody's but ours. Refuses to
//! know what an answer says in the end.

use crate::api::answer::objects::StartObject;
use crate::api::answer::objects::StepObject;
use crate::api::answer::objects::Words;
use crate::api::error::ApiError;
use crate::api::request::context::Ticket;
use crate::api::stream::log::Record;
use crate::api::stream::sessions::Script;
use crate::engine::{Answer, Handle, Start, StepEvent};
use serde::Serialize;

/// What an endpoint answers in the end, streamed or not.
pub(crate) trait Ending: Send + 'static {
    /// The answer; `id` names the request.
    fn whole<'a>(&'a self, id: &str, answer: &'a Answer, words: Words<'_>) -> impl Serialize + 'a;
}

/// An answer as it goes along.
pub(crate) struct Report<E> {
    id: String,
    handle: Handle,
    ending: E,
}

impl<E: Ending> Report<E> {
    pub(crate) fn new(ticket: &Ticket, handle: Handle, ending: E) -> Self {
        Self { id: ticket.id().to_owned(), handle, ending }
    }

    /// The answer in one piece.
    pub(crate) fn whole<'a>(&'a self, answer: &'a Answer) -> impl Serialize + 'a {
        self.ending.whole(&self.id, answer, self.words())
    }

    fn words(&self) -> Words<'_> {
        Words(self.handle.tokenizer())
    }

    fn record(name: &'static str, data: &impl Serialize) -> Vec<Record> {
        match serde_json::to_string(data) {
            Ok(data) => vec![Record { name, data }],
            Err(error) => {
                tracing::error!(%error, name, "an event could not be written");
                Vec::new()
            }
        }
    }
}

impl<E: Ending> Script for Report<E> {
    type Frame = Record;

    fn begin(&mut self, _: usize, start: &Start) -> Vec<Record> {
        Self::record("start", &StartObject::new(start, self.words()))
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Record> {
        Self::record("step", &StepObject::new(index, step, start, self.words()))
    }

    fn finish(&mut self, _: usize, answer: Answer) -> Vec<Record> {
        Self::record("done", &self.whole(&answer))
    }

    fn close(&mut self) -> Vec<Record> {
        Vec::new()
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Record> {
        Self::record("error", &error.body(Some(&self.id)))
    }
}
