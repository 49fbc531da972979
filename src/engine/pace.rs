//! The measured time of a pass, and the waiting times that follow. Out of scope: reading a clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Least weight of the newest pass in the moving average, which covers about ten passes.
const NEWEST: f64 = 0.1;
/// The time of a pass is clipped to this many times what was expected: a pass during which the
/// machine slept says nothing about the next one. The average still follows slower passes soon.
const OUTLIER: f64 = 8.0;
/// Assumed time of a pass before the first measurement.
const FIRST_GUESS: Duration = Duration::from_millis(50);
/// Longest waiting time that clients are told, in seconds. OpenAI's libraries ignore longer ones.
const RETRY_MAX_SECONDS: f64 = 60.0;
/// Classes of passes by their tokens, two for each doubling: up to 2^32 tokens.
const SIZES: usize = 64;

/// The average times of passes, by their tokens: a full pass may take many times as long as one of
/// a single sequence. Written by the worker after each pass, read by the handles.
#[derive(Debug)]
pub(super) struct StepTime([Average; SIZES]);

/// The average of one class.
#[derive(Debug, Default)]
struct Average {
    micros: AtomicU64,
    /// Passes measured; none leaves the average unknown.
    passes: AtomicU32,
}

impl Default for StepTime {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Average::default()))
    }
}

fn size(tokens: usize) -> usize {
    ((2.0 * (tokens.max(1) as f64).log2()) as usize).min(SIZES - 1) // rounded down
}

impl StepTime {
    /// Records a pass of so many tokens.
    pub(super) fn record(&self, step: Duration, tokens: usize) {
        let (expected, is_first) = self.nearest(size(tokens));
        let most = if is_first { f64::INFINITY } else { expected.as_secs_f64().max(1e-6) * OUTLIER };
        let micros = step.as_secs_f64().min(most) * 1e6;
        let Average { micros: mean, passes } = &self.0[size(tokens)];
        let before = passes.load(Ordering::Relaxed);
        let weight = NEWEST.max(1.0 / (f64::from(before) + 1.0));
        let was = mean.load(Ordering::Relaxed) as f64;
        mean.store((was + weight * (micros - was)) as u64, Ordering::Relaxed);
        passes.store(before.saturating_add(1), Ordering::Relaxed);
    }

    /// The expected time of a pass of so many tokens.
    pub(super) fn of(&self, tokens: usize) -> Duration {
        self.nearest(size(tokens)).0
    }

    /// The average of the measured class that is nearest, and whether there is none.
    fn nearest(&self, size: usize) -> (Duration, bool) {
        let measured = |at: &usize| self.0[*at].passes.load(Ordering::Relaxed) > 0;
        match (0..SIZES).filter(measured).min_by_key(|at| at.abs_diff(size)) {
            Some(at) => (Duration::from_micros(self.0[at].micros.load(Ordering::Relaxed)), false),
            None => (FIRST_GUESS, true),
        }
    }
}

/// A sequence that holds a place, as far as it matters to those who wait for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    /// Seconds until it ends once it runs; it may run already.
    pub(super) seconds: f64,
    /// Whether its place is one of those that are waited for.
    pub(super) counts: bool,
}

/// Seconds until so many places are free. A sequence that waits starts when one that runs ends, and
/// then takes its own time. 0 without holders.
pub(super) fn until_free(places: usize, running: &[Holder], waiting: impl IntoIterator<Item = Holder>) -> f64 {
    let micros = |seconds: f64| (seconds * 1e6) as u64; // ordered; saturates
    let mut ends: BinaryHeap<_> = running.iter().map(|one| Reverse((micros(one.seconds), one.counts))).collect();
    let (mut waiting, mut freed, mut now) = (waiting.into_iter(), 0, 0);
    while let Some(Reverse((end, counts))) = ends.pop()
        && freed < places
    {
        now = end;
        freed += usize::from(counts);
        if let Some(next) = waiting.next() {
            ends.push(Reverse((now.saturating_add(micros(next.seconds)), next.counts)));
        }
    }
    now as f64 / 1e6
}

/// A waiting time as clients are told it: 1 to 60 seconds.
pub(super) fn retry_after(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, RETRY_MAX_SECONDS) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(count: usize, seconds: f64) -> Vec<Holder> {
        vec![Holder { seconds, counts: true }; count]
    }

    #[test]
    fn places_are_free_when_those_before_have_run() {
        let wait = |places, running: &[Holder], waiting| until_free(places, running, holders(waiting, 10.0));
        assert_eq!(wait(1, &[], 0), 0.0);
        assert_eq!((wait(1, &holders(4, 10.0), 0), wait(4, &holders(4, 10.0), 0)), (10.0, 10.0));
        // 128 places, of 64 that run and 256 that wait: two whole rounds
        assert_eq!(wait(1, &holders(64, 2.0), 256), 2.0);
        assert_eq!(wait(128, &holders(64, 2.0), 256), 12.0);
        assert_eq!(wait(320, &holders(64, 2.0), 256), 42.0);
        assert_eq!(wait(1000, &holders(64, 2.0), 256), 42.0, "no more than there are");
        let staggered: Vec<Holder> = [7.0, 1.0, 4.0].map(|seconds| Holder { seconds, counts: true }).into();
        assert_eq!([1, 2, 3, 4].map(|places| wait(places, &staggered, 1)), [1.0, 4.0, 7.0, 11.0]);
    }

    #[test]
    fn places_of_others_do_not_count() {
        let others = Holder { seconds: 1.0, counts: false };
        let own = Holder { seconds: 5.0, counts: true };
        assert_eq!(until_free(1, &[others, own], [others, others]), 5.0);
        assert_eq!(until_free(1, &[others], [others, own]), 7.0, "behind two of others");
    }

    #[test]
    fn clients_are_told_whole_seconds_within_bounds() {
        assert_eq!([0.0, 0.2, 1.2, 59.1, 3600.0, f64::INFINITY].map(retry_after), [1, 1, 2, 60, 60, 60]);
    }

    #[test]
    fn a_pass_of_another_size_has_its_own_time() {
        let time = StepTime::default();
        assert_eq!(time.of(100), FIRST_GUESS);
        for _ in 0..100 {
            time.record(Duration::from_millis(10), 89);
        }
        assert_eq!(time.of(1000), Duration::from_millis(10), "all that is known");
        time.record(Duration::from_millis(70), 1000);
        assert_eq!([80, 89, 979].map(|tokens| time.of(tokens).as_millis()), [10, 10, 70], "after one such pass");
    }

    #[test]
    fn an_interrupted_pass_is_not_taken_for_a_slow_model() {
        let time = StepTime::default();
        for _ in 0..10 {
            time.record(Duration::from_millis(10), 1);
        }
        time.record(Duration::from_secs(7200), 1); // a machine that slept
        assert!(time.of(1) < Duration::from_millis(20));
        time.record(Duration::from_secs(7200), 1 << 20);
        assert!(time.of(1 << 20) < Duration::from_millis(200), "also in the first pass of a size");
        for _ in 0..20 {
            time.record(Duration::from_secs(1), 1);
        }
        assert!(time.of(1) > Duration::from_millis(500), "a model that really is slower is believed");
    }
}
