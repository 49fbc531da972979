//! What the handle and the worker share: commands one way, the engine's state the other, and the operator's limits.

use super::job::{Job, SequenceId};
use super::mailbox::Outbox;
use super::pace::Pace;
use crate::telemetry::trace::Trace;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Failed forward passes in a row after which the server no longer calls itself ready: one may be one request's
/// fault, three are the model's or the device's.
pub(super) const FAILURES_MAX: u32 = 3;

/// What an operator may bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Tokens of one forward pass at most; a single canvas larger than that runs alone.
    pub batch_tokens_max: usize,
    /// Sequences refined at the same time at most.
    pub running_max: usize,
    /// Sequences that may wait beyond those.
    pub queue_max: usize,
    /// Cells of a canvas at most, where that is to be less than the model's own limit.
    pub canvas_max: Option<usize>,
    /// Share of its steps that a request keeps which takes the last place of the queue, above 0 and below 1; who comes while it is
    /// shorter keeps more. `None`: all of them.
    pub brown_out: Option<f32>,
}

impl Default for Limits {
    /// Bounds for a small model: 8,192 tokens a pass, 64 running, 256 waiting.
    fn default() -> Self {
        Self { batch_tokens_max: 8192, running_max: 64, queue_max: 256, canvas_max: None, brown_out: None }
    }
}

/// What the front door tells the worker.
#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<Submission>),
    Abandon,
}

/// An admitted request on its way to the engine.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: SequenceId,
    pub(super) job: Job,
    /// Its session holds the other end.
    pub(super) outbox: Outbox,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) at: Instant,
    pub(super) trace: Trace,
}

/// How the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    #[default]
    Working,
    /// The model broke down and is being loaded anew.
    Restarting,
    /// It could not be loaded anew; there is no engine any more.
    GivenUp,
}

/// What the worker tells everybody.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) pace: Pace,
    pub(super) failures_in_a_row: AtomicU32,
    pub(super) condition: watch::Sender<Condition>,
    pub(super) draining: AtomicBool,
    pub(super) next_id: AtomicU64,
}
