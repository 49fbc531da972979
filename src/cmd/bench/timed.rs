//! A model that times its forward passes and counts what they ask of its device.

use crate::diffusion::TokenId;
use crate::model::{
    Batch, Cost, Counts, Denoiser, Inspection, KeptStates, ModelError, ModelSpec, Readings, Row, SequenceName,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the passes of a run took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    pub(super) passes: u32,
    /// Time of the passes.
    pub(super) reading: Duration,
    /// Time of counting, which no run without a meter has.
    pub(super) aside: Duration,
    /// What the device was asked to do.
    pub(super) counts: Counts,
    /// What the passes computed; `None` of a model without weights.
    pub(super) cost: Option<Cost>,
}

/// A meter that is read while its model is in an engine.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedMeter(Arc<Mutex<Meter>>);

impl SharedMeter {
    /// The meter, which begins anew.
    pub(super) fn take(&self) -> Meter {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Meter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The model.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) model: Box<dyn Denoiser>,
    pub(super) meter: SharedMeter,
}

impl Denoiser for Timed {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        let begun = Instant::now();
        let cost = self.model.cost(batch);
        let before = self.model.counts();
        let aside = begun.elapsed();
        let begun = Instant::now();
        let readings = self.model.read(batch);
        let reading = begun.elapsed();
        let mut meter = self.meter.lock();
        meter.passes += 1;
        meter.reading += reading;
        meter.aside += aside;
        meter.counts += self.model.counts() - before;
        if let Some(cost) = cost {
            meter.cost = Some(meter.cost.unwrap_or_default() + cost);
        }
        readings
    }

    fn tokens(&self, row: &Row<'_>) -> usize {
        self.model.tokens(row)
    }

    fn forget(&mut self, sequence: SequenceName) {
        self.model.forget(sequence);
    }

    fn kept(&self) -> Option<KeptStates> {
        self.model.kept()
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.model.inspect(ids)
    }

    fn inspect_prompted(&mut self, ids: &[TokenId], prompt: usize) -> Result<Inspection, ModelError> {
        self.model.inspect_prompted(ids, prompt)
    }
}
