//! OpenAI's two shapes of an answer, completions and chat completions, whole and in chunks, with `diffusion` beside
//! them. Refuses to know how a request is checked or run.

use crate::api::Service;
use crate::api::answer::logprobs::Logprobs;
use crate::api::answer::objects::FinishReason;
use crate::api::answer::objects::Quality;
use crate::api::answer::objects::StepObject;
use crate::api::answer::objects::Summary;
use crate::api::answer::objects::Usage;
use crate::api::answer::objects::Words;
use crate::api::error::ApiError;
use crate::api::request::context::Ticket;
use crate::api::stream::sessions;
use crate::api::stream::sessions::Frame;
use crate::api::stream::sessions::Script;
use crate::api::wire::Delivery;
use crate::api::wire::Wish;
use crate::engine::{Answer, Handle, Output, Start, StepEvent};
use axum::Json;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// What an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/completions`.
    Text,
    /// `/v1/chat/completions`.
    Chat,
}

/// Runs what `wish` asks for and answers in `shape`.
///
/// # Errors
/// When a request is not admitted, or has no answer.
pub(crate) async fn respond(service: &Service, ticket: Ticket, wish: Wish, shape: Shape) -> Result<Response, ApiError> {
    let Wish { requests, choices, delivery, logprobs, echo } = wish;
    let mut sessions = Vec::with_capacity(requests.len());
    for request in requests {
        sessions.push(service.submit(request).await?); // the others are dropped, hence cancelled, when one is refused
    }
    let teller = Teller { shape, logprobs, echo, choices, handle: service.handle.clone() };
    match delivery {
        Delivery::Whole => {
            let head = Head::new(&ticket, service, shape, false);
            let answers = sessions::answers(sessions, &ticket).await?;
            let choices = answers.iter().enumerate().map(|(index, answer)| teller.whole(index, answer)).collect();
            let (usage, diffusion) = (Some(Some(teller.usage(&answers))), Some(Side::Summary(Summary::of(&answers))));
            Ok(Json(Completion { head: &head, choices, usage, diffusion }).into_response())
        }
        Delivery::Stream { with_edits, with_usage } => {
            let head = Head::new(&ticket, service, shape, true);
            let answers = Vec::with_capacity(sessions.len());
            let has_edits = vec![false; sessions.len()];
            let request_id = ticket.id().to_owned();
            let chunks = Chunks { request_id, head, teller, with_edits, with_usage, has_edits, answers };
            Ok(sessions::respond(sessions, chunks, ticket))
        }
    }
}

/// What every chunk of an answer repeats.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Head {
    id: String,
    object: &'static str,
    /// In seconds since 1970.
    created: u64,
    model: String,
    system_fingerprint: &'static str,
}

impl Head {
    fn new(ticket: &Ticket, service: &Service, shape: Shape, is_chunk: bool) -> Self {
        let (prefix, object) = match (shape, is_chunk) {
            (Shape::Text, _) => ("cmpl", "text_completion"),
            (Shape::Chat, false) => ("chatcmpl", "chat.completion"),
            (Shape::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
        };
        Self {
            id: format!("{prefix}-{}", ticket.id()),
            object,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: service.name.clone(),
            system_fingerprint: concat!("remask-", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// An answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    #[schema(ignore)]
    head: &'a Head,
    #[schema(ignore)]
    choices: Vec<Choice<'a>>,
    // outer `None`: not asked for; inner `None`: not known yet
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    diffusion: Option<Side>,
}

/// What only a diffusion model has to tell.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Side {
    Step(StepObject),
    Summary(Summary),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Choice<'a> {
    index: usize,
    #[serde(flatten)]
    #[schema(ignore)]
    said: Said<'a>,
    #[schema(ignore)]
    logprobs: Option<Logprobs>,
    /// Null in a stream until the choice ends.
    #[schema(inline, required)]
    finish_reason: Option<FinishReason>,
    /// Only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<'a> {
    Text(String),
    Message(Message<'a>),
    Delta(Delta<'a>),
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatAnswer)]
pub(crate) struct Message<'a> {
    /// Always `assistant`.
    role: &'static str,
    content: &'a str,
    #[schema(schema_with = crate::api::schema::null, required)]
    refusal: Option<()>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatDelta)]
pub(crate) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

const ASSISTANT: &str = "assistant";

/// Puts answers into choices.
struct Teller {
    shape: Shape,
    logprobs: bool,
    /// What stands before each text; empty where nothing does.
    echo: Vec<String>,
    /// Choices for each prompt.
    choices: usize,
    handle: Handle,
}

impl Teller {
    fn words(&self) -> Words<'_> {
        Words(self.handle.tokenizer())
    }

    fn echo(&self, index: usize) -> &str {
        self.echo.get(index).map_or("", String::as_str)
    }

    /// A whole answer.
    fn whole<'a>(&self, index: usize, answer: &'a Answer) -> Choice<'a> {
        let written = written(answer, answer.output.text());
        let said = match self.shape {
            Shape::Text => Said::Text(format!("{}{written}", self.echo(index))),
            Shape::Chat => Said::Message(Message { role: ASSISTANT, content: written, refusal: None }),
        };
        self.last(index, answer, said)
    }

    /// The last piece of an answer.
    fn last<'a>(&self, index: usize, answer: &Answer, said: Said<'a>) -> Choice<'a> {
        Choice {
            index,
            said,
            logprobs: self.logprobs.then(|| Logprobs::of(answer, self.shape, self.words(), self.echo(index))),
            finish_reason: Some(answer.finish.into()),
            quality: Quality::of(answer, self.words()),
        }
    }

    /// A piece of text, or nothing.
    fn delta<'a>(&self, text: &'a str) -> Said<'a> {
        match self.shape {
            Shape::Text => Said::Text(text.to_owned()),
            Shape::Chat => Said::Delta(Delta { role: None, content: Some(text).filter(|text| !text.is_empty()) }),
        }
    }

    fn usage(&self, answers: &[Answer]) -> Usage {
        Usage::of(answers, self.choices)
    }
}

/// What an answer wrote: between two texts only what stands between them.
fn written<'a>(answer: &'a Answer, continuation: &'a str) -> &'a str {
    match &answer.output {
        Output::Continuation(_) | Output::Revision(_) => continuation,
        Output::Infill { gaps, .. } => gaps.first().map_or("", String::as_str),
    }
}

/// An answer as OpenAI's chunks.
struct Chunks {
    request_id: String,
    head: Head,
    teller: Teller,
    with_edits: bool,
    with_usage: bool,
    /// Of each choice, whether a chunk with edits was sent; the first one tells the canvas's length.
    has_edits: Vec<bool>,
    answers: Vec<Answer>,
}

impl Chunks {
    fn chunk(&self, choice: Choice<'_>, diffusion: Option<Side>) -> Frame {
        let usage = self.with_usage.then_some(None);
        Event::default().json_data(Completion { head: &self.head, choices: vec![choice], usage, diffusion })
    }

    fn piece(&self, index: usize, said: Said<'_>, diffusion: Option<Side>) -> Frame {
        self.chunk(Choice { index, said, logprobs: None, finish_reason: None, quality: None }, diffusion)
    }
}

impl Script for Chunks {
    type Frame = Frame;

    fn begin(&mut self, index: usize, _start: &Start) -> Vec<Frame> {
        match (self.teller.shape, self.teller.echo(index)) {
            (Shape::Chat, _) => {
                let delta = Delta { role: Some(ASSISTANT), content: Some("") };
                vec![self.piece(index, Said::Delta(delta), None)]
            }
            (Shape::Text, "") => Vec::new(),
            (Shape::Text, echo) => vec![self.piece(index, Said::Text(echo.to_owned()), None)],
        }
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.with_edits {
            let mut object = StepObject::new(index, step, start, self.teller.words());
            if !std::mem::replace(&mut self.has_edits[index], true) {
                object = object.with_canvas(start);
            }
            frames.push(self.piece(index, self.teller.delta(""), Some(Side::Step(object))));
        }
        if !step.text.is_empty() {
            frames.push(self.piece(index, self.teller.delta(&step.text), None));
        }
        frames
    }

    fn finish(&mut self, index: usize, answer: Answer) -> Vec<Frame> {
        let choice = self.teller.last(index, &answer, self.teller.delta(written(&answer, &answer.tail)));
        let frame = self.chunk(choice, Some(Side::Summary(Summary::of(std::slice::from_ref(&answer)))));
        self.answers.push(answer);
        vec![frame]
    }

    fn close(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.with_usage {
            let (head, usage) = (&self.head, Some(Some(self.teller.usage(&self.answers))));
            frames.push(Event::default().json_data(Completion { head, choices: vec![], usage, diffusion: None }));
        }
        frames.push(Ok(Event::default().data("[DONE]")));
        frames
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Event::default().json_data(error.body(Some(&self.request_id)))]
    }
}
