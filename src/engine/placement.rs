//! Which replica takes a queued sequence, and which sequence gives up its place. A sequence is
//! bound to a replica only while it is in a pass, since nothing but its canvas is kept between
//! passes.
//! Decisions count tokens and passes, never time. Out of scope: whose turn it is (`queue`).

use super::places::Places;
use super::pool::{Pool, Running, Sequence};

impl Pool {
    /// Whether a replica between two passes has something to do.
    pub(super) fn has_work(&self, replica: usize) -> bool {
        let takes_next = || !self.waiting.is_empty() && self.taker(replica, &self.loads()) == Some(replica);
        !self.replicas[replica].parked.is_empty() || takes_next() || self.source(replica, &self.loads()).is_some()
    }

    /// Moves queued sequences to the running ones of a replica, as far as it is their taker and has
    /// places, or one is given up.
    pub(super) fn start(&mut self, replica: usize) {
        let mut loads = self.loads();
        while let Some(sequence) = self.next(replica, &loads) {
            loads[replica] += tokens(&sequence);
            self.replicas[replica].parked.push_back(sequence);
        }
        let passes: Vec<u64> = self.replicas.iter().map(|replica| replica.passes).collect();
        self.replicas[replica].passes_seen = passes;
    }

    fn next(&mut self, replica: usize, loads: &[usize]) -> Option<Sequence> {
        if self.waiting.is_empty() {
            return None;
        }
        match self.taker(replica, loads) {
            Some(taker) if taker == replica => self.waiting.pop(),
            Some(_) => None, // it takes the sequence before its next pass
            None => self.exchange(replica),
        }
    }

    /// The replica that takes the next queued sequence, as `replica` sees it between two passes: of
    /// those with a free place, the one with the fewest tokens. A pass is waited for once only: who
    /// finds a replica in the same pass as at its own last turn no longer leaves it anything.
    fn taker(&self, replica: usize, loads: &[usize]) -> Option<usize> {
        let seen = &self.replicas[replica].passes_seen;
        let may_take = |(number, other): &(usize, &Running)| {
            let is_late = !other.in_pass.is_empty() && seen[*number] == other.passes;
            other.is_serving && other.len() < self.running_max && !is_late
        };
        let takers = self.replicas.iter().enumerate().filter(may_take);
        let taker = takers.min_by_key(|(number, other)| (loads[*number], !other.in_pass.is_empty(), *number));
        taker.map(|(number, _)| number)
    }

    /// Where no place is free, a caller without one takes one of the caller with the most, and a
    /// request one of another request of its caller. Places are counted on all replicas, and given
    /// up on this one. The sequence that gives up its place is queued again and goes on later.
    fn exchange(&mut self, replica: usize) -> Option<Sequence> {
        let mut places = Places::default();
        for (number, other) in self.replicas.iter().enumerate() {
            other.parked.iter().for_each(|(_, job)| places.add(job.options.origin, number == replica));
            other.in_pass.iter().for_each(|sequence| places.add(sequence.origin, false));
        }
        let is_new = |caller, request| !places.has_request(caller, request) && places.fullest_of(caller).is_some();
        if let Some(fullest) = places.fullest()
            && let Some(next) = self.waiting.pop_of_caller(|caller| !places.has_caller(caller))
        {
            self.pause(replica, fullest);
            return Some(next);
        }
        let next = self.waiting.pop_of_request(is_new)?;
        self.pause(replica, places.fullest_of(next.1.options.origin.caller)?);
        Some(next)
    }

    /// Queues a running sequence of a request again: its newest, and one without a deadline first.
    fn pause(&mut self, replica: usize, request: u64) {
        let running = &mut self.replicas[replica].parked;
        let of_request = |place: &usize| running[*place].1.options.origin.request == request;
        let newest = |place: &usize| (running[*place].1.options.deadline.is_none(), running[*place].0);
        let place = (0..running.len()).filter(of_request).max_by_key(newest);
        if let Some((id, job)) = place.and_then(|place| running.remove(place)) {
            self.waiting.push(id, job);
        }
    }

    /// Takes sequences that are passed over by the present pass of a replica with more tokens, and
    /// gives some to replicas that have none. Each move makes the larger of two loads smaller, so
    /// that a sequence is not moved to and fro.
    pub(super) fn balance(&mut self, replica: usize) {
        let mut loads = self.loads();
        while let Some(other) = self.source(replica, &loads) {
            let Some(sequence) = self.replicas[other].parked.pop_front() else { return };
            loads[other] = loads[other].saturating_sub(tokens(&sequence));
            loads[replica] += tokens(&sequence);
            self.replicas[replica].parked.push_front(sequence);
        }
        for idle in (0..self.replicas.len()).filter(|other| *other != replica) {
            if !self.replicas[idle].is_serving || self.replicas[idle].len() > 0 {
                continue;
            }
            let mut load = 0;
            while let Some(last) = self.replicas[replica].parked.back().map(tokens)
                && load + last < loads[replica]
                && self.replicas[idle].len() < self.running_max
            {
                let moved = self.replicas[replica].parked.pop_back();
                self.replicas[idle].parked.extend(moved);
                load += last;
                loads[replica] -= last;
            }
        }
    }

    /// A replica that has more tokens than this one even without its first sequence that is in no
    /// pass, if this one has a place for it.
    fn source(&self, replica: usize, loads: &[usize]) -> Option<usize> {
        let this = &self.replicas[replica];
        if !this.is_serving || this.len() >= self.running_max || !self.waiting.is_empty() {
            return None;
        }
        let has_more = |(number, other): &(usize, &Running)| {
            let first = other.parked.front().map(tokens);
            *number != replica && first.is_some_and(|first| loads[replica] + first < loads[*number])
        };
        let sources = self.replicas.iter().enumerate().filter(has_more);
        sources.max_by_key(|(number, _)| loads[*number]).map(|(number, _)| number)
    }

    /// Tokens of each replica's sequences.
    fn loads(&self) -> Vec<usize> {
        self.replicas.iter().map(Running::tokens).collect()
    }
}

fn tokens((_, job): &Sequence) -> usize {
    job.row_tokens().unwrap_or(0)
}
