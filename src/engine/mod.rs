//! Who runs next. Every tick chooses the sequences that share the next forward pass, has them read, and advances
//! them. `Engine` is synchronous and knows neither clock nor channel; `worker` gives it both, and [`Handle`] is
//! the one front door for every protocol.

mod admission;
mod clock;
mod draft;
mod event;
mod handle;
mod job;
mod mailbox;
mod pace;
mod request;
mod restart;
mod shape;
mod template;
mod warm_up;
mod worker;

pub use clock::Clock;
pub(crate) use draft::STOPS_MAX;
pub use event::{Answer, Event, Failure, Finish, Output, Start, StepEvent, Written};
pub use handle::{Admitted, Handle, Readiness, Session};
pub use request::{DOUBTFUL, EndOfText, Format, Length, Prompt, Proofreading, Rejected, Remasking, Request, Task};
pub use restart::{Reload, Restart, World};
pub use shape::Shape;
pub use template::DEFAULT_BLANK;
pub use warm_up::warm_up;
pub use worker::{Limits, start, start_by};

use crate::model::{Denoiser, ModelError, Row};
use job::Job;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Names a sequence from its admission to its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SequenceId(u64);

/// What one tick did.
#[derive(Debug, Default)]
struct Tick {
    /// Sequences that left the queue in this tick.
    admitted: Vec<SequenceId>,
    /// Sequences that shared the forward pass.
    sequences: usize,
    /// Tokens the forward pass saw.
    tokens: usize,
    /// Why the forward pass failed, if it did.
    failure: Option<ModelError>,
    /// The limit on the tokens of a pass from now on, where the device had no room for as many as allowed.
    shrunk: Option<usize>,
    /// What the owners hear, in order.
    events: Vec<(SequenceId, Event)>,
}

/// Sequences waiting and running, and the model they share.
#[derive(Debug)]
struct Engine {
    model: Box<dyn Denoiser>,
    running_max: usize,
    batch_tokens_max: usize,
    waiting: VecDeque<(SequenceId, Job)>,
    /// Least recently stepped first; whoever has just been admitted comes last.
    running: VecDeque<(SequenceId, Job)>,
}

impl Engine {
    fn new(model: Box<dyn Denoiser>, running_max: usize, batch_tokens_max: usize) -> Self {
        Self { model, running_max, batch_tokens_max, waiting: VecDeque::new(), running: VecDeque::new() }
    }

    /// Queues a job behind those that are no less urgent.
    fn submit(&mut self, id: SequenceId, job: Job) {
        let place = self.waiting.partition_point(|(_, other)| other.priority() <= job.priority());
        self.waiting.insert(place, (id, job));
    }

    fn cancel(&mut self, id: SequenceId) {
        self.waiting.retain(|(other, _)| *other != id);
        self.running.retain(|(other, _)| *other != id);
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Choose, read, advance.
    fn tick(&mut self) -> Tick {
        let admitted = self.admit();
        let (mut batch, mut events) = (self.choose(), Vec::new());
        batch.retain_mut(|(id, job)| match job.finished() {
            Some(answer) => {
                events.push((*id, answer));
                false
            }
            None => true,
        });
        let rows: Vec<Row<'_>> = batch.iter().filter_map(|(_, job)| job.row()).collect();
        let (sequences, tokens): (usize, usize) = (rows.len(), rows.iter().map(Row::tokens).sum());
        let readings = read(self.model.as_mut(), &rows);
        let failure = readings.as_ref().err().cloned();
        drop(rows);

        if let (Err(ModelError::OutOfMemory(_)), true) = (&readings, batch.len() > 1) {
            // nobody's fault: the same sequences try again, fewer at a time
            self.batch_tokens_max = (tokens / 2).max(1);
            batch.into_iter().rev().for_each(|sequence| self.running.push_front(sequence));
            return Tick { admitted, shrunk: Some(self.batch_tokens_max), events, ..Tick::default() };
        }
        match readings {
            Ok(readings) => {
                for ((id, mut job), reading) in batch.drain(..).zip(readings) {
                    let taken = job.take(&reading).unwrap_or_else(|failure| vec![Event::Failed(failure)]);
                    if !matches!(taken.last(), Some(Event::Finished(_) | Event::Failed(_))) {
                        self.running.push_back((id, job));
                    }
                    events.extend(taken.into_iter().map(|event| (id, event)));
                }
            }
            Err(error) => events.extend(batch.drain(..).map(|(id, _)| (id, Event::Failed(error.clone().into())))),
        }
        Tick { admitted, sequences, tokens, failure, shrunk: None, events }
    }

    /// Moves sequences from the queue to the running ones while there is room.
    fn admit(&mut self) -> Vec<SequenceId> {
        let room = self.running_max.saturating_sub(self.running.len()).min(self.waiting.len());
        let joining: Vec<_> = self.waiting.drain(..room).collect();
        let ids = joining.iter().map(|(id, _)| *id).collect();
        self.running.extend(joining);
        ids
    }

    /// Takes out the sequences of the next pass: the least recently stepped first, as many as fit. The first always
    /// fits, so that a canvas larger than the batch limit runs alone.
    fn choose(&mut self) -> Vec<(SequenceId, Job)> {
        let (mut chosen, mut passed_over, mut tokens) = (Vec::new(), VecDeque::new(), 0);
        for (id, job) in self.running.drain(..) {
            let more = job.row().map_or(0, |row| row.tokens());
            if chosen.is_empty() || tokens + more <= self.batch_tokens_max {
                tokens += more;
                chosen.push((id, job));
            } else {
                passed_over.push_back((id, job));
            }
        }
        self.running = passed_over;
        chosen
    }

    /// Hurries the sequences that have a deadline: `passes_left` says of each how many passes of its own it has still time for,
    /// or that its time is up. Those whose time is up before their turn are given up.
    fn hurry(&mut self, passes_left: impl Fn(SequenceId, Duration, u32) -> Option<u32>) -> Vec<(SequenceId, Event)> {
        let tokens: usize = self.running.iter().filter_map(|(_, job)| job.row()).map(|row| row.tokens()).sum();
        let rounds = u32::try_from(tokens.div_ceil(self.batch_tokens_max.max(1))).unwrap_or(u32::MAX).max(1);
        let mut events = Vec::new();
        self.waiting.retain(|(id, job)| match job.deadline() {
            Some(deadline) if passes_left(*id, deadline, rounds).is_none() => {
                events.push((*id, Event::Failed(Failure::TooLate { deadline })));
                false
            }
            Some(_) | None => true,
        });
        // who waits has at most as much time as now
        for (id, job) in self.running.iter_mut().chain(&mut self.waiting) {
            if let Some(deadline) = job.deadline() {
                job.hurry(passes_left(*id, deadline, rounds).unwrap_or(0));
            }
        }
        events
    }

    /// Passes after which the first running sequence is expected to be done, as far as its pace tells.
    fn passes_until_room(&self) -> u32 {
        let tokens: usize = self.running.iter().filter_map(|(_, job)| job.row()).map(|row| row.tokens()).sum();
        let rounds = u32::try_from(tokens.div_ceil(self.batch_tokens_max.max(1))).unwrap_or(u32::MAX);
        let passes_left = self.running.iter().filter_map(|(_, job)| job.passes_left()).min();
        passes_left.unwrap_or(1).saturating_mul(rounds)
    }

    /// Gives up on everything.
    fn clear(&mut self) {
        self.running.clear();
        self.waiting.clear();
    }
}

/// One forward pass; a panic inside the model fails the batch like any other error, and nobody else.
fn read(model: &mut dyn Denoiser, rows: &[Row<'_>]) -> Result<Vec<crate::diffusion::Reading>, ModelError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let readings = catch_unwind(AssertUnwindSafe(|| model.read(rows))).unwrap_or(Err(ModelError::Panicked))?;
    if readings.len() != rows.len() {
        let (given, wanted) = (readings.len(), rows.len());
        return Err(ModelError::Failed(format!("the model gave {given} readings for {wanted} rows")));
    }
    Ok(readings)
}
