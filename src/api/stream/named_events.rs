//! The named events `start`, `step`, `done` and `error`, for endpoints that OpenAI does not have.

use super::sessions::{self, EventStream, EventWriter};
use super::{log, sse};
use crate::api::answer::Detokenizer;
use crate::api::answer::objects::{StartObject, StepObject};
use crate::api::answer::writer::WriteAnswer;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::request::context::RequestContext;
use crate::api::state::AppState;
use crate::api::state::services::Service;
use crate::api::state::stream_logs::LogEntry;
use crate::api::wire::params::Delivery;
use crate::engine::{Answer, Failure, Handle, Session, Start, StepEvent};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::to_string;

/// Answers with one object, or with named events, which can be resumed.
pub(crate) async fn respond(
    state: &AppState,
    service: &Service,
    context: RequestContext,
    session: Session,
    write: WriteAnswer,
    delivery: Delivery,
) -> ApiResult {
    let events = NamedEvents::new(context.id(), service.handle.clone(), write);
    match delivery {
        Delivery::Whole => {
            let answer = sessions::answer(session, &context).await?;
            let body = state.shared.text_work.run(answer.written.len(), move || events.done_data(&answer)).await?;
            let body = body.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
            Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
        }
        Delivery::Stream { .. } => {
            let source = Box::pin(EventStream::new(vec![session], events, context.clone()).batches());
            Ok(sse::streamed(log::begin(&state.shared.stream_logs, &context, source, state.patience().resume)))
        }
    }
}

/// The data of a request's events. Commands record and draw the same ones.
pub(crate) struct NamedEvents {
    id: String,
    handle: Handle,
    write: WriteAnswer,
}

impl NamedEvents {
    /// The events of the request `id`, whose answer `write` writes.
    pub(crate) fn new(id: &str, handle: Handle, write: WriteAnswer) -> Self {
        Self { id: id.to_owned(), handle, write }
    }

    /// The data of `start`.
    pub(crate) fn start_data(&self, start: &Start) -> serde_json::Result<String> {
        to_string(&StartObject::new(start, self.detokenizer()))
    }

    /// The data of a `step` of choice `index`.
    pub(crate) fn step_data(&self, index: usize, step: &StepEvent, start: &Start) -> serde_json::Result<String> {
        to_string(&StepObject::new(index, step, start, false, self.detokenizer()))
    }

    /// The data of `done`, which is also the answer without a stream.
    pub(crate) fn done_data(&self, answer: &Answer) -> serde_json::Result<String> {
        (self.write)(&self.id, answer, self.detokenizer())
    }

    /// The data of `error`, for a request that the engine could not answer.
    pub(crate) fn failure_data(&self, failure: Failure) -> serde_json::Result<String> {
        self.error_data(&failure.into())
    }

    fn error_data(&self, error: &ApiError) -> serde_json::Result<String> {
        to_string(&error.body(Some(&self.id)))
    }

    fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer(self.handle.tokenizer())
    }
}

/// The log entry of an event; none if its data cannot be written.
fn entry(name: &'static str, data: serde_json::Result<String>) -> Vec<LogEntry> {
    match data {
        Ok(data) => vec![LogEntry { name, data }],
        Err(error) => {
            tracing::error!(%error, name, "an event could not be written");
            Vec::new()
        }
    }
}

impl EventWriter for NamedEvents {
    type Item = LogEntry;

    fn begin(&mut self, _: usize, start: &Start) -> Vec<LogEntry> {
        entry("start", self.start_data(start))
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<LogEntry> {
        entry("step", self.step_data(index, step, start))
    }

    fn finish(&mut self, _: usize, answer: Answer) -> Vec<LogEntry> {
        entry("done", self.done_data(&answer))
    }

    fn fail(&mut self, error: &ApiError) -> Vec<LogEntry> {
        entry("error", self.error_data(error))
    }
}
