//! How long a step takes, as measured, and what follows for those who wait. Numbers in, numbers out: the clock is
//! the worker's.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Weight of the newest step in the running mean: about the last ten steps count.
const NEWEST: f64 = 0.1;
/// A step counts for this many times what steps took before at most: one that was interrupted, as by a machine that slept, says nothing
/// about the next one. A pass that really is slower is believed after a few.
const OUTLIER: f64 = 8.0;
/// What a step takes before one was measured.
const FIRST_GUESS: Duration = Duration::from_millis(50);
/// Longest wait ever proposed; a client that is told more gives up.
const RETRY_MAX_SECONDS: f64 = 60.0;

/// Written by the worker after each step, read by the front door.
#[derive(Debug)]
pub(super) struct Pace {
    step_micros: AtomicU64,
    passes_until_room: AtomicU32,
    is_measured: AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        let step_micros = AtomicU64::new(u64::try_from(FIRST_GUESS.as_micros()).unwrap_or(u64::MAX));
        Self { step_micros, passes_until_room: AtomicU32::new(1), is_measured: AtomicBool::new(false) }
    }
}

impl Pace {
    /// Records one step and the passes after which the first running sequence is expected to be done.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(super) fn measured(&self, step: Duration, passes_until_room: u32) {
        let (before, step) = (self.step_micros.load(Ordering::Relaxed) as f64, step.as_secs_f64() * 1e6);
        let is_first = !self.is_measured.swap(true, Ordering::Relaxed);
        let mean = if is_first { step } else { before + NEWEST * (step.min(before.max(1.0) * OUTLIER) - before) };
        self.step_micros.store(mean as u64, Ordering::Relaxed);
        self.passes_until_room.store(passes_until_room, Ordering::Relaxed);
    }

    /// What a step takes, as measured lately.
    pub(super) fn step(&self) -> Duration {
        Duration::from_micros(self.step_micros.load(Ordering::Relaxed))
    }

    /// Whole seconds after which a place is likely to be free; 1 to 60.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(super) fn retry_after(&self) -> u64 {
        let passes = f64::from(self.passes_until_room.load(Ordering::Relaxed));
        let seconds = passes * self.step_micros.load(Ordering::Relaxed) as f64 / 1e6;
        seconds.ceil().clamp(1.0, RETRY_MAX_SECONDS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_measured_steps() {
        let pace = Pace::default();
        assert_eq!(pace.retry_after(), 1);
        for _ in 0..100 {
            pace.measured(Duration::from_millis(200), 50);
        }
        assert_eq!(pace.retry_after(), 10);
        pace.measured(Duration::from_secs(3600), 1000);
        assert_eq!(pace.retry_after(), 60);
    }

    #[test]
    fn an_interrupted_step_is_not_taken_for_a_slow_model() {
        let pace = Pace::default();
        pace.measured(Duration::from_millis(10), 1);
        assert_eq!(pace.step(), Duration::from_millis(10), "the first one is all that is known");
        pace.measured(Duration::from_secs(7200), 1); // a machine that slept
        assert!(pace.step() < Duration::from_millis(20));
        for _ in 0..20 {
            pace.measured(Duration::from_secs(1), 1);
        }
        assert!(pace.step() > Duration::from_millis(500), "a model that really is slower is believed");
    }
}
