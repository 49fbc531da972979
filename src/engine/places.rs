//! Who holds the places of the running sequences. Out of scope: who waits for one (`queue`).

use super::job::{Job, SequenceId};
use super::origin::{Caller, Origin};
use std::collections::BTreeMap;

/// Running sequences, by caller and request.
#[derive(Debug)]
pub(super) struct Places(BTreeMap<Caller, BTreeMap<u64, usize>>);

impl Places {
    pub(super) fn of<'a>(running: impl IntoIterator<Item = &'a (SequenceId, Job)>) -> Self {
        let mut counts: BTreeMap<Caller, BTreeMap<u64, usize>> = BTreeMap::new();
        for (_, job) in running {
            let Origin { caller, request } = job.options.origin;
            *counts.entry(caller).or_default().entry(request).or_default() += 1;
        }
        Self(counts)
    }

    pub(super) fn has_caller(&self, caller: Caller) -> bool {
        self.0.contains_key(&caller)
    }

    pub(super) fn has_request(&self, caller: Caller, request: u64) -> bool {
        self.0.get(&caller).is_some_and(|requests| requests.contains_key(&request))
    }

    /// The caller with the most places, if it has more than one, and its request with the most.
    pub(super) fn fullest(&self) -> Option<u64> {
        let count = |requests: &BTreeMap<u64, usize>| requests.values().sum::<usize>();
        let requests = self.0.values().max_by_key(|requests| count(requests))?;
        requests.iter().max_by_key(|(_, count)| **count).filter(|_| count(requests) > 1).map(|(request, _)| *request)
    }

    /// The request of this caller with the most places, if it has more than one.
    pub(super) fn fullest_of(&self, caller: Caller) -> Option<u64> {
        let (request, count) = self.0.get(&caller)?.iter().max_by_key(|(_, count)| **count)?;
        (*count > 1).then_some(*request)
    }
}
