//! OpenAI's completions and chat completions, answered whole or as a stream of chunks.

use super::sessions::{self, EventStream, EventWriter};
use super::sse::{self, Frame};
use super::tool_calls::{self, Choosing};
use crate::api::answer::completion::{Choice, ChoiceWriter, Completion, Content, Head, Side};
use crate::api::answer::objects::{Refinement, StepObject};
use crate::api::answer::{Echo, Shape};
use crate::api::error::{ApiError, ApiResult};
use crate::api::request::context::RequestContext;
use crate::api::state::{services::Service, text_work::TextWork};
use crate::api::wire::params::{CompletionParams, Delivery, about};
use crate::diffusion::TokenId;
use crate::engine::{Answer, Start, StepEvent};
use axum::Json;
use axum::response::IntoResponse;
use axum::response::sse::Event;
use std::sync::Arc;

pub(crate) async fn respond(
    (service, text_work): (&Service, &TextWork),
    context: RequestContext,
    params: CompletionParams,
    shape: Shape,
) -> ApiResult {
    let CompletionParams { request, tasks, choices, delivery, logprobs, token_ids, echo, call, .. } = params;
    let (length_field, format_field) = (params.length_field, params.format_field);
    let submitted = match call {
        None => {
            let sessions = service.submit_all(context.origin(), request, tasks, choices, delivery.reads()).await;
            sessions.map(|sessions| (sessions, None))
        }
        Some(call) => {
            let task = Choosing { request, tasks, choices, reads: delivery.reads() };
            let submitted = tool_calls::submit(service, &context, task, call).await;
            submitted.map(|(sessions, calls)| (sessions, Some(calls)))
        }
    };
    let (sessions, calls) =
        submitted.map_err(|error| about(about(error, "max_tokens", length_field), "response_format", format_field))?;
    let prompts = sessions.chunks(choices.max(1)).map(|sessions| Arc::clone(&sessions[0].start.prompt));
    let prompts: Vec<_> = prompts.collect();
    let echo: Vec<_> = echo.into_iter().zip(prompts.iter().cloned()).collect();
    let prompts = if token_ids { prompts } else { Vec::new() };
    let echo = if logprobs {
        divided(service, text_work, echo).await?
    } else {
        echo.into_iter().map(|(text, _)| Echo::plain(text)).collect()
    };
    let writer = ChoiceWriter { shape, logprobs, echo, prompts, choices, handle: service.handle.clone(), calls };
    let head = |is_chunk| Head::new(context.id(), &service.name, shape, is_chunk);
    match delivery {
        Delivery::Whole => {
            let head = head(false);
            let answers = sessions::answers(sessions, &context).await?;
            let tokens = answers.iter().map(|answer| answer.written.len()).sum();
            let write = move || {
                let choices = answers.iter().enumerate().map(|(index, answer)| writer.whole(index, answer)).collect();
                let diffusion = Some(Side::Refinement(Refinement::of(&answers)));
                let usage = Some(Some(writer.usage(&answers)));
                Json(Completion { head: &head, choices, usage, diffusion }).into_response()
            };
            text_work.run(tokens, write).await
        }
        Delivery::Stream { with_edits, with_usage } => {
            let (head, request_id) = (head(true), context.id().to_owned());
            let (answers, has_edits) = (Vec::with_capacity(sessions.len()), vec![false; sessions.len()]);
            let chunks = Chunks { request_id, head, writer, with_edits, with_usage, has_edits, answers };
            Ok(sse::streamed(sse::response(EventStream::new(sessions, chunks, context).items())))
        }
    }
}

/// Prompts, divided among their tokens.
async fn divided(
    service: &Service,
    text_work: &TextWork,
    prompts: Vec<(String, Arc<[TokenId]>)>,
) -> ApiResult<Vec<Echo>> {
    let handle = service.handle.clone();
    let tokens = prompts.iter().map(|(_, tokens)| tokens.len()).sum();
    let divide = move || {
        let divided = prompts.into_iter().map(|(text, tokens)| Echo::divided(text, &tokens, handle.shared_tokenizer()));
        divided.collect()
    };
    text_work.run(tokens, divide).await
}

struct Chunks {
    request_id: String,
    head: Head,
    writer: ChoiceWriter,
    with_edits: bool,
    with_usage: bool,
    /// Whether a chunk with edits was sent, for each choice. The first one has the first canvas.
    has_edits: Vec<bool>,
    answers: Vec<Answer>,
}

impl Chunks {
    fn chunk(&self, choice: Choice<'_>, diffusion: Option<Side>) -> Frame {
        let usage = self.with_usage.then_some(None);
        Event::default().json_data(Completion { head: &self.head, choices: vec![choice], usage, diffusion })
    }

    fn piece(&self, index: usize, content: Content<'_>, diffusion: Option<Side>) -> Frame {
        let (logprobs, finish_reason, quality) = (None, None, None);
        let (token_ids, prompt_token_ids) = (None, None);
        let choice = Choice { index, content, logprobs, finish_reason, quality, token_ids, prompt_token_ids };
        self.chunk(choice, diffusion)
    }
}

impl EventWriter for Chunks {
    type Item = Frame;

    fn begin(&mut self, index: usize, _start: &Start) -> Vec<Frame> {
        self.writer.opening(index).into_iter().map(|content| self.piece(index, content, None)).collect()
    }

    fn step(&mut self, index: usize, step: &StepEvent, start: &Start) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.with_edits {
            let is_first = !std::mem::replace(&mut self.has_edits[index], true);
            let object = StepObject::new(index, step, start, is_first, self.writer.detokenizer());
            frames.push(self.piece(index, self.writer.delta(""), Some(Side::Step(object))));
        }
        if !step.text.is_empty() {
            frames.push(self.piece(index, self.writer.delta(&step.text), None));
        }
        frames
    }

    fn finish(&mut self, index: usize, answer: Answer) -> Vec<Frame> {
        let refinement = Refinement::of(std::slice::from_ref(&answer));
        let frame = self.chunk(self.writer.last(index, &answer), Some(Side::Refinement(refinement)));
        self.answers.push(answer);
        vec![frame]
    }

    fn close(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.with_usage {
            let (head, usage) = (&self.head, Some(Some(self.writer.usage(&self.answers))));
            frames.push(Event::default().json_data(Completion { head, choices: vec![], usage, diffusion: None }));
        }
        frames.push(Ok(Event::default().data("[DONE]")));
        frames
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Event::default().json_data(error.body(Some(&self.request_id)))]
    }
}
