//! What the handles and the workers share: limits, and the state of the replicas.

use super::{dispatch::Dispatcher, pace::StepTime};
use crate::telemetry::ModelMetrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use tokio::sync::watch;

/// Failed forward passes in a row after which a replica is no longer ready. A single failure may
/// come from one request; three in a row come from the model or the device.
pub(super) const FAILURES_MAX: u32 = 3;

/// The limits that an operator may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most tokens of a forward pass. A canvas larger than this runs alone.
    pub batch_tokens_max: usize,
    /// Most sequences that run at the same time on one replica.
    pub running_max: usize,
    /// Most sequences that are queued, for all replicas together.
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    #[default]
    Working,
    /// The model failed and is being reloaded.
    Restarting,
    /// The model failed and could not be reloaded; the worker has ended.
    GivenUp,
}

/// The state of a replica, for all handles.
#[derive(Debug, Default)]
pub(super) struct ReplicaState {
    pub(super) step_time: StepTime,
    pub(super) failures_in_a_row: AtomicU32,
    pub(super) condition: watch::Sender<Condition>,
}

/// What all handles and workers hold.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dispatcher: Dispatcher,
    pub(super) replicas: Vec<ReplicaState>,
    pub(super) draining: AtomicBool,
    pub(super) next_id: AtomicU64,
    pub(super) metrics: Arc<ModelMetrics>,
}

impl Shared {
    /// The replicas that have not been given up.
    pub(super) fn remaining(&self) -> impl Iterator<Item = &ReplicaState> {
        self.replicas.iter().filter(|replica| *replica.condition.borrow() != Condition::GivenUp)
    }
}
