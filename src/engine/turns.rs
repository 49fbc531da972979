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

    /// Passes of `batch_tokens` tokens in which each sequence of this request is read once, if it
    /// gets no more than its even share of a pass. At least one.
    pub(super) fn passes_per_round(&self, origin: Origin, batch_tokens: usize) -> usize {
        let Some(requests) = self.0.get(&origin.caller) else { return 1 };
        let share = batch_tokens / self.0.len() / requests.len();
        requests.get(&origin.request).map_or(1, |tokens| tokens.div_ceil(share.max(1)).max(1))
    }
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
        assert_eq!(shares.passes_per_round(origin(2, 2), 1024), 1);
        assert_eq!(shares.passes_per_round(origin(1, 1), 1024), 11); // 63 * 89 / 512
        shares.add(origin(2, 3), 1024);
        assert_eq!(shares.passes_per_round(origin(2, 3), 1024), 4);
        assert_eq!(shares.passes_per_round(origin(3, 4), 1024), 1);
        assert_eq!(shares.passes_per_round(origin(2, 2), 1), 89);
    }
}
