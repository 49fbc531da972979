//! Answers as gRPC messages: a session's events one by one, and what is answered in one piece. Refuses to know what was asked.

use crate::api::Service;
use crate::api::answer::objects::Words;
use crate::api::answer::repair;
use crate::api::error::ApiError;
use crate::api::grpc::proto;
use crate::api::grpc::proto::edit;
use crate::api::grpc::proto::generate_event;
use crate::api::request::context::Ticket;
use crate::api::stream::sessions;
use crate::diffusion::{Cell, Edit, Probability, TokenId};
use crate::engine::{Answer, Event, Finish, Handle, Output, Session, Start, StepEvent, Written};
use axum::http::StatusCode;
use futures_util::stream::{once, unfold};
use futures_util::{Stream, StreamExt};
use std::future::ready;
use std::pin::Pin;
use tonic::Status;

/// The events of one call. Dropping it, as happens when the caller cancels or goes away, drops the session.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<proto::GenerateEvent, Status>> + Send>>;

/// What a call asked for, as far as its answer looks different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Generate,
    Infill,
    Repair,
}

/// A session being told.
pub(crate) struct Show {
    session: Session,
    ticket: Ticket,
    model: String,
    handle: Handle,
    kind: Kind,
    with_edits: bool,
}

impl Show {
    pub(crate) fn new(service: &Service, session: Session, ticket: Ticket, kind: Kind, with_edits: bool) -> Self {
        Self { session, ticket, model: service.name.clone(), handle: service.handle.clone(), kind, with_edits }
    }

    /// The canvas at once, then what happens to it, to the last event.
    pub(crate) fn events(self) -> Events {
        let opening = happened(generate_event::Event::Start(self.start()));
        let rest = unfold(Some(self), |show| async {
            let mut show = show?;
            let (event, goes_on) = show.next().await;
            Some((event, goes_on.then_some(show)))
        });
        Box::pin(once(ready(Ok(opening))).chain(rest))
    }

    /// The next event that is to be told, and whether another one follows.
    async fn next(&mut self) -> (Result<proto::GenerateEvent, Status>, bool) {
        loop {
            let event = tokio::select! {
                biased;
                event = self.session.next() => event,
                error = self.ticket.interrupted() => return (Err(self.fail(error)), false),
            };
            match event {
                Some(Event::Step(step)) => {
                    if !step.text.is_empty() {
                        self.ticket.has_text();
                    } else if !self.with_edits {
                        continue;
                    }
                    return (Ok(happened(generate_event::Event::Step(self.step(step)))), true);
                }
                Some(Event::Finished(answer)) => {
                    self.ticket.has_answer(&answer);
                    self.ticket.settle(StatusCode::OK);
                    return (Ok(happened(generate_event::Event::Done(self.done(&answer)))), false);
                }
                Some(Event::Failed(failure)) => return (Err(self.fail(failure.into())), false),
                None => return (Err(self.fail(sessions::gone())), false),
            }
        }
    }

    fn fail(&self, error: ApiError) -> Status {
        self.ticket.settle(error.status());
        Status::from(error)
    }

    fn words(&self) -> Words<'_> {
        Words(self.handle.tokenizer())
    }

    fn start(&self) -> proto::Start {
        let start = &self.session.start;
        let cells = start.cells.iter().enumerate().filter_map(|(at, cell)| {
            let token = cell.token()?;
            let pinned = matches!(cell, Cell::Fixed(_));
            Some(proto::Cell { at: number(at), token: token.0, text: self.words().piece(token), pinned })
        });
        proto::Start {
            id: self.ticket.id().to_owned(),
            model: self.model.clone(),
            canvas_length: number(start.cells.len()),
            cells: cells.collect(),
            steps_planned: start.steps_planned,
        }
    }

    fn step(&self, step: StepEvent) -> proto::Step {
        let Start { offset, .. } = self.session.start;
        let edits = if self.with_edits { &step.edits[..] } else { &[] };
        proto::Step {
            step: step.step,
            blanks: number(step.blanks),
            edits: edits.iter().map(|edit| self.edit(edit, offset)).collect(),
            text: step.text,
        }
    }

    fn edit(&self, edit: &Edit, offset: usize) -> proto::Edit {
        let kind = match *edit {
            Edit::Fill { token, confidence, .. } => {
                let text = self.words().piece(token);
                edit::Kind::Fill(edit::Fill { token: token.0, text, confidence: confidence.get() })
            }
            Edit::Erase { was, quality, .. } => {
                edit::Kind::Erase(edit::Erase { was: was.0, quality: quality.map(Probability::get) })
            }
        };
        proto::Edit { at: number(edit.at().index() - offset), kind: Some(kind) }
    }

    fn done(&self, answer: &Answer) -> proto::Done {
        let words = self.words();
        let (text, tail, gaps) = match (&answer.output, self.kind) {
            // a text between two others is one gap, all of which comes at the end
            (Output::Infill { gaps, .. }, Kind::Generate) => {
                let written = gaps.first().cloned().unwrap_or_default();
                (written.clone(), written, Vec::new())
            }
            (Output::Infill { text, gaps }, Kind::Infill | Kind::Repair) => (text.clone(), String::new(), gaps.clone()),
            (Output::Continuation(text) | Output::Revision(text), _) => (text.clone(), answer.tail.clone(), Vec::new()),
        };
        let (replaced, diff) = match self.kind {
            Kind::Generate | Kind::Infill => (Vec::new(), String::new()),
            Kind::Repair => {
                let cells = &self.session.start.cells;
                let given: Vec<TokenId> = cells.iter().filter_map(|cell| cell.token()).collect();
                let replaced = repair::replaced(&given, answer, words).into_iter().map(replacement).collect();
                (replaced, repair::diff(&given, answer, words))
            }
        };
        proto::Done {
            id: self.ticket.id().to_owned(),
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
            tokens: tokens(answer, self.session.start.offset, words),
            replaced,
            diff,
        }
    }
}

fn happened(event: generate_event::Event) -> proto::GenerateEvent {
    proto::GenerateEvent { event: Some(event) }
}

/// Counts of a canvas, which are far below the limit.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn replacement(replaced: repair::Replaced) -> proto::Replacement {
    let repair::Replaced { at, was, was_text, token, text, confidence } = replaced;
    proto::Replacement { at: number(at), was, was_text, token, text, confidence }
}

fn usage(answer: &Answer) -> proto::Usage {
    proto::Usage {
        prompt_tokens: number(answer.prompt_tokens),
        completion_tokens: number(answer.completion_tokens),
        total_tokens: number(answer.prompt_tokens + answer.completion_tokens),
    }
}

fn summary(answer: &Answer) -> proto::Summary {
    let &Answer { steps, forward_passes, filled, erased, degraded, .. } = answer;
    proto::Summary { steps, forward_passes, filled, erased, degraded }
}

/// The tokens of an answer up to the end of its text, or all of a text that was given.
fn tokens(answer: &Answer, offset: usize, words: Words<'_>) -> Vec<proto::Token> {
    let (length, is_given) = match answer.output {
        Output::Continuation(_) | Output::Infill { .. } => (answer.completion_tokens, false),
        Output::Revision(_) => (usize::MAX, true),
    };
    let token = |written: &Written| proto::Token {
        at: number(written.at.index() - offset),
        token: written.token.0,
        text: words.piece(written.token),
        confidence: (!is_given).then(|| written.confidence.get()),
        quality: written.quality.map(Probability::get),
        likelihood: written.likelihood.map(Probability::get),
    };
    answer.written.iter().take(length).map(token).collect()
}

/// A judged text; tokens of a quality below `below` are doubtful.
pub(crate) fn score(answer: &Answer, below: f32, ticket: &Ticket, service: &Service) -> proto::ScoreResponse {
    let tokens = tokens(answer, 0, Words(service.handle.tokenizer()));
    let doubtful = tokens.iter().filter(|token| token.quality.is_some_and(|quality| quality < below));
    proto::ScoreResponse {
        id: ticket.id().to_owned(),
        model: service.name.clone(),
        doubtful: doubtful.map(|token| token.at).collect(),
        tokens,
        usage: Some(usage(answer)),
        diffusion: Some(summary(answer)),
    }
}

/// What is served.
pub(crate) fn info(service: &Service) -> proto::InfoResponse {
    let spec = service.handle.spec();
    proto::InfoResponse {
        model: service.name.clone(),
        created: service.created,
        family: spec.family.clone(),
        vocabulary: spec.vocabulary,
        canvas_limit: number(service.handle.canvas_max()),
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
