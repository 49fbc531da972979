//! Answers as gRPC messages: the events of a session, scores, and facts about the model.

use super::proto::{self, edit, generate_event};
use crate::api::answer::{Detokenizer, Spelling, repair};
use crate::api::error::ApiError;
use crate::api::request::context::RequestContext;
use crate::api::state::services::Service;
use crate::api::stream::sessions::{EventStream, EventWriter};
use crate::diffusion::{Cell, Edit, Probability, TokenId, u32_of};
use crate::engine::{Answer, Finish, Handle, Output, Session, Start, StepEvent, Written};
use futures_util::Stream;
use serde_json::json;
use std::pin::Pin;
use tonic::Status;

/// The messages of one call. A client that cancels or disconnects drops it, and so the session.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<proto::GenerateEvent, Status>> + Send>>;

/// The methods that stream events. Their answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Generate,
    Infill,
    Repair,
}

/// Streams a session, whose start comes at once.
pub(super) fn stream(
    service: &Service,
    session: Session,
    context: RequestContext,
    method: Method,
    with_edits: bool,
) -> Events {
    let (id, model, handle) = (context.id().to_owned(), service.name.clone(), service.handle.clone());
    let writer = MessageWriter { id, model, handle, start: session.start.clone(), method, with_edits };
    Box::pin(EventStream::new(vec![session], writer, context).items())
}

struct MessageWriter {
    id: String,
    model: String,
    handle: Handle,
    start: Start,
    method: Method,
    with_edits: bool,
}

impl EventWriter for MessageWriter {
    type Item = Result<proto::GenerateEvent, Status>;

    fn begin(&mut self, _: usize, _: &Start) -> Vec<Self::Item> {
        message(generate_event::Event::Start(self.start_message()))
    }

    fn step(&mut self, _: usize, step: &StepEvent, _: &Start) -> Vec<Self::Item> {
        if step.text.is_empty() && !self.with_edits {
            return Vec::new();
        }
        message(generate_event::Event::Step(self.step_message(step)))
    }

    fn finish(&mut self, _: usize, answer: Answer) -> Vec<Self::Item> {
        message(generate_event::Event::Done(self.done_message(&answer)))
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Self::Item> {
        vec![Err(error.clone().into())]
    }
}

fn message(event: generate_event::Event) -> Vec<Result<proto::GenerateEvent, Status>> {
    vec![Ok(proto::GenerateEvent { event: Some(event) })]
}

impl MessageWriter {
    fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer(self.handle.tokenizer())
    }

    fn start_message(&self) -> proto::Start {
        let cells = self.start.cells.iter().enumerate().filter_map(|(at, cell)| {
            let token = cell.token()?;
            let pinned = matches!(cell, Cell::Fixed(_));
            let Spelling { text, bytes } = self.detokenizer().spelling(token);
            Some(proto::Cell { at: u32_of(at), token: token.0, text, pinned, bytes })
        });
        proto::Start {
            id: self.id.clone(),
            model: self.model.clone(),
            canvas_length: u32_of(self.start.cells.len()),
            cells: cells.collect(),
            steps_planned: self.start.steps_planned,
            ends: self.start.ends.iter().map(|end| end.0).collect(),
        }
    }

    fn step_message(&self, step: &StepEvent) -> proto::Step {
        let edits = if self.with_edits { &step.edits[..] } else { &[] };
        proto::Step {
            step: step.step,
            blanks: u32_of(step.blanks),
            edits: edits.iter().map(|edit| self.edit(edit)).collect(),
            text: step.text.clone(),
            erased_by: if self.with_edits {
                step.erased_by.iter().map(ToString::to_string).collect()
            } else {
                Vec::new()
            },
        }
    }

    fn edit(&self, edit: &Edit) -> proto::Edit {
        let kind = match *edit {
            Edit::Fill { token, confidence, .. } => {
                let Spelling { text, bytes } = self.detokenizer().spelling(token);
                edit::Kind::Fill(edit::Fill { token: token.0, text, confidence: confidence.get(), bytes })
            }
            Edit::Erase { was, quality, .. } => {
                edit::Kind::Erase(edit::Erase { was: was.0, quality: quality.map(Probability::get) })
            }
            Edit::Replace { was, token, confidence, .. } => {
                let Spelling { text, bytes } = self.detokenizer().spelling(token);
                let (was, token, confidence) = (was.0, token.0, confidence.get());
                edit::Kind::Replace(edit::Replace { was, token, text, confidence, bytes })
            }
        };
        proto::Edit { at: u32_of(edit.at().index() - self.start.offset), kind: Some(kind) }
    }

    fn done_message(&self, answer: &Answer) -> proto::Done {
        let detokenizer = self.detokenizer();
        let (text, tail, gaps) = match (&answer.output, self.method) {
            // a text before a suffix is one gap, which is sent as a whole at the end
            (Output::Infill { gaps, .. }, Method::Generate) => {
                let written = gaps.first().cloned().unwrap_or_default();
                (written.clone(), written, Vec::new())
            }
            (Output::Infill { text, gaps }, Method::Infill | Method::Repair) => {
                (text.clone(), String::new(), gaps.clone())
            }
            (Output::Continuation(text) | Output::Revision(text), _) => (text.clone(), answer.tail.clone(), Vec::new()),
        };
        let (replaced, diff) = match self.method {
            Method::Generate | Method::Infill => (Vec::new(), String::new()),
            Method::Repair => {
                let given: Vec<TokenId> = self.start.cells.iter().filter_map(|cell| cell.token()).collect();
                let replaced = repair::replaced(&given, answer, detokenizer).into_iter().map(replacement).collect();
                (replaced, repair::diff(&given, answer, detokenizer))
            }
        };
        proto::Done {
            id: self.id.clone(),
            model: self.model.clone(),
            text,
            tail,
            gaps,
            finish_reason: match answer.finish {
                Finish::Stop => proto::FinishReason::Stop.into(),
                Finish::Length => proto::FinishReason::Length.into(),
            },
            usage: Some(usage(answer)),
            diffusion: Some(summary(answer)),
            tokens: tokens(answer, self.start.offset, detokenizer),
            replaced,
            diff,
        }
    }
}

fn replacement(replaced: repair::Replaced) -> proto::Replacement {
    let repair::Replaced { at, was, was_text, token, text, confidence, .. } = replaced;
    proto::Replacement { at: u32_of(at), was, was_text, token, text, confidence }
}

fn usage(answer: &Answer) -> proto::Usage {
    proto::Usage {
        prompt_tokens: u32_of(answer.prompt_tokens),
        completion_tokens: u32_of(answer.completion_tokens),
        total_tokens: u32_of(answer.prompt_tokens + answer.completion_tokens),
    }
}

fn summary(answer: &Answer) -> proto::Summary {
    let &Answer { steps, forward_passes, forward_tokens, filled, erased, replaced, degraded, .. } = answer;
    proto::Summary { steps, forward_passes, forward_tokens, filled, erased, degraded, replaced }
}

/// The tokens of an answer up to the end of its text, or all tokens of a given text.
fn tokens(answer: &Answer, offset: usize, detokenizer: Detokenizer<'_>) -> Vec<proto::Token> {
    let (length, is_given) = match answer.output {
        Output::Continuation(_) | Output::Infill { .. } => (answer.completion_tokens, false),
        Output::Revision(_) => (usize::MAX, true),
    };
    let token = |written: &Written| proto::Token {
        at: u32_of(written.at.index() - offset),
        token: written.token.0,
        text: detokenizer.piece(written.token),
        confidence: (!is_given).then(|| written.confidence.get()),
        quality: written.quality.map(Probability::get),
        likelihood: written.likelihood.map(Probability::get),
    };
    answer.written.iter().take(length).map(token).collect()
}

/// The answer to a score. Tokens of a quality below `below` are doubtful.
pub(super) fn score(answer: &Answer, below: f32, context: &RequestContext, service: &Service) -> proto::ScoreResponse {
    let tokens = tokens(answer, 0, Detokenizer(service.handle.tokenizer()));
    let doubtful = tokens.iter().filter(|token| token.quality.is_some_and(|quality| quality < below));
    proto::ScoreResponse {
        id: context.id().to_owned(),
        model: service.name.clone(),
        doubtful: doubtful.map(|token| token.at).collect(),
        tokens,
        usage: Some(usage(answer)),
        diffusion: Some(summary(answer)),
    }
}

pub(super) fn info(service: &Service) -> proto::InfoResponse {
    let (spec, presets) = (service.handle.spec(), service.handle.presets().0.iter());
    proto::InfoResponse {
        model: service.name.clone(),
        created: service.created,
        family: spec.family.clone(),
        vocabulary: spec.vocabulary,
        canvas_limit: u32::try_from(service.handle.canvas_max()).unwrap_or(u32::MAX), // an operator may set any limit
        has_quality_head: spec.has_quality,
        caches: spec.keeping.name().to_owned(),
        adapters_folded: spec.adapters_folded,
        dtype: spec.dtype.clone(),
        weights: spec.weights.clone(),
        device: spec.device.clone(),
        parameters: spec.parameters,
        has_tokenizer: service.handle.tokenizer().is_some(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        presets: presets.map(|(name, preset)| (name.clone(), json!(preset.text).to_string())).collect(),
    }
}
