//! The named events `start`, `step`, `done` and `error`, for endpoints that OpenAI does not have.

use super::log::{self, EntrySource};
use super::sessions::{self, EventStream, EventWriter};
use super::sse;
use crate::api::answer::{Detokenizer, objects::StartObject, objects::StepObject};
use crate::api::error::ApiError;
use crate::api::request::context::RequestContext;
use crate::api::state::{AppState, service::Service, stream_logs::LogEntry};
use crate::api::wire::params::Delivery;
use crate::engine::{Answer, Handle, Session, Start, StepEvent};
use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The object that an endpoint answers with: the whole response, or the data of `done`.
pub(crate) trait AnswerObject: Send + 'static {
    /// The object for the answer to the request `id`.
    fn object<'a>(&'a self, id: &str, answer: &'a Answer, detokenizer: Detokenizer<'_>) -> impl Serialize + 'a;
}

/// Answers with the object of an endpoint, or with named events, which can be resumed.
pub(crate) async fn respond(
    state: &AppState,
    service: &Service,
    context: RequestContext,
    session: Session,
    object: impl AnswerObject,
    delivery: Delivery,
) -> Result<Response, ApiError> {
    let events = NamedEvents { id: context.id().to_owned(), handle: service.handle.clone(), object };
    match delivery {
        Delivery::Whole => {
            let answer = sessions::answer(session, &context).await?;
            Ok(Json(events.object(&answer)).into_response())
        }
        Delivery::Stream { .. } => {
            let source = EventStream::new(vec![session], events, context.clone());
            Ok(sse::streamed(log::begin(&state.shared.stream_logs, &context, source, state.patience().resume)))
        }
    }
}

/// Writes named events.
struct NamedEvents<O> {
    id: String,
    handle: Handle,
    object: O,
}

impl<O: AnswerObject> NamedEvents<O> {
    fn object<'a>(&'a self, answer: &'a Answer) -> impl Serialize + 'a {
        self.object.object(&self.id, answer, self.detokenizer())
    }

    fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer(self.handle.tokenizer())
    }
}

/// The log entry of an event; none if its data cannot be written.
fn entry(name: &'static str, data: &impl Serialize) -> Vec<LogEntry> {
    match serde_json::to_string(data) {
        Ok(data) => vec![LogEntry { name, data }],
        Err(error) => {
            tracing::error!(%error, name, "an event could not be written");
            Vec::new()
        }
    }
}

impl<O: AnswerObject> EventWriter for NamedEvents<O> {
    type Item = LogEntry;

    fn begin(&mut self, _: usize, start: &Start) -> Vec<LogEntry> {
        entry("start", &StartObject::new(start, self.detokenizer()))
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<LogEntry> {
        entry("step", &StepObject::new(index, step, start, self.detokenizer()))
    }

    fn finish(&mut self, _: usize, answer: Answer) -> Vec<LogEntry> {
        entry("done", &self.object(&answer))
    }

    fn fail(&mut self, error: &ApiError) -> Vec<LogEntry> {
        entry("error", &error.body(Some(&self.id)))
    }
}

impl<W: EventWriter<Item = LogEntry>> EntrySource for EventStream<W> {
    async fn next(&mut self) -> Option<Vec<LogEntry>> {
        Self::next(self).await
    }
}
