//! The queued sequences of the server, and the running ones of each replica. Synchronous. Out of
//! scope: which replica takes a sequence (`placement`), passes (`tick`), locks (`dispatch`).

use super::event::{Event, Failure};
use super::job::{Job, SequenceId};
use super::origin::Origin;
use super::queue::Queue;
use super::turns::{Shares, in_turn};
use crate::diffusion::u32_of;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// A sequence and its id.
pub(super) type Sequence = (SequenceId, Job);

/// What happened to the queue before a pass.
#[derive(Debug, Default)]
pub(super) struct Begun {
    pub(super) started: Vec<SequenceId>,
    /// The failures of those whose deadline came first.
    pub(super) late: Vec<(SequenceId, Event)>,
}

/// The running sequences of a replica.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Those that are in no pass, the least recently stepped first; a new sequence comes last.
    pub(super) parked: VecDeque<Sequence>,
    /// Those in the present pass. The worker has the sequences themselves.
    pub(super) in_pass: Vec<InPass>,
    /// Passes begun so far.
    pub(super) passes: u64,
    /// The number of passes of each replica at this one's last turn.
    pub(super) passes_seen: Vec<u64>,
    /// Whether it has a model, and takes sequences.
    pub(super) is_serving: bool,
}

/// What is known of a sequence while it is in a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct InPass {
    pub(super) origin: Origin,
    /// Tokens of its row.
    pub(super) tokens: usize,
}

impl Running {
    pub(super) fn len(&self) -> usize {
        self.parked.len() + self.in_pass.len()
    }

    /// Tokens of one row of each of its sequences in no pass, by whose they are.
    fn shares(&self) -> Shares {
        let mut shares = Shares::default();
        self.parked.iter().for_each(|(_, job)| shares.add(job.options.origin, job.row_tokens().unwrap_or(0)));
        shares
    }

    /// Tokens of one row of each of its sequences.
    pub(super) fn tokens(&self) -> usize {
        let parked: usize = self.parked.iter().map(|(_, job)| job.row_tokens().unwrap_or(0)).sum();
        parked + self.in_pass.iter().map(|sequence| sequence.tokens).sum::<usize>()
    }
}

/// The queued and the running sequences.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) waiting: Queue,
    /// By the number of the replica.
    pub(super) replicas: Vec<Running>,
    /// Most running sequences of a replica.
    pub(super) running_max: usize,
}

impl Pool {
    /// A pool of so many replicas, all of which serve.
    pub(super) fn new(replicas: usize, running_max: usize) -> Self {
        let running = || Running { passes_seen: vec![0; replicas], is_serving: true, ..Running::default() };
        Self { waiting: Queue::default(), replicas: (0..replicas).map(|_| running()).collect(), running_max }
    }

    /// Drops a sequence, unless it is in a pass.
    pub(super) fn cancel(&mut self, id: SequenceId) {
        drop(self.waiting.extract(|other, _| other == id));
        self.replicas.iter_mut().for_each(|replica| replica.parked.retain(|(other, _)| *other != id));
    }

    /// Drops all sequences that are in no pass.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.replicas.iter_mut().for_each(|replica| replica.parked.clear());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.replicas.iter().all(|replica| replica.len() == 0)
    }

    /// All sequences that are in no pass.
    pub(super) fn ids(&self) -> BTreeSet<SequenceId> {
        let mut ids = self.waiting.ids();
        ids.extend(self.replicas.iter().flat_map(|replica| &replica.parked).map(|(id, _)| *id));
        ids
    }

    /// Before a pass of this replica: starts queued sequences, and plans every running one that has
    /// a deadline anew: steps that a moment of load took are given back when it is over.
    /// `batch_tokens` is the most tokens of its passes. `passes_left` gets a sequence, its deadline
    /// and the passes of the replica per pass of a sequence; it returns how many passes of its own
    /// the sequence has time for, or `None` after the deadline: if queued, it fails then.
    pub(super) fn begin(
        &mut self,
        replica: usize,
        batch_tokens: usize,
        passes_left: impl Fn(SequenceId, Duration, u32) -> Option<u32>,
    ) -> Begun {
        let late = self.waiting.extract(|id, job| {
            let deadline = job.options.deadline.filter(|_| !job.has_begun());
            deadline.is_some_and(|deadline| passes_left(id, deadline, 1).is_none())
        });
        let failed = |(id, job): Sequence| {
            let deadline = job.options.deadline.unwrap_or_default();
            (id, Event::Failed(Failure::TooLate { deadline }))
        };
        let late = late.into_iter().map(failed).collect();
        self.start(replica);
        let running = &mut self.replicas[replica].parked;
        let started = running.iter_mut().filter_map(|(id, job)| job.start().then_some(*id)).collect();
        self.balance(replica);
        let rounds = self.passes_per_round(replica, batch_tokens).max(1);
        let shares = self.replicas[replica].shares();
        let last_chance = self.waiting.extract(|id, job| {
            let deadline = job.options.deadline.filter(|_| job.has_begun());
            deadline.is_some_and(|deadline| passes_left(id, deadline, rounds).is_none_or(|left| left <= 1))
        });
        let running = &mut self.replicas[replica].parked;
        last_chance.into_iter().for_each(|sequence| running.push_front(sequence));
        for (id, job) in running {
            if let Some(deadline) = job.options.deadline {
                let own = u32_of(shares.passes_per_round(job.options.origin, batch_tokens)).min(rounds);
                job.limit_passes(passes_left(*id, deadline, own).unwrap_or(0));
            }
        }
        Begun { started, late }
    }

    /// Takes out the sequences of the next pass, as many as fit: in turn of callers and requests,
    /// of each the least recently stepped first. The first one always fits, so that a canvas larger
    /// than the batch limit runs alone.
    pub(super) fn choose(&mut self, replica: usize, batch_tokens: usize) -> Vec<Sequence> {
        let (mut chosen, mut passed_over, mut tokens) = (Vec::new(), VecDeque::new(), 0);
        let replica = &mut self.replicas[replica];
        for (id, job) in in_turn(replica.parked.drain(..).collect(), |(_, job)| job.options.origin) {
            let more = job.row_tokens().unwrap_or(0);
            if chosen.is_empty() || tokens + more <= batch_tokens {
                tokens += more;
                chosen.push((id, job));
            } else {
                passed_over.push_back((id, job));
            }
        }
        let in_pass =
            |(_, job): &Sequence| InPass { origin: job.options.origin, tokens: job.row_tokens().unwrap_or(0) };
        replica.in_pass = chosen.iter().map(in_pass).collect();
        replica.parked = passed_over;
        replica.passes += u64::from(!chosen.is_empty());
        share(&mut chosen, batch_tokens.saturating_sub(tokens));
        chosen
    }

    /// Puts back the sequences of a pass that are not finished: behind the others, or before them
    /// if the pass has to be made again.
    pub(super) fn put_back(&mut self, replica: usize, sequences: Vec<Sequence>, is_again: bool) {
        let replica = &mut self.replicas[replica];
        replica.in_pass.clear();
        if is_again {
            sequences.into_iter().rev().for_each(|sequence| replica.parked.push_front(sequence));
        } else {
            replica.parked.extend(sequences);
        }
    }

    /// Queues the sequences of a replica again, for itself or for others. Those of a pass that was
    /// under way are gone.
    pub(super) fn release(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        replica.in_pass.clear();
        replica.parked.drain(..).for_each(|(id, job)| self.waiting.push(id, job));
    }

    /// Passes of the replica in which each of its sequences is read once.
    fn passes_per_round(&self, replica: usize, batch_tokens: usize) -> u32 {
        let running = &self.replicas[replica];
        // a canvas larger than the limit takes one pass, too
        u32_of(running.tokens().div_ceil(batch_tokens.max(1)).min(running.len()))
    }

    /// Expected passes until the first running sequence of a replica ends, as far as their paces
    /// have bounds. Between two passes.
    pub(super) fn passes_until_room(&self, replica: usize, batch_tokens: usize) -> u32 {
        let running = &self.replicas[replica].parked;
        let passes_left = running.iter().filter_map(|(_, job)| job.passes_left(batch_tokens)).min();
        passes_left.unwrap_or(1).saturating_mul(self.passes_per_round(replica, batch_tokens))
    }
}

/// Shares the `room` of a pass among the sequences that may have more rows than one. Beside others
/// they have no more tokens than these, so that the steps of these take twice as long at most.
fn share(chosen: &mut [Sequence], room: usize) {
    let tokens = |job: &Job| job.row_tokens().unwrap_or(0);
    let others: Vec<usize> = chosen.iter().filter(|(_, job)| job.rows_max() <= 1).map(|(_, job)| tokens(job)).collect();
    let mut room = if others.is_empty() { room } else { room.min(others.iter().sum()) };
    let mut sharers = chosen.len() - others.len();
    for (_, job) in chosen {
        let each = if job.rows_max() > 1 { room / sharers } else { 0 };
        let more = (each / tokens(job).max(1)).min(job.rows_max().saturating_sub(1));
        job.prepare(1 + more);
        room -= more * tokens(job);
        sharers -= usize::from(job.rows_max() > 1);
    }
}
