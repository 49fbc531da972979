//! A forward pass of a replica: reads the sequences that were chosen for it, and advances each one.
//! Synchronous. Out of scope: which sequences these are (`pool`), clocks and channels (`worker`).

use super::batch_limit::BatchLimit;
use super::event::Event;
use super::job::SequenceId;
use super::pool::Sequence;
use crate::model::{Denoiser, ModelError, Readings, Row};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Debug, Default)]
pub(super) struct Tick {
    /// Sequences that shared the forward pass.
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    /// Why the forward pass failed, if it did.
    pub(super) failure: Option<ModelError>,
    /// The new limit on the tokens of a pass, if the device ran out of memory under the old one.
    /// Then all sequences go on.
    pub(super) shrunk: Option<usize>,
    /// The new limit, if it is raised again.
    pub(super) grown: Option<usize>,
    pub(super) events: Vec<(SequenceId, Event)>,
    /// The sequences that go on, in the order of the batch.
    pub(super) unfinished: Vec<Sequence>,
}

/// A model, and the most tokens that its device takes at once.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) model: Box<dyn Denoiser>,
    pub(super) batch: BatchLimit,
}

impl Engine {
    pub(super) fn new(model: Box<dyn Denoiser>, batch_tokens_max: usize) -> Self {
        Self { model, batch: BatchLimit::new(batch_tokens_max) }
    }

    /// Read, advance.
    pub(super) fn tick(&mut self, mut batch: Vec<Sequence>) -> Tick {
        let mut events = Vec::new();
        batch.retain_mut(|(id, job)| match job.finished() {
            Some(answer) => {
                events.push((*id, answer));
                false
            }
            None => true,
        });
        let rows: Vec<Vec<Row<'_>>> = batch.iter().map(|(id, job)| job.rows(*id)).collect();
        let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
        let rows: Vec<Row<'_>> = rows.into_iter().flatten().collect();
        let (sequences, tokens): (usize, usize) = (batch.len(), rows.iter().map(|row| self.model.tokens(row)).sum());
        let (is_divisible, readings) = (rows.len() > 1, read(self.model.as_mut(), &rows));
        let failure = readings.as_ref().err().cloned();
        drop(rows);

        if let (Err(ModelError::OutOfMemory(_)), true) = (&readings, is_divisible) {
            // the next tick reads the same sequences, fewer rows at a time
            let shrunk = Some(self.batch.lower(tokens));
            return Tick { shrunk, events, unfinished: batch, ..Tick::default() };
        }
        let (mut grown, mut unfinished) = (None, Vec::new());
        match readings {
            Ok(readings) => {
                grown = if sequences > 0 { self.batch.succeeded(tokens) } else { None };
                let mut readings = readings.into_iter();
                for ((id, mut job), count) in batch.drain(..).zip(counts) {
                    let taken = job.take(readings.by_ref().take(count));
                    let taken = taken.unwrap_or_else(|failure| vec![Event::Failed(failure)]);
                    if !matches!(taken.last(), Some(Event::Finished(_) | Event::Failed(_))) {
                        unfinished.push((id, job));
                    }
                    events.extend(taken.into_iter().map(|event| (id, event)));
                }
            }
            Err(error) => events.extend(batch.drain(..).map(|(id, _)| (id, Event::Failed(error.clone().into())))),
        }
        Tick { sequences, tokens, failure, shrunk: None, grown, events, unfinished }
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
