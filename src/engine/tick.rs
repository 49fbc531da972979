//! The scheduler. Every tick chooses the sequences of the next forward pass, reads them, and
//! advances each one. Synchronous. Out of scope: clocks and channels, which belong to `worker`.

use super::event::{Event, Failure};
use super::job::{Job, SequenceId};
use crate::diffusion::u32_of;
use crate::model::{Denoiser, ModelError, Readings, Row};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{collections::VecDeque, time::Duration};

/// Starts in a row that may pass over the request that has waited longest, for others of a lower
/// priority number. The next start is its own: whatever priorities others ask for, the request at
/// place n of the queue in order of arrival starts within 4n starts.
const PASSED_OVER_MAX: u32 = 3;

/// What happened to the queue before a pass.
#[derive(Debug, Default)]
pub(super) struct Begun {
    pub(super) started: Vec<SequenceId>,
    /// The failures of those whose deadline came first.
    pub(super) late: Vec<(SequenceId, Event)>,
}

#[derive(Debug, Default)]
pub(super) struct Tick {
    /// Sequences that shared the forward pass.
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    /// Why the forward pass failed, if it did.
    pub(super) failure: Option<ModelError>,
    /// The new limit on the tokens of a pass, if the device ran out of memory under the old one.
    pub(super) shrunk: Option<usize>,
    pub(super) events: Vec<(SequenceId, Event)>,
}

/// The queued and the running sequences, and the model they share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) model: Box<dyn Denoiser>,
    pub(super) running_max: usize,
    pub(super) batch_tokens_max: usize,
    pub(super) waiting: VecDeque<(SequenceId, Job)>,
    /// Starts in a row that passed over the request that has waited longest.
    passed_over: u32,
    /// The least recently stepped first; a new sequence comes last.
    pub(super) running: VecDeque<(SequenceId, Job)>,
}

impl Engine {
    pub(super) fn new(model: Box<dyn Denoiser>, running_max: usize, batch_tokens_max: usize) -> Self {
        let (waiting, running) = (VecDeque::new(), VecDeque::new());
        Self { model, running_max, batch_tokens_max, waiting, passed_over: 0, running }
    }

    /// Queues a job behind those of its own priority.
    pub(super) fn submit(&mut self, id: SequenceId, job: Job) {
        let place = self.waiting.partition_point(|(_, other)| other.options.priority <= job.options.priority);
        self.waiting.insert(place, (id, job));
    }

    pub(super) fn cancel(&mut self, id: SequenceId) {
        self.waiting.retain(|(other, _)| *other != id);
        self.running.retain(|(other, _)| *other != id);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Starts queued sequences, and plans every running one that has a deadline, anew before each
    /// pass: steps that a moment of load took are given back when it is over. `passes_left` gets a
    /// sequence, its deadline and the passes of the engine per pass of a sequence; it returns how
    /// many passes of its own the sequence has time for, or `None` after the deadline: if queued,
    /// it fails then.
    pub(super) fn begin(&mut self, passes_left: impl Fn(SequenceId, Duration, u32) -> Option<u32>) -> Begun {
        let mut late = Vec::new();
        self.waiting.retain(|(id, job)| match job.options.deadline {
            Some(deadline) if passes_left(*id, deadline, 1).is_none() => {
                late.push((*id, Event::Failed(Failure::TooLate { deadline })));
                false
            }
            Some(_) | None => true,
        });
        let started = self.start();
        let rounds = self.passes_per_round().max(1);
        for (id, job) in &mut self.running {
            if let Some(deadline) = job.options.deadline {
                job.limit_passes(passes_left(*id, deadline, rounds).unwrap_or(0));
            }
        }
        Begun { started, late }
    }

    /// Choose, read, advance.
    pub(super) fn tick(&mut self) -> Tick {
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
            // the next tick reads the same sequences, fewer at a time
            self.batch_tokens_max = (tokens / 2).max(1);
            batch.into_iter().rev().for_each(|sequence| self.running.push_front(sequence));
            return Tick { shrunk: Some(self.batch_tokens_max), events, ..Tick::default() };
        }
        match readings {
            Ok(readings) => {
                for ((id, mut job), reading) in batch.drain(..).zip(readings) {
                    let taken = reading.map_err(|error| Failure::Model(error.into())).and_then(|it| job.take(&it));
                    let taken = taken.unwrap_or_else(|failure| vec![Event::Failed(failure)]);
                    if !matches!(taken.last(), Some(Event::Finished(_) | Event::Failed(_))) {
                        self.running.push_back((id, job));
                    }
                    events.extend(taken.into_iter().map(|event| (id, event)));
                }
            }
            Err(error) => events.extend(batch.drain(..).map(|(id, _)| (id, Event::Failed(error.clone().into())))),
        }
        Tick { sequences, tokens, failure, shrunk: None, events }
    }

    /// Moves sequences from the queue to the running ones, up to `running_max`.
    fn start(&mut self) -> Vec<SequenceId> {
        let mut started = Vec::new();
        while self.running.len() < self.running_max {
            let Some((id, job)) = self.next() else { break };
            started.push(id);
            self.running.push_back((id, job));
        }
        started
    }

    /// Takes the next sequence from the queue: by priority, but the one that has waited longest is
    /// passed over a few times at most.
    fn next(&mut self) -> Option<(SequenceId, Job)> {
        let longest = (0..self.waiting.len()).min_by_key(|place| self.waiting[*place].0)?;
        let place = if self.passed_over < PASSED_OVER_MAX { 0 } else { longest };
        self.passed_over = if place == longest { 0 } else { self.passed_over + 1 };
        self.waiting.remove(place)
    }

    /// Takes out the sequences of the next pass: the least recently stepped first, as many as fit.
    /// The first one always fits, so that a canvas larger than the batch limit runs alone.
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

    /// Passes of the engine in which every running sequence is read once.
    fn passes_per_round(&self) -> u32 {
        let tokens: usize = self.running.iter().filter_map(|(_, job)| job.row()).map(|row| row.tokens()).sum();
        u32_of(tokens.div_ceil(self.batch_tokens_max.max(1)))
    }

    /// Expected passes until the first running sequence ends, as far as their paces have bounds.
    pub(super) fn passes_until_room(&self) -> u32 {
        let passes_left = self.running.iter().filter_map(|(_, job)| job.passes_left()).min();
        passes_left.unwrap_or(1).saturating_mul(self.passes_per_round())
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.waiting.clear();
    }
}

/// One forward pass. A panic of the model fails the batch like any other error.
fn read(model: &mut dyn Denoiser, rows: &[Row<'_>]) -> Result<Readings, ModelError> {
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
