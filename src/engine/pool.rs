//! The queued sequences of the server, and the running ones of each replica. Synchronous. Out of
//! scope: which replica takes a sequence (`placement`), passes (`tick`), locks (`dispatch`).

use super::event::{Event, Failure};
use super::job::{Job, SequenceId};
use super::origin::{Caller, Origin};
use super::pace::{self, Holder};
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
    /// Passes until it ends, this one included, at most.
    passes_left: u32,
}

/// What the planning of passes has to know of clocks and of requests.
pub(super) struct Timing<'a> {
    /// The time that a sequence has until its deadline; `None` after it.
    pub(super) left: &'a dyn Fn(SequenceId, Duration) -> Option<Duration>,
    /// The expected time of a pass of so many tokens.
    pub(super) step: &'a dyn Fn(usize) -> Duration,
    /// Whether a sequence of the same request has had a place among the running ones.
    pub(super) has_begun: &'a dyn Fn(SequenceId) -> bool,
}

/// Sequences that are read in turn.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    tokens: usize,
    sequences: usize,
}

impl Load {
    /// Adds a row. One larger than the limit of a pass has a pass of its own.
    fn add(&mut self, tokens: usize, batch_tokens: usize) -> usize {
        let tokens = tokens.min(batch_tokens);
        self.tokens += tokens;
        self.sequences += 1;
        tokens
    }

    /// Sequences of the mean length that a pass has room for.
    fn rows(self, batch_tokens: usize) -> usize {
        (batch_tokens.saturating_mul(self.sequences) / self.tokens.max(1)).max(1)
    }

    /// Passes in which each of them is read once, at least one.
    fn passes(self, batch_tokens: usize) -> u32 {
        u32_of(self.sequences.div_ceil(self.rows(batch_tokens))).max(1)
    }

    /// Tokens that a pass can have, as rows are not divided.
    fn capacity(self, batch_tokens: usize) -> usize {
        self.tokens.saturating_mul(self.rows(batch_tokens)) / self.sequences.max(1)
    }
}

impl Running {
    pub(super) fn len(&self) -> usize {
        self.parked.len() + self.in_pass.len()
    }

    /// Tokens of one row of each of its sequences.
    fn row_tokens(&self) -> impl Iterator<Item = usize> {
        let parked = self.parked.iter().map(|(_, job)| job.row_tokens().unwrap_or(0));
        parked.chain(self.in_pass.iter().map(|sequence| sequence.tokens))
    }

    /// The same together.
    pub(super) fn tokens(&self) -> usize {
        self.row_tokens().sum()
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

    /// Whether a replica that is between two passes may read this sequence later: it runs there, or
    /// waits for a replica.
    pub(super) fn may_read(&self, replica: usize, id: SequenceId) -> bool {
        self.replicas[replica].parked.iter().any(|(other, _)| *other == id)
            || self.waiting.all().into_iter().any(|(other, _)| *other == id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.replicas.iter().all(|replica| replica.len() == 0)
    }

    /// All sequences that are in no pass.
    pub(super) fn ids(&self) -> BTreeSet<SequenceId> {
        let mut ids: BTreeSet<_> = self.waiting.all().into_iter().map(|(id, _)| *id).collect();
        ids.extend(self.replicas.iter().flat_map(|replica| &replica.parked).map(|(id, _)| *id));
        ids
    }

    /// Before a pass of this replica: starts queued sequences, and plans every running one that has
    /// a deadline anew: steps that a moment of load took are given back when it is over.
    /// `batch_tokens` is the most tokens of its passes. A queued sequence whose deadline has passed
    /// fails, unless its request has begun: then it is read as often as there is time for, at least
    /// once, and those that wait are counted as if they ran, so that there is time for all of them.
    pub(super) fn begin(&mut self, replica: usize, batch_tokens: usize, timing: &Timing<'_>) -> Begun {
        let Timing { left, step, has_begun } = timing;
        let is_owed = |id, job: &Job| job.options.deadline.is_some() && (job.has_begun() || has_begun(id));
        let late = self.waiting.extract(|id, job| {
            let deadline = job.options.deadline.filter(|_| !is_owed(id, job));
            deadline.is_some_and(|deadline| left(id, deadline).is_none())
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

        let serving = self.replicas.iter().filter(|replica| replica.is_serving).count().max(1);
        let owed = self.waiting.all().into_iter().filter(|(id, job)| is_owed(*id, job));
        let (mut shares, mut all) = (Shares::default(), Load::default());
        for (_, job) in self.replicas[replica].parked.iter().chain(owed.skip(replica).step_by(serving)) {
            shares.add(job.options.origin, all.add(job.row_tokens().unwrap_or(0), batch_tokens));
        }
        let (capacity, step) = (all.capacity(batch_tokens), step(all.tokens.min(batch_tokens)));
        let passes_left = |id, job: &Job| {
            let left = job.options.deadline.map(|deadline| left(id, deadline).unwrap_or_default())?;
            let round = step.as_secs_f64() * shares.passes_per_round(job.options.origin, capacity);
            Some((left.as_secs_f64() / round.max(1e-9) + 1e-6) as u32) // saturates
        };
        let is_last_chance = |id, job: &Job| is_owed(id, job) && passes_left(id, job).is_some_and(|left| left <= 1);
        let last_chance = self.waiting.extract(is_last_chance);
        let running = &mut self.replicas[replica].parked;
        last_chance.into_iter().for_each(|sequence| running.push_front(sequence));
        for (id, job) in running {
            if let Some(passes) = passes_left(*id, job) {
                job.limit_passes(passes);
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
        let in_pass = |(_, job): &Sequence| InPass {
            origin: job.options.origin,
            tokens: job.row_tokens().unwrap_or(0),
            passes_left: job.passes_at_most(batch_tokens),
        };
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

    /// Expected seconds until `places` more are free, of all or of one caller; 0 if none is taken.
    /// `step` is the expected time of a pass of a replica with so many tokens.
    pub(super) fn until_free(
        &self,
        places: usize,
        of: Option<Caller>,
        batch_tokens: usize,
        step: impl Fn(usize, usize) -> Duration,
    ) -> f64 {
        let (mut running, mut slowest) = (Vec::new(), 0.0_f64);
        let counts = |origin: Origin| of.is_none_or(|caller| caller == origin.caller);
        for (number, replica) in self.replicas.iter().enumerate() {
            let mut load = Load::default();
            replica.row_tokens().for_each(|tokens| _ = load.add(tokens, batch_tokens));
            let round = step(number, load.tokens.min(batch_tokens)).mul_f64(f64::from(load.passes(batch_tokens)));
            let holder = |passes: u32, origin| {
                let seconds = f64::from(passes.max(1)) * round.as_secs_f64();
                Holder { seconds, counts: counts(origin) }
            };
            let parked = replica.parked.iter().map(|(_, job)| (job.passes_at_most(batch_tokens), job.options.origin));
            let in_pass = replica.in_pass.iter().map(|sequence| (sequence.passes_left, sequence.origin));
            running.extend(parked.chain(in_pass).map(|(passes, origin)| holder(passes, origin)));
            slowest = slowest.max(round.as_secs_f64());
        }
        let waiting = self.waiting.all().into_iter().map(|(_, job)| {
            let seconds = f64::from(job.passes_at_most(batch_tokens)) * slowest;
            Holder { seconds, counts: counts(job.options.origin) }
        });
        pace::until_free(places, &running, waiting)
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
