//! What the engine does in a time: a line for the log every ten seconds while there is work.

use std::time::{Duration, Instant};

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(10);

/// Counts since the last line.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    /// Empty while there is no work.
    since: Option<Instant>,
    passes: u32,
    tokens: u32,
}

/// Averages over the time since the last line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub(super) passes_per_s: f64,
    /// Tokens filled in, those that are erased later included.
    pub(super) tokens_per_s: f64,
}

impl Throughput {
    /// Counts a pass that began and ended at these times and filled in so many tokens. Returns the
    /// rates when it is time for a line.
    pub(super) fn pass(&mut self, began: Instant, ended: Instant, tokens: u32) -> Option<Rates> {
        let since = *self.since.get_or_insert(began);
        self.passes += 1;
        self.tokens = self.tokens.saturating_add(tokens);
        let took = ended.saturating_duration_since(since);
        if took < EVERY {
            return None;
        }
        let rate = |count: u32| (f64::from(count) / took.as_secs_f64() * 10.0).round() / 10.0;
        let rates = Rates { passes_per_s: rate(self.passes), tokens_per_s: rate(self.tokens) };
        *self = Self { since: Some(ended), passes: 0, tokens: 0 };
        Some(rates)
    }

    /// Notes that there is no work.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_every_ten_seconds_of_work_and_none_for_idle_time() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut throughput = Throughput::default();
        let lines: Vec<_> = (0..40).filter_map(|second| throughput.pass(at(second), at(second + 1), 3)).collect();
        assert_eq!(lines, [Rates { passes_per_s: 1.0, tokens_per_s: 3.0 }; 4]);
        throughput.rest();
        assert_eq!(throughput.pass(at(1000), at(1001), 3), None, "an hour of rest is no work");
        let slow = throughput.pass(at(1001), at(1016), 29);
        assert_eq!(slow, Some(Rates { passes_per_s: 0.1, tokens_per_s: 2.0 }));
    }
}
