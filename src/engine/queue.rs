//! The queued sequences, and whose turn it is: callers take turns, then the requests of a caller,
//! whose choices start in order. Out of scope: how many sequences run (`pool`).

use super::job::{Job, SequenceId};
use super::origin::Caller;
use std::collections::{BTreeMap, VecDeque};

/// Starts in a row that may pass over the caller whose turn it is, for others with a lower priority
/// number. The next start is its own: whatever priorities others ask for, the caller at place n of
/// the rotation starts within 4n starts. The same holds for the requests of one caller.
const PASSED_OVER_MAX: u32 = 3;

type Queued = (SequenceId, Job);

/// A part of the queue. Never empty, except while it is made.
trait Line: Default {
    /// The priority number of what starts first by priority.
    fn priority(&self) -> Option<i32>;
    /// Takes the sequence that starts next.
    fn take(&mut self) -> Option<Queued>;
    fn sequences(&self) -> usize;
    /// Shows all its sequences.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a Queued));
    /// Moves the sequences that match to `found`.
    fn extract(&mut self, matches: &dyn Fn(&Queued) -> bool, found: &mut Vec<Queued>);
}

/// The queued choices of a request, in order of submission.
type Choices = VecDeque<Queued>;

impl Line for Choices {
    fn priority(&self) -> Option<i32> {
        self.front().map(|(_, job)| job.options.priority)
    }

    fn take(&mut self) -> Option<Queued> {
        self.pop_front()
    }

    fn sequences(&self) -> usize {
        self.len()
    }

    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a Queued)) {
        self.iter().for_each(visit);
    }

    fn extract(&mut self, matches: &dyn Fn(&Queued) -> bool, found: &mut Vec<Queued>) {
        if self.iter().any(matches) {
            let (matching, others): (Self, Self) = self.drain(..).partition(matches);
            *self = others;
            found.extend(matching);
        }
    }
}

/// Lines that take turns.
#[derive(Debug)]
struct Turns<K, L> {
    lines: BTreeMap<K, Turn<L>>,
    /// Turns given so far.
    given: u64,
    /// Starts in a row that passed over the line whose turn it is.
    passed_over: u32,
}

#[derive(Debug)]
struct Turn<L> {
    /// The last turn given when this line started something, or joined.
    since: u64,
    line: L,
}

impl<K, L> Default for Turns<K, L> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), given: 0, passed_over: 0 }
    }
}

impl<K: Copy + Ord, L: Line> Turns<K, L> {
    /// The line of `key`; a new one joins at the end of the rotation.
    fn line(&mut self, key: K) -> &mut L {
        let given = &mut self.given;
        let turn = self.lines.entry(key).or_insert_with(|| {
            *given += 1;
            Turn { since: *given, line: L::default() }
        });
        &mut turn.line
    }

    /// Whose turn it is among those that match.
    fn next_of(&self, matches: impl Fn(K, &L) -> bool) -> Option<K> {
        let matching = self.lines.iter().filter(|(key, turn)| matches(**key, &turn.line));
        matching.min_by_key(|(_, turn)| turn.since).map(|(key, _)| *key)
    }

    /// Takes what starts next of this line, whose next turn comes after all others'.
    fn take_of(&mut self, key: K) -> Option<Queued> {
        self.take_by(key, L::take)
    }

    fn take_by(&mut self, key: K, take: impl FnOnce(&mut L) -> Option<Queued>) -> Option<Queued> {
        let turn = self.lines.get_mut(&key)?;
        self.given += 1;
        turn.since = self.given;
        let taken = take(&mut turn.line);
        if turn.line.sequences() == 0 {
            self.lines.remove(&key);
        }
        taken
    }
}

impl<K: Copy + Ord, L: Line> Line for Turns<K, L> {
    fn priority(&self) -> Option<i32> {
        self.lines.values().filter_map(|turn| turn.line.priority()).min()
    }

    /// By priority, but the line whose turn it is is passed over a few times at most.
    fn take(&mut self) -> Option<Queued> {
        let first = self.priority();
        let next = self.next_of(|_, _| true)?;
        let by_priority = self.next_of(|_, line| line.priority() == first)?;
        let taken = if self.passed_over < PASSED_OVER_MAX { by_priority } else { next };
        self.passed_over = if taken == next { 0 } else { self.passed_over + 1 };
        self.take_of(taken)
    }

    fn sequences(&self) -> usize {
        self.lines.values().map(|turn| turn.line.sequences()).sum()
    }

    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a Queued)) {
        self.lines.values().for_each(|turn| turn.line.each(visit));
    }

    fn extract(&mut self, matches: &dyn Fn(&Queued) -> bool, found: &mut Vec<Queued>) {
        self.lines.retain(|_, turn| {
            turn.line.extract(matches, found);
            turn.line.sequences() > 0
        });
    }
}

/// The sequences that wait for a place among the running ones.
#[derive(Debug, Default)]
pub(super) struct Queue(Turns<Caller, Turns<u64, Choices>>);

impl Queue {
    /// Queues a sequence behind those of its request that were submitted before it.
    pub(super) fn push(&mut self, id: SequenceId, job: Job) {
        let origin = job.options.origin;
        let choices = self.0.line(origin.caller).line(origin.request);
        choices.insert(choices.partition_point(|(other, _)| *other < id), (id, job));
    }

    /// Takes the sequence that starts next.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        self.0.take()
    }

    /// Takes a sequence of a caller that matches, whose turn comes first.
    pub(super) fn pop_of_caller(&mut self, matches: impl Fn(Caller) -> bool) -> Option<Queued> {
        let caller = self.0.next_of(|caller, _| matches(caller))?;
        self.0.take_of(caller)
    }

    /// Takes a sequence of a request that matches, by its caller and its number.
    pub(super) fn pop_of_request(&mut self, matches: impl Fn(Caller, u64) -> bool) -> Option<Queued> {
        let next = |caller, requests: &Turns<_, _>| requests.next_of(|request, _| matches(caller, request));
        let caller = self.0.next_of(|caller, requests| next(caller, requests).is_some())?;
        self.0.take_by(caller, |requests| requests.take_of(next(caller, requests)?))
    }

    /// Takes out the sequences that match.
    pub(super) fn extract(&mut self, matches: impl Fn(SequenceId, &Job) -> bool) -> Vec<(SequenceId, Job)> {
        let mut found = Vec::new();
        self.0.extract(&|(id, job)| matches(*id, job), &mut found);
        found
    }

    pub(super) fn clear(&mut self) {
        self.0 = Turns::default();
    }

    /// All its sequences, by caller and request.
    pub(super) fn all(&self) -> Vec<&Queued> {
        let mut all = Vec::new();
        self.0.each(&mut |queued| all.push(queued));
        all
    }

    pub(super) fn len(&self) -> usize {
        self.0.sequences()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lines.is_empty()
    }
}
