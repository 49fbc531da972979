//! The most tokens of a pass: fewer after the device ran out of memory, and more again later,
//! because memory may have been short for a moment only. Out of scope: which rows share a pass.

/// Passes under a lower limit until a higher one is tried.
const PASSES_FIRST: u32 = 16;
/// The same after many tries that failed: each one costs a pass.
const PASSES_MAX: u32 = 1024;

/// The limit on the tokens of a pass.
#[derive(Debug)]
pub(super) struct BatchLimit {
    /// As configured.
    most: usize,
    now: usize,
    /// The limit before the last raise, until a larger pass shows that there is room for it.
    unproven: Option<usize>,
    /// Passes since the limit was last changed.
    passes: u32,
    /// Passes after which it is raised.
    patience: u32,
}

impl BatchLimit {
    pub(super) fn new(most: usize) -> Self {
        Self { most, now: most, unproven: None, passes: 0, patience: PASSES_FIRST }
    }

    /// The most tokens of the next pass.
    pub(super) const fn tokens(&self) -> usize {
        self.now
    }

    /// The device had no room for a pass of so many tokens. Returns the new limit, half of that.
    pub(super) fn lower(&mut self, tokens: usize) -> usize {
        self.patience = match self.unproven.take() {
            Some(_) => (2 * self.patience).min(PASSES_MAX),
            None => PASSES_FIRST,
        };
        (self.now, self.passes) = ((tokens / 2).max(1), 0);
        self.now
    }

    /// A pass of so many tokens succeeded. Returns the new limit if it is raised.
    pub(super) fn succeeded(&mut self, tokens: usize) -> Option<usize> {
        if self.unproven.is_some_and(|before| tokens > before) {
            (self.unproven, self.patience) = (None, PASSES_FIRST);
        }
        self.passes = self.passes.saturating_add(1);
        if self.now >= self.most || self.passes < self.patience {
            return None;
        }
        self.unproven = self.unproven.or(Some(self.now));
        (self.now, self.passes) = (self.now.saturating_mul(2).min(self.most), 0);
        Some(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes of as many tokens as allowed until the limit is raised.
    fn until_raised(limit: &mut BatchLimit) -> (u32, usize) {
        (1..).find_map(|passes| Some((passes, limit.succeeded(limit.tokens())?))).unwrap()
    }

    #[test]
    fn a_moment_without_memory_is_forgotten_in_a_few_passes() {
        let mut limit = BatchLimit::new(8192);
        assert_eq!((limit.lower(8192), limit.lower(4096), limit.tokens()), (4096, 2048, 2048));
        assert_eq!(until_raised(&mut limit), (16, 4096));
        assert_eq!(until_raised(&mut limit), (16, 8192));
        assert!((0..100).all(|_| limit.succeeded(8192).is_none()), "never above what is configured");
    }

    #[test]
    fn where_memory_stays_short_it_is_tried_less_and_less_often() {
        let mut limit = BatchLimit::new(8192);
        limit.lower(8192);
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(until_raised(&mut limit).0);
            limit.lower(8192); // the try
        }
        assert_eq!(waits, [16, 32, 64, 128, 256, 512, 1024, 1024, 1024]);
    }

    #[test]
    fn small_passes_prove_nothing() {
        let mut limit = BatchLimit::new(8192);
        limit.lower(8192);
        assert!((0..100).filter_map(|_| limit.succeeded(10)).eq([8192]), "raised once");
        limit.lower(8192);
        assert_eq!(until_raised(&mut limit), (32, 8192), "the raise had not been tried before");
    }
}
