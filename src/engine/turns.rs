//! Turns in a pass: where not all running sequences fit into one, callers take turns, and so do the
//! requests of a caller. Out of scope: turns of the queue (`queue`).

use super::origin::{Caller, Origin};
use std::collections::BTreeMap;

/// The same items, one of each caller first, then the second of each, and so on; those of a caller
/// likewise by request. Otherwise they keep their order.
pub(super) fn in_turn<T>(items: Vec<T>, origin: impl Fn(&T) -> Origin) -> Vec<T> {
    let by_request = numbered(items, |item| (origin(item).caller, origin(item).request));
    numbered(by_request, |item| origin(item).caller)
}

/// Items by their number among those with the same key.
fn numbered<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut counts = BTreeMap::new();
    let number = |item: T| {
        let count = counts.entry(key(&item)).or_insert(0_usize);
        *count += 1;
        (*count, item)
    };
    let mut items: Vec<(usize, T)> = items.into_iter().map(number).collect();
    items.sort_by_key(|(number, _)| *number); // stable
    items.into_iter().map(|(_, item)| item).collect()
}

/// Tokens of the running sequences, by caller and request.
#[derive(Debug, Default)]
pub(super) struct Shares(BTreeMap<Caller, BTreeMap<u64, usize>>);

impl Shares {
    pub(super) fn add(&mut self, Origin { caller, request, .. }: Origin, tokens: usize) {
        *self.0.entry(caller).or_default().entry(request).or_default() += tokens;
    }

    /// Passes of `capacity` tokens until each sequence of this request is read once, on average. At
    /// least 1. What others do not need of their even share of a pass is shared, too.
    pub(super) fn passes_per_round(&self, origin: Origin, capacity: usize) -> f64 {
        let sum = |requests: &BTreeMap<u64, usize>| requests.values().sum::<usize>();
        let Some(requests) = self.0.get(&origin.caller) else { return 1.0 };
        let of_caller = even_share(self.0.values().map(sum).collect(), capacity as f64).min(sum(requests) as f64);
        let own = requests.get(&origin.request).map_or(0.0, |tokens| *tokens as f64);
        let share = even_share(requests.values().copied().collect(), of_caller).min(own);
        if share < own { own / share.max(1.0) } else { 1.0 }
    }
}

/// The most that each of some demands gets of a capacity: all the same, but none more than it asks
/// for (max-min fairness).
fn even_share(mut demands: Vec<usize>, capacity: f64) -> f64 {
    demands.sort_unstable();
    let (mut left, mut others) = (capacity, demands.len());
    for demand in demands {
        let share = left / others as f64;
        if share < demand as f64 {
            return share;
        }
        left -= demand as f64;
        others -= 1;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(caller: u8, request: u64) -> Origin {
        Origin { caller: Caller::Key([caller; 32]), request, is_alone: false }
    }

    #[test]
    fn callers_take_turns_and_so_do_their_requests() {
        let items = vec![(1, 1, 'a'), (1, 1, 'b'), (1, 1, 'c'), (1, 2, 'd'), (2, 3, 'e'), (2, 3, 'f'), (1, 2, 'g')];
        let turns = in_turn(items, |(caller, request, _)| origin(*caller, *request));
        let names: String = turns.into_iter().map(|(_, _, name)| name).collect();
        assert_eq!(names, "aedfbgc");
    }

    #[test]
    fn a_round_takes_as_long_as_its_share_of_the_passes_allows() {
        let mut shares = Shares::default();
        (0..63).for_each(|_| shares.add(origin(1, 1), 89));
        shares.add(origin(2, 2), 89);
        let passes = |shares: &Shares, caller, request, capacity| {
            (shares.passes_per_round(origin(caller, request), capacity) * 10.0).round() / 10.0
        };
        assert_eq!(passes(&shares, 2, 2, 979), 1.0);
        assert_eq!(passes(&shares, 1, 1, 979), 6.3, "the other one needs 89 tokens of a pass alone");
        shares.add(origin(2, 3), 1024);
        assert_eq!(passes(&shares, 1, 1, 979), 11.5, "half of each pass");
        assert_eq!((passes(&shares, 2, 2, 979), passes(&shares, 2, 3, 979)), (1.0, 2.6));
        assert_eq!(passes(&shares, 3, 4, 979), 1.0);
        assert_eq!(passes(&shares, 1, 1, 1 << 20), 1.0, "all fit");
        let mut shares = Shares::default();
        (0..8).for_each(|_| shares.add(origin(1, 1), 101));
        shares.add(origin(1, 2), 101);
        assert_eq!(passes(&shares, 1, 1, 101), 16.0, "every second pass has one row of it");
    }
}
