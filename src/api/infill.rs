//! `POST /v1/infill`: a template with its gaps filled, whole or as named events. Refuses to know how a request is
//! checked or run.

use super::answer::{Quality, StartObject, StepObject, Summary, Usage, Words, finish_reason};
use super::error::ApiError;
use super::stream::{self, Frame, Script};
use super::ticket::Ticket;
use super::wire::{Delivery, InfillRequest};
use super::{AppState, body};
use crate::engine::{Answer, Handle, Output, Start, StepEvent};
use axum::extract::{Request, State};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

/// Fills a template's blanks.
pub(super) async fn create(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: InfillRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let (request, delivery) = asked.read()?;
    let session = service.submit(request).await?;
    let report = Report {
        request_id: ticket.id().to_owned(),
        model: service.name.clone(),
        handle: service.handle.clone(),
        events_sent: 0,
    };
    match delivery {
        Delivery::Whole => {
            let answers = stream::answers(vec![session], &ticket).await?;
            let answer = answers.first().ok_or_else(stream::gone)?;
            Ok(Json(report.whole(answer)).into_response())
        }
        Delivery::Stream { .. } => Ok(stream::respond(vec![session], report, ticket)),
    }
}

#[derive(Debug, Serialize)]
struct Infill<'a> {
    id: String,
    object: &'static str,
    model: &'a str,
    choices: [Choice<'a>; 1],
    usage: Usage,
    diffusion: Summary,
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: usize,
    /// The whole template.
    text: &'a str,
    gaps: &'a [String],
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

/// An infill as it goes along.
struct Report {
    request_id: String,
    model: String,
    handle: Handle,
    events_sent: usize,
}

impl Report {
    fn words(&self) -> Words<'_> {
        Words(self.handle.tokenizer())
    }

    fn whole<'a>(&'a self, answer: &'a Answer) -> Infill<'a> {
        let (text, gaps) = match &answer.output {
            Output::Infill { text, gaps } => (text, gaps.as_slice()),
            Output::Continuation(text) | Output::Given(text) => (text, [].as_slice()),
        };
        let quality = Quality::of(answer, self.words());
        Infill {
            id: format!("infill-{}", self.request_id),
            object: "infill",
            model: &self.model,
            choices: [Choice { index: 0, text, gaps, finish_reason: finish_reason(answer.finish), quality }],
            usage: Usage::of(std::slice::from_ref(answer), 1),
            diffusion: Summary::of(std::slice::from_ref(answer)),
        }
    }

    /// The next event. Its id says which of which request it is, so that a reader knows how far it came.
    fn event(&mut self) -> Event {
        let id = format!("{}:{}", self.request_id, self.events_sent);
        self.events_sent += 1;
        Event::default().id(id)
    }
}

impl Script for Report {
    fn begin(&mut self, _: usize, start: &Start) -> Vec<Frame> {
        let event = self.event().event("start");
        vec![event.json_data(StartObject::new(start, self.words()))]
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Frame> {
        let event = self.event().event("step");
        vec![event.json_data(StepObject::new(index, step, start, self.words()))]
    }

    fn finish(&mut self, _: usize, answer: Answer) -> Vec<Frame> {
        let event = self.event().event("done");
        vec![event.json_data(self.whole(&answer))]
    }

    fn close(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![self.event().event("error").json_data(error.body())]
    }
}
