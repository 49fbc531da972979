//! Reloads a failed model: how often, and after which pause. Out of scope: detecting failures.

use super::clock::Clock;
use crate::diffusion::TokenId;
use crate::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Readings};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The model is reloaded at most once in this time. A model that fails more often needs a new
/// process, or the attention of an operator.
const RELOAD_INTERVAL: Duration = Duration::from_secs(600);

/// Loads the model again, on the engine's thread. The error is a sentence for the log.
pub type Reload = Box<dyn FnMut() -> Result<Box<dyn Denoiser>, String> + Send>;

/// What the engine takes from its surroundings.
#[derive(Debug)]
pub struct World {
    /// Its clock.
    pub clock: Clock,
    /// What happens when the model fails.
    pub restart: Restart,
}

impl From<Clock> for World {
    fn from(clock: Clock) -> Self {
        Self { clock, restart: Restart::never() }
    }
}

/// What happens when the model fails.
pub struct Restart {
    load: Option<Reload>,
    pause: Duration,
    last: Option<Instant>,
}

impl Restart {
    /// The model stays in use.
    pub const fn never() -> Self {
        Self { load: None, pause: Duration::ZERO, last: None }
    }

    /// The model is reloaded by `load` after a `pause`, at most once in ten minutes.
    pub fn by(load: Reload, pause: Duration) -> Self {
        Self { load: Some(load), pause, last: None }
    }

    pub(super) const fn is_possible(&self) -> bool {
        self.load.is_some()
    }

    /// Replaces `model` by a new one. Drops the old one first: a device may lack memory for two.
    ///
    /// # Errors
    /// When the model cannot be reloaded; a sentence says why.
    pub(super) fn replace(&mut self, model: &mut Box<dyn Denoiser>, now: Instant) -> Result<(), String> {
        let Some(load) = &mut self.load else { return Err("it cannot be loaded anew".to_owned()) };
        if self.last.is_some_and(|last| now.duration_since(last) < RELOAD_INTERVAL) {
            let minutes = RELOAD_INTERVAL.as_secs() / 60;
            return Err(format!("it has been loaded anew within the last {minutes} minutes already"));
        }
        self.last = Some(now);
        let spec = model.spec().clone();
        let absent = Box::new(Absent(spec.clone()));
        // a model that panicked may panic again when it is dropped
        let _ = catch_unwind(AssertUnwindSafe(|| *model = absent));
        std::thread::sleep(self.pause);
        let fresh = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err("loading it panicked".to_owned()))?;
        if *fresh.spec() != spec {
            return Err("its files are those of another model now".to_owned());
        }
        *model = fresh;
        Ok(())
    }
}

impl fmt::Debug for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Restart").field("is_possible", &self.is_possible()).finish_non_exhaustive()
    }
}

/// Takes the place of a model that was dropped.
#[derive(Debug)]
struct Absent(ModelSpec);

impl Denoiser for Absent {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }

    fn read(&mut self, _: &Batch<'_>) -> Result<Readings, ModelError> {
        Err(ModelError::Failed("the model is gone".to_owned()))
    }

    fn inspect(&mut self, _: &[TokenId]) -> Result<Inspection, ModelError> {
        Err(ModelError::Failed("the model is gone".to_owned()))
    }
}
