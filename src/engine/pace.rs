//! The measured time of a step, and the waiting time that follows. Out of scope: reading a clock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Weight of the newest step in the exponential moving average, which covers about ten steps.
const NEWEST: f64 = 0.1;
/// The time of a step is clipped to this many times the average: a step during which the machine
/// slept says nothing about the next one. The average still follows slower passes in a few steps.
const OUTLIER: f64 = 8.0;
/// Assumed time of a step before the first measurement.
const FIRST_GUESS: Duration = Duration::from_millis(50);
/// Longest waiting time that clients are told, in seconds.
const RETRY_MAX_SECONDS: f64 = 60.0;

/// The average time of a step. Written by the worker after each step, read by the handles.
#[derive(Debug)]
pub(super) struct StepTime {
    step_micros: AtomicU64,
    passes_until_room: AtomicU32,
    is_measured: AtomicBool,
}

impl Default for StepTime {
    fn default() -> Self {
        let step_micros = AtomicU64::new(u64::try_from(FIRST_GUESS.as_micros()).unwrap_or(u64::MAX));
        Self { step_micros, passes_until_room: AtomicU32::new(1), is_measured: AtomicBool::new(false) }
    }
}

impl StepTime {
    /// Records one step, and the expected passes until the first running sequence ends.
    pub(super) fn record(&self, step: Duration, passes_until_room: u32) {
        let (before, step) = (self.step_micros.load(Ordering::Relaxed) as f64, step.as_secs_f64() * 1e6);
        let is_first = !self.is_measured.swap(true, Ordering::Relaxed);
        let mean = if is_first { step } else { before + NEWEST * (step.min(before.max(1.0) * OUTLIER) - before) };
        self.step_micros.store(mean as u64, Ordering::Relaxed);
        self.passes_until_room.store(passes_until_room, Ordering::Relaxed);
    }

    pub(super) fn average(&self) -> Duration {
        Duration::from_micros(self.step_micros.load(Ordering::Relaxed))
    }

    /// Expected seconds until a place is free; 1 to 60.
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
        let time = StepTime::default();
        assert_eq!(time.retry_after(), 1);
        for _ in 0..100 {
            time.record(Duration::from_millis(200), 50);
        }
        assert_eq!(time.retry_after(), 10);
        time.record(Duration::from_secs(3600), 1000);
        assert_eq!(time.retry_after(), 60);
    }

    #[test]
    fn an_interrupted_step_is_not_taken_for_a_slow_model() {
        let time = StepTime::default();
        time.record(Duration::from_millis(10), 1);
        assert_eq!(time.average(), Duration::from_millis(10), "the first one is all that is known");
        time.record(Duration::from_secs(7200), 1); // a machine that slept
        assert!(time.average() < Duration::from_millis(20));
        for _ in 0..20 {
            time.record(Duration::from_secs(1), 1);
        }
        assert!(time.average() > Duration::from_millis(500), "a model that really is slower is believed");
    }
}
