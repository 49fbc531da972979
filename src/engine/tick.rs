//! The scheduler. Every tick chooses the sequences of the next forward pass, reads them, and
//! advances each one. Synchronous. Out of scope: clocks and channels, which belong to `worker`.

use super::batch_limit::BatchLimit;
use super::event::{Event, Failure};
use super::job::{Job, SequenceId};
use super::places::Places;
use super::queue::Queue;
use crate::diffusion::u32_of;
use crate::model::{Denoiser, ModelError, Readings, Row};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{collections::VecDeque, time::Duration};

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
    /// The new limit, if it is raised again.
    pub(super) grown: Option<usize>,
    pub(super) events: Vec<(SequenceId, Event)>,
}

/// The queued and the running sequences, and the model they share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) model: Box<dyn Denoiser>,
    pub(super) running_max: usize,
    batch: BatchLimit,
    pub(super) waiting: Queue,
    /// The least recently stepped first; a new sequence comes last.
    pub(super) running: VecDeque<(SequenceId, Job)>,
}

impl Engine {
    pub(super) fn new(model: Box<dyn Denoiser>, running_max: usize, batch_tokens_max: usize) -> Self {
        let (waiting, running) = (Queue::default(), VecDeque::new());
        Self { model, running_max, batch: BatchLimit::new(batch_tokens_max), waiting, running }
    }

    pub(super) fn submit(&mut self, id: SequenceId, job: Job) {
        self.waiting.push(id, job);
    }

    pub(super) fn cancel(&mut self, id: SequenceId) {
        drop(self.waiting.extract(|other, _| other == id));
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
        let late = self.waiting.extract(|id, job| {
            let deadline = job.options.deadline.filter(|_| !job.has_begun());
            deadline.is_some_and(|deadline| passes_left(id, deadline, 1).is_none())
        });
        let failed = |(id, job): (SequenceId, Job)| {
            let deadline = job.options.deadline.unwrap_or_default();
            (id, Event::Failed(Failure::TooLate { deadline }))
        };
        let late = late.into_iter().map(failed).collect();
        let started = self.start();
        let rounds = self.passes_per_round().max(1);
        let last_chance = self.waiting.extract(|id, job| {
            let deadline = job.options.deadline.filter(|_| job.has_begun());
            deadline.is_some_and(|deadline| passes_left(id, deadline, rounds).is_none_or(|left| left <= 1))
        });
        last_chance.into_iter().for_each(|sequence| self.running.push_front(sequence));
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
        let rows: Vec<Vec<Row<'_>>> = batch.iter().map(|(_, job)| job.rows()).collect();
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let rows: Vec<Row<'_>> = rows.into_iter().flatten().collect();
        let (sequences, tokens): (usize, usize) = (batch.len(), rows.iter().map(Row::tokens).sum());
        let (is_divisible, readings) = (rows.len() > 1, read(self.model.as_mut(), &rows));
        let failure = readings.as_ref().err().cloned();
        drop(rows);

        if let (Err(ModelError::OutOfMemory(_)), true) = (&readings, is_divisible) {
            // the next tick reads the same sequences, fewer rows at a time
            let shrunk = Some(self.batch.lower(tokens));
            batch.into_iter().rev().for_each(|sequence| self.running.push_front(sequence));
            return Tick { shrunk, events, ..Tick::default() };
        }
        let mut grown = None;
        match readings {
            Ok(readings) => {
                grown = if sequences > 0 { self.batch.succeeded(tokens) } else { None };
                let mut readings = readings.into_iter();
                for ((id, mut job), count) in batch.drain(..).zip(counts) {
                    let taken = job.take(readings.by_ref().take(count));
                    let taken = taken.unwrap_or_else(|failure| vec![Event::Failed(failure)]);
                    if !matches!(taken.last(), Some(Event::Finished(_) | Event::Failed(_))) {
                        self.running.push_back((id, job));
                    }
                    events.extend(taken.into_iter().map(|event| (id, event)));
                }
            }
            Err(error) => events.extend(batch.drain(..).map(|(id, _)| (id, Event::Failed(error.clone().into())))),
        }
        Tick { sequences, tokens, failure, shrunk: None, grown, events }
    }

    /// Moves sequences from the queue to the running ones, up to `running_max`. Returns those that
    /// had not run before.
    fn start(&mut self) -> Vec<SequenceId> {
        while let Some(sequence) = self.next() {
            self.running.push_back(sequence);
        }
        self.running.iter_mut().filter_map(|(id, job)| job.start().then_some(*id)).collect()
    }

    /// Takes the next sequence from the queue, if there is a place for it or one is given up.
    fn next(&mut self) -> Option<(SequenceId, Job)> {
        if self.running.len() < self.running_max { self.waiting.pop() } else { self.exchange() }
    }

    /// Where no place is free, a caller without one takes one of the caller with the most, and a
    /// request one of another request of its caller. The sequence that gives it up is queued again
    /// and goes on later. This costs nothing: only the canvas is kept between passes.
    fn exchange(&mut self) -> Option<(SequenceId, Job)> {
        if self.waiting.is_empty() {
            return None;
        }
        let places = Places::of(&self.running);
        let is_new = |caller, request| !places.has_request(caller, request) && places.fullest_of(caller).is_some();
        let fullest = places.fullest()?;
        if let Some(next) = self.waiting.pop_of_caller(|caller| !places.has_caller(caller)) {
            self.pause(fullest);
            return Some(next);
        }
        let next = self.waiting.pop_of_request(is_new)?;
        self.pause(places.fullest_of(next.1.options.origin.caller)?);
        Some(next)
    }

    /// Queues a running sequence of a request again: its newest, and one without a deadline first.
    fn pause(&mut self, request: u64) {
        let of_request = |place: &usize| self.running[*place].1.options.origin.request == request;
        let newest = |place: &usize| (self.running[*place].1.options.deadline.is_none(), self.running[*place].0);
        let place = (0..self.running.len()).filter(of_request).max_by_key(newest);
        if let Some((id, job)) = place.and_then(|place| self.running.remove(place)) {
            self.waiting.push(id, job);
        }
    }

    /// Takes out the sequences of the next pass: the least recently stepped first, as many as fit.
    /// The first one always fits, so that a canvas larger than the batch limit runs alone.
    fn choose(&mut self) -> Vec<(SequenceId, Job)> {
        let (mut chosen, mut passed_over, mut tokens) = (Vec::new(), VecDeque::new(), 0);
        for (id, job) in self.running.drain(..) {
            let more = job.row_tokens().unwrap_or(0);
            if chosen.is_empty() || tokens + more <= self.batch.tokens() {
                tokens += more;
                chosen.push((id, job));
            } else {
                passed_over.push_back((id, job));
            }
        }
        self.running = passed_over;
        share(&mut chosen, self.batch.tokens().saturating_sub(tokens));
        chosen
    }

    /// Passes of the engine in which every running sequence is read once.
    fn passes_per_round(&self) -> u32 {
        let tokens: usize = self.running.iter().filter_map(|(_, job)| job.row_tokens()).sum();
        // a canvas larger than the limit takes one pass, too
        u32_of(tokens.div_ceil(self.batch.tokens().max(1)).min(self.running.len()))
    }

    /// Expected passes until the first running sequence ends, as far as their paces have bounds.
    pub(super) fn passes_until_room(&self) -> u32 {
        let passes_left = self.running.iter().filter_map(|(_, job)| job.passes_left(self.batch.tokens())).min();
        passes_left.unwrap_or(1).saturating_mul(self.passes_per_round())
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.waiting.clear();
    }
}

/// Shares the `room` of a pass among the sequences that may have more rows than one. Beside others
/// they have no more tokens than these, so that the steps of these take twice as long at most.
fn share(chosen: &mut [(SequenceId, Job)], room: usize) {
    let tokens = |job: &Job| job.row_tokens().unwrap_or(0);
    let others: Vec<usize> = chosen.iter().filter(|(_, job)| job.rows_max() <= 1).map(|(_, job)| tokens(job)).collect();
    let mut room = if others.is_empty() { room } else { room.min(others.iter().sum()) };
    let mut sharers = chosen.len() - others.len();
    for (_, job) in chosen {
        let each = if job.rows_max() > 1 { room / sharers } else { 0 };
        let more = (each / tokens(job).max(1)).min(job.rows_max().saturating_sub(1));
        job.prepare(1 + more);
        room -= more * tokens(job);
        sharers -= usize::from(job.rows_max() > 1);
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
