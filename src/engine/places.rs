//! Who holds the places of the running sequences of all replicas. Out of scope: who waits for one
//! (`queue`).

use super::origin::{Caller, Origin};
use std::collections::BTreeMap;

/// Running sequences of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// On all replicas.
    all: usize,
    /// Those that may give up their place now: on the replica that chooses its next pass.
    here: usize,
}

/// Running sequences, by caller and request.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<Caller, BTreeMap<u64, Count>>);

impl Places {
    /// Adds a running sequence; `is_here` says whether it may give up its place now.
    pub(super) fn add(&mut self, Origin { caller, request, .. }: Origin, is_here: bool) {
        let count = self.0.entry(caller).or_default().entry(request).or_default();
        count.all += 1;
        count.here += usize::from(is_here);
    }

    pub(super) fn has_caller(&self, caller: Caller) -> bool {
        self.0.contains_key(&caller)
    }

    pub(super) fn has_request(&self, caller: Caller, request: u64) -> bool {
        self.0.get(&caller).is_some_and(|requests| requests.contains_key(&request))
    }

    /// Of the callers with a place here, the one with the most places, if it has more than one: its
    /// request with the most, of those with a place here.
    pub(super) fn fullest(&self) -> Option<u64> {
        let count = |requests: &BTreeMap<u64, Count>| requests.values().map(|count| count.all).sum::<usize>();
        let is_here = |requests: &&BTreeMap<u64, Count>| requests.values().any(|count| count.here > 0);
        let requests = self.0.values().filter(is_here).max_by_key(|requests| count(requests))?;
        if count(requests) > 1 { fullest(requests).map(|(request, _)| request) } else { None }
    }

    /// The request of this caller with the most places, if it has more than one, of those with a
    /// place here.
    pub(super) fn fullest_of(&self, caller: Caller) -> Option<u64> {
        let (request, count) = fullest(self.0.get(&caller)?)?;
        (count.all > 1).then_some(request)
    }
}

fn fullest(requests: &BTreeMap<u64, Count>) -> Option<(u64, Count)> {
    let here = requests.iter().filter(|(_, count)| count.here > 0);
    here.max_by_key(|(_, count)| count.all).map(|(request, count)| (*request, *count))
}
