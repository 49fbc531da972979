//! What the handles and the worker share: commands, limits, and the state of the engine.

use super::job::{Job, SequenceId};
use super::{mailbox::Outbox, pace::StepTime};
use crate::telemetry::trace::Trace;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Failed forward passes in a row after which the server is no longer ready. A single failure may
/// come from one request; three in a row come from the model or the device.
pub(super) const FAILURES_MAX: u32 = 3;

/// The limits that an operator may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most tokens of a forward pass. A canvas larger than this runs alone.
    pub batch_tokens_max: usize,
    /// Most sequences that run at the same time.
    pub running_max: usize,
    /// Most sequences that are queued.
    pub queue_max: usize,
    /// Most cells of a canvas, where that is below the model's own limit.
    pub canvas_max: Option<usize>,
    /// The fraction of its steps, above 0 and below 1, that a request keeps when it takes the last
    /// place of the queue. In a shorter queue a request keeps more. `None`: always all.
    pub brown_out: Option<f32>,
}

impl Default for Limits {
    /// For a small model: 8,192 tokens per pass, 64 sequences running, 256 queued.
    fn default() -> Self {
        Self { batch_tokens_max: 8192, running_max: 64, queue_max: 256, canvas_max: None, brown_out: None }
    }
}

#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<Submission>),
    /// Fail every request; the server shuts down.
    Abandon,
}

/// An admitted request on its way to the engine.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: SequenceId,
    pub(super) job: Job,
    /// The session holds the other end.
    pub(super) outbox: Outbox,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) at: Instant,
    pub(super) trace: Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    #[default]
    Working,
    /// The model failed and is being reloaded.
    Restarting,
    /// The model failed and could not be reloaded; the engine has ended.
    GivenUp,
}

/// The state of the engine, for all handles.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) step_time: StepTime,
    pub(super) failures_in_a_row: AtomicU32,
    pub(super) condition: watch::Sender<Condition>,
    pub(super) draining: AtomicBool,
    pub(super) next_id: AtomicU64,
}
