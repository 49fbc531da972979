//! A model that broke down is loaded anew: how often, and after what pause. Refuses to know what broke, and who waits.

use super::clock::Clock;
use crate::diffusion::{Reading, TokenId};
use crate::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// After so long without another breakdown the model may be loaded anew again. What breaks down more often has a cause that a fresh
/// process may be rid of, or that somebody has to look at.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Loads the model anew, on the engine's thread; says in a sentence why it cannot.
pub type Reload = Box<dyn FnMut() -> Result<Box<dyn Denoiser>, String> + Send>;

/// What the engine asks of the world around it.
#[derive(Debug)]
pub struct World {
    /// What time it is.
    pub clock: Clock,
    /// What becomes of a model that broke down.
    pub restart: Restart,
}

impl From<Clock> for World {
    fn from(clock: Clock) -> Self {
        Self { clock, restart: Restart::never() }
    }
}

/// What becomes of a model that broke down.
pub struct Restart {
    load: Option<Reload>,
    pause: Duration,
    last: Option<Instant>,
}

impl Restart {
    /// It goes on as it is.
    #[must_use]
    pub const fn never() -> Self {
        Self { load: None, pause: Duration::ZERO, last: None }
    }

    /// It is loaded anew after `pause`, so that a device has time to recover; but once in ten minutes at most.
    #[must_use]
    pub fn by(load: Reload, pause: Duration) -> Self {
        Self { load: Some(load), pause, last: None }
    }

    pub(super) const fn is_possible(&self) -> bool {
        self.load.is_some()
    }

    /// Puts a fresh model in the place of `model`, which goes first: a device has no room for two.
    ///
    /// # Errors
    /// Says why there is no fresh one.
    pub(super) fn replace(&mut self, model: &mut Box<dyn Denoiser>, now: Instant) -> Result<(), String> {
        let Some(load) = &mut self.load else { return Err("it cannot be loaded anew".to_owned()) };
        if self.last.is_some_and(|last| now.duration_since(last) < FORGIVEN_AFTER) {
            let minutes = FORGIVEN_AFTER.as_secs() / 60;
            return Err(format!("it has been loaded anew within the last {minutes} minutes already"));
        }
        self.last = Some(now);
        let spec = model.spec().clone();
        let absent = Box::new(Absent(spec.clone()));
        // what panicked once may do so again when it is dropped
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

/// Stands where a model was.
#[derive(Debug)]
struct Absent(ModelSpec);

impl Denoiser for Absent {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }

    fn read(&mut self, _: &Batch<'_>) -> Result<Vec<Reading>, ModelError> {
        Err(ModelError::Failed("the model is gone".to_owned()))
    }

    fn inspect(&mut self, _: &[TokenId]) -> Result<Inspection, ModelError> {
        Err(ModelError::Failed("the model is gone".to_owned()))
    }
}
