//! The queue and the running sequences behind a lock, and the wake-up of workers that have work to
//! do. The lock is never held during a pass.

use super::delivery::{Client, Clients};
use super::job::{Job, SequenceId};
use super::pool::Pool;
use crate::telemetry::ModelMetrics;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the workers of all replicas and the handles share, behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) pool: Pool,
    /// The clients of the sequences that are in no pass. A worker has those of its pass.
    pub(super) clients: Clients,
    /// Whether every unfinished request has to fail, because the server shuts down.
    pub(super) is_abandoned: bool,
    /// Whether no replica is left to run anything.
    pub(super) is_closed: bool,
    has_handles: bool,
}

#[derive(Debug)]
pub(super) struct Dispatcher {
    state: Mutex<State>,
    /// Notified when a worker that waits may have something to do.
    changed: Condvar,
}

impl Dispatcher {
    pub(super) fn new(pool: Pool) -> Self {
        let state = State { pool, clients: Clients::new(), is_abandoned: false, is_closed: false, has_handles: true };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The state. After a panic of another holder, its worker repairs what was lost.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a sequence; false if no replica is left.
    pub(super) fn submit(&self, id: SequenceId, job: Job, client: Client, metrics: &ModelMetrics) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            return false;
        }
        metrics.admitted.inc();
        state.clients.insert(id, Arc::new(client));
        state.pool.waiting.push(id, job);
        drop(state);
        self.wake();
        true
    }

    /// Lets every unfinished request fail, because the server shuts down.
    pub(super) fn abandon(&self) {
        self.lock().is_abandoned = true;
        self.wake();
    }

    /// Lets the workers end once all is done: the last handle is gone.
    pub(super) fn close(&self) {
        self.lock().has_handles = false;
        self.wake();
    }

    /// Lets workers that wait look for something to do.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits until a replica has something to do; `None` when all is done and no handle is left.
    pub(super) fn wait(&self, replica: usize) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            let is_to_fail = state.is_abandoned && !state.clients.is_empty();
            if is_to_fail || state.pool.has_work(replica) {
                return Some(state);
            }
            if !state.has_handles && state.pool.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
