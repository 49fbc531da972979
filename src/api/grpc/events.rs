//! Answers as gRPC messages: the events of a session, scores, and facts about the model.

use super::proto::{self, edit, generate_event};
use crate::api::answer::{Detokenizer, repair};
use crate::api::error::ApiError;
use crate::api::request::context::RequestContext;
use crate::api::state::service::Service;
use crate::api::stream::sessions::engine_stopped;
use crate::diffusion::{Cell, Edit, Probability, TokenId, u32_of};
use crate::engine::{Answer, Event, Finish, Handle, Output, Session, Start, StepEvent, Written};
use axum::http::StatusCode;
use futures_util::stream::{once, unfold};
use futures_util::{Stream, StreamExt};
use std::future::ready;
use std::pin::Pin;
use tonic::Status;

/// The events of one call. A client that cancels or disconnects drops it, and so the session.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<proto::GenerateEvent, Status>> + Send>>;

/// The methods that stream events. Their answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Generate,
    Infill,
    Repair,
}

/// The session of a call, whose events become messages.
pub(super) struct CallEvents {
    session: Session,
    context: RequestContext,
    model: String,
    handle: Handle,
    method: Method,
    with_edits: bool,
}

impl CallEvents {
    pub(super) fn new(
        service: &Service,
        session: Session,
        context: RequestContext,
        method: Method,
        with_edits: bool,
    ) -> Self {
        Self { session, context, model: service.name.clone(), handle: service.handle.clone(), method, with_edits }
    }

    /// The start at once, then the events as they come, to the last one.
    pub(super) fn stream(self) -> Events {
        let start = message(generate_event::Event::Start(self.start()));
        let rest = unfold(Some(self), |events| async {
            let mut events = events?;
            let (event, goes_on) = events.next().await;
            Some((event, goes_on.then_some(events)))
        });
        Box::pin(once(ready(Ok(start))).chain(rest))
    }

    /// The next message, and whether another one follows.
    async fn next(&mut self) -> (Result<proto::GenerateEvent, Status>, bool) {
        loop {
            let event = tokio::select! {
                biased;
                event = self.session.next() => event,
                error = self.context.interrupted() => return (Err(self.fail(error)), false),
            };
            match event {
                Some(Event::Step(step)) => {
                    if !step.text.is_empty() {
                        self.context.record_text();
                    } else if !self.with_edits {
                        continue;
                    }
                    return (Ok(message(generate_event::Event::Step(self.step(step)))), true);
                }
                Some(Event::Finished(answer)) => {
                    self.context.record_answer(&answer);
                    self.context.set_outcome(StatusCode::OK);
                    return (Ok(message(generate_event::Event::Done(self.done(&answer)))), false);
                }
                Some(Event::Failed(failure)) => return (Err(self.fail(failure.into())), false),
                None => return (Err(self.fail(engine_stopped())), false),
            }
        }
    }

    fn fail(&self, error: ApiError) -> Status {
        self.context.set_outcome(error.status());
        Status::from(error)
    }

    fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer(self.handle.tokenizer())
    }

    fn start(&self) -> proto::Start {
        let start = &self.session.start;
        let cells = start.cells.iter().enumerate().filter_map(|(at, cell)| {
            let token = cell.token()?;
            let pinned = matches!(cell, Cell::Fixed(_));
            Some(proto::Cell { at: u32_of(at), token: token.0, text: self.detokenizer().piece(token), pinned })
        });
        proto::Start {
            id: self.context.id().to_owned(),
            model: self.model.clone(),
            canvas_length: u32_of(start.cells.len()),
            cells: cells.collect(),
            steps_planned: start.steps_planned,
        }
    }

    fn step(&self, step: StepEvent) -> proto::Step {
        let Start { offset, .. } = self.session.start;
        let edits = if self.with_edits { &step.edits[..] } else { &[] };
        proto::Step {
            step: step.step,
            blanks: u32_of(step.blanks),
            edits: edits.iter().map(|edit| self.edit(edit, offset)).collect(),
            text: step.text,
        }
    }

    fn edit(&self, edit: &Edit, offset: usize) -> proto::Edit {
        let kind = match *edit {
            Edit::Fill { token, confidence, .. } => {
                let text = self.detokenizer().piece(token);
                edit::Kind::Fill(edit::Fill { token: token.0, text, confidence: confidence.get() })
            }
            Edit::Erase { was, quality, .. } => {
                edit::Kind::Erase(edit::Erase { was: was.0, quality: quality.map(Probability::get) })
            }
        };
        proto::Edit { at: u32_of(edit.at().index() - offset), kind: Some(kind) }
    }

    fn done(&self, answer: &Answer) -> proto::Done {
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
                let cells = &self.session.start.cells;
                let given: Vec<TokenId> = cells.iter().filter_map(|cell| cell.token()).collect();
                let replaced = repair::replaced(&given, answer, detokenizer).into_iter().map(replacement).collect();
                (replaced, repair::diff(&given, answer, detokenizer))
            }
        };
        proto::Done {
            id: self.context.id().to_owned(),
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
            tokens: tokens(answer, self.session.start.offset, detokenizer),
            replaced,
            diff,
        }
    }
}

fn message(event: generate_event::Event) -> proto::GenerateEvent {
    proto::GenerateEvent { event: Some(event) }
}

fn replacement(replaced: repair::Replaced) -> proto::Replacement {
    let repair::Replaced { at, was, was_text, token, text, confidence } = replaced;
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
    let &Answer { steps, forward_passes, filled, erased, degraded, .. } = answer;
    proto::Summary { steps, forward_passes, filled, erased, degraded }
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

/// The model that is served.
pub(super) fn info(service: &Service) -> proto::InfoResponse {
    let spec = service.handle.spec();
    proto::InfoResponse {
        model: service.name.clone(),
        created: service.created,
        family: spec.family.clone(),
        vocabulary: spec.vocabulary,
        canvas_limit: u32_of(service.handle.canvas_max()),
        has_quality_head: spec.has_quality,
        adapters_folded: spec.adapters_folded,
        dtype: spec.dtype.clone(),
        weights: spec.weights.clone(),
        device: spec.device.clone(),
        parameters: spec.parameters,
        has_tokenizer: service.handle.tokenizer().is_some(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
