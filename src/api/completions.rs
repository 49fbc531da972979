//! `POST /v1/completions`: OpenAI's shapes, whole and in chunks. Refuses to know how a request is checked or run.

use super::answer::{Quality, StepObject, Summary, Usage, Words, finish_reason};
use super::error::ApiError;
use super::stream::{self, Frame, Script};
use super::ticket::Ticket;
use super::wire::{CompletionRequest, Delivery};
use super::{AppState, Service, body};
use crate::engine::{Answer, Handle, Start, StepEvent};
use axum::extract::{Request, State};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes on from a prompt.
pub(super) async fn create(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = state.service()?;
    let asked: CompletionRequest = body::read(request, state.body_max()).await?;
    service.check_model(asked.model.as_deref())?;
    let (request, delivery) = asked.read()?;
    let session = service.submit(request).await?;
    let head = Head::new(&ticket, service);
    match delivery {
        Delivery::Whole => {
            let answer = stream::answer(session, &ticket).await?;
            let choice = Choice::last(&answer, answer.output.text(), Words(service.handle.tokenizer()));
            Ok(Json(head.whole(choice, &answer)).into_response())
        }
        Delivery::Stream { with_edits, with_usage } => {
            let handle = service.handle.clone();
            Ok(stream::respond(session, Chunks { head, handle, with_edits, with_usage, has_edits: false }, ticket))
        }
    }
}

/// What every chunk of an answer repeats.
#[derive(Clone, Debug, Serialize)]
struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

/// An answer, or a piece of one.
#[derive(Debug, Serialize)]
struct Completion<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice<'a>>,
    /// Outer `None`: not asked for. Inner `None`: not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diffusion: Option<Side>,
}

/// What only a diffusion model has to tell.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Side {
    Step(StepObject),
    Summary(Summary),
}

#[derive(Debug, Serialize)]
struct Choice<'a> {
    index: usize,
    text: &'a str,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

impl<'a> Choice<'a> {
    const fn delta(text: &'a str) -> Self {
        Self { index: 0, text, logprobs: None, finish_reason: None, quality: None }
    }

    fn last(answer: &Answer, text: &'a str, words: Words<'_>) -> Self {
        let finish_reason = Some(finish_reason(answer.finish));
        Self { finish_reason, quality: Quality::of(answer, words), ..Self::delta(text) }
    }
}

impl Head {
    fn new(ticket: &Ticket, service: &Service) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { id: format!("cmpl-{}", ticket.id()), object: "text_completion", created, model: service.name.clone() }
    }

    fn whole<'a>(&'a self, choice: Choice<'a>, answer: &Answer) -> Completion<'a> {
        Completion {
            head: self,
            choices: vec![choice],
            usage: Some(Some(answer.into())),
            diffusion: Some(Side::Summary(answer.into())),
        }
    }
}

/// An answer as OpenAI's chunks.
struct Chunks {
    head: Head,
    handle: Handle,
    with_edits: bool,
    with_usage: bool,
    /// Whether a chunk with edits was sent; the first one tells the canvas's length.
    has_edits: bool,
}

impl Chunks {
    fn chunk(&self, choice: Choice<'_>, diffusion: Option<Side>) -> Frame {
        let usage = self.with_usage.then_some(None);
        Event::default().json_data(Completion { head: &self.head, choices: vec![choice], usage, diffusion })
    }
}

impl Script for Chunks {
    fn begin(&mut self, _start: &Start) -> Vec<Frame> {
        Vec::new()
    }

    fn step(&mut self, step: &StepEvent, start: &Start) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.with_edits {
            let mut object = StepObject::new(step, start, Words(self.handle.tokenizer()));
            if !self.has_edits {
                self.has_edits = true;
                object = object.with_canvas(start);
            }
            frames.push(self.chunk(Choice::delta(""), Some(Side::Step(object))));
        }
        if !step.text.is_empty() {
            frames.push(self.chunk(Choice::delta(&step.text), None));
        }
        frames
    }

    fn finish(&mut self, answer: &Answer) -> Vec<Frame> {
        let choice = Choice::last(answer, &answer.tail, Words(self.handle.tokenizer()));
        let mut frames = vec![self.chunk(choice, Some(Side::Summary(answer.into())))];
        if self.with_usage {
            let (head, usage) = (&self.head, Some(Some(answer.into())));
            frames.push(Event::default().json_data(Completion { head, choices: vec![], usage, diffusion: None }));
        }
        frames.push(Ok(Event::default().data("[DONE]")));
        frames
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Event::default().json_data(error.body())]
    }
}
