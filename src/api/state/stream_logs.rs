//! Logs of streams of named events, from which broken streams are resumed.

use super::keys::{Fingerprint, Owner};
use super::lock::lock;
use super::under_way::{Name, Work, unknown_request};
use crate::api::error::ApiError;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Logs kept at the same time; with [`LOG_BYTES_MAX`] each, 64 MB.
pub(crate) const LOGS_MAX: usize = 256;
/// Bytes of one log. While it is full of unread entries, the engine's mailbox merges new steps.
const LOG_BYTES_MAX: usize = 256 << 10;

/// A named event. Its number is its place in the log.
#[derive(Clone, Debug)]
pub(crate) struct LogEntry {
    pub(crate) name: &'static str,
    /// JSON.
    pub(crate) data: String,
}

/// The logs that can be resumed, by the names of their requests.
#[derive(Debug, Default)]
pub(crate) struct StreamLogs(Mutex<BTreeMap<Name, Arc<StreamLog>>>);

impl StreamLogs {
    /// Keeps a log that has a grace time, if there is room or a finished log to remove.
    pub(crate) fn keep(&self, log: &Arc<StreamLog>) {
        if log.grace.is_zero() {
            return;
        }
        let mut logs = lock(&self.0);
        if logs.len() >= LOGS_MAX {
            let finished = logs.iter().find(|(_, log)| lock(&log.state).is_finished).map(|(name, _)| name.clone());
            match finished.and_then(|name| logs.remove(&name)) {
                Some(removed) => removed.stop_pump(), // its task only waits for the end of KEPT_FOR
                None => return,
            }
        }
        logs.insert(log.name(), Arc::clone(log));
    }

    /// Removes a log, if it is the one kept under its name.
    pub(crate) fn remove(&self, log: &Arc<StreamLog>) {
        let (mut logs, name) = (lock(&self.0), log.name());
        if logs.get(&name).is_some_and(|kept| Arc::ptr_eq(kept, log)) {
            logs.remove(&name);
        }
    }

    /// Finds a log by any id of its request; an error if no log of this owner is kept under it.
    pub(crate) fn find(&self, id: &str, owner: Owner) -> Result<Arc<StreamLog>, ApiError> {
        let logs = lock(&self.0);
        let log = logs.get(&(owner, id.to_owned()));
        let log = log.or_else(|| logs.values().find(|log| log.asked.work.is_named(id, owner)));
        log.cloned().ok_or_else(|| unknown_request(id))
    }
}

/// What a stream answers. The same request resumes it.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The path of the request.
    pub(crate) path: String,
    /// The digest of its body.
    pub(crate) body: Option<Fingerprint>,
    pub(crate) work: Arc<Work>,
}

/// The log of one stream. It has one reader at a time: a new one takes over.
#[derive(Debug)]
pub(crate) struct StreamLog {
    pub(crate) id: String,
    owner: Owner,
    pub(crate) asked: Asked,
    /// How long the stream goes on without a reader; zero ends it at once.
    pub(crate) grace: Duration,
    state: Mutex<LogState>,
    /// Wakes the reader: an entry was added, the stream has finished, or another reader took over.
    changed: Notify,
    /// Wakes the pump: the reader took an entry.
    taken: Notify,
    pump: Mutex<Option<AbortHandle>>,
}

#[derive(Debug, Default)]
struct LogState {
    entries: VecDeque<LogEntry>,
    /// Number of the first entry that is kept.
    first: u64,
    bytes: usize,
    /// Number of the entry that the reader takes next.
    next: u64,
    /// Number of the current reader.
    reader: u64,
    has_reader: bool,
    is_finished: bool,
}

impl LogState {
    /// Drops entries that were read while there are too many.
    fn trim(&mut self) {
        while self.bytes > LOG_BYTES_MAX && self.first < self.next {
            let dropped = self.entries.pop_front();
            self.bytes -= dropped.map_or(0, |entry| entry.data.len());
            self.first += 1;
        }
    }
}

impl StreamLog {
    pub(crate) fn new(id: String, owner: Owner, asked: Asked, grace: Duration) -> Self {
        let (changed, taken) = (Notify::new(), Notify::new());
        Self { id, owner, asked, grace, state: Mutex::default(), changed, taken, pump: Mutex::default() }
    }

    fn name(&self) -> Name {
        (self.owner, self.id.clone())
    }

    pub(crate) fn set_pump(&self, pump: AbortHandle) {
        *lock(&self.pump) = Some(pump);
    }

    /// Ends the task that fills the log.
    pub(crate) fn stop_pump(&self) {
        if let Some(pump) = lock(&self.pump).take() {
            pump.abort();
        }
    }

    pub(crate) async fn wait_for_room(&self) {
        let taken = self.taken.notified();
        if lock(&self.state).bytes > LOG_BYTES_MAX {
            taken.await;
        }
    }

    pub(crate) fn append(&self, entries: Vec<LogEntry>) {
        let mut state = lock(&self.state);
        for entry in entries {
            state.bytes += entry.data.len();
            state.entries.push_back(entry);
            state.trim();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn finish(&self) {
        lock(&self.state).is_finished = true;
        self.changed.notify_waiters();
    }

    /// Attaches a reader at entry `from`. Returns its number, or the entries it could begin with.
    pub(crate) fn attach(&self, from: u64) -> Result<u64, RangeInclusive<u64>> {
        let mut state = lock(&self.state);
        let kept = state.first..=state.first + state.entries.len() as u64;
        if !kept.contains(&from) {
            return Err(kept);
        }
        state.reader += 1;
        state.has_reader = true;
        state.next = from;
        self.changed.notify_waiters();
        Ok(state.reader)
    }

    /// The next entry for `reader` and its number; `None` after the last, or after a takeover.
    pub(crate) async fn next(&self, reader: u64) -> Option<(u64, LogEntry)> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable(); // a change between the look and the wait is noticed
            {
                let mut state = lock(&self.state);
                if state.reader != reader {
                    return None;
                }
                let number = state.next;
                let index = usize::try_from(number.saturating_sub(state.first)).unwrap_or(usize::MAX);
                if let Some(entry) = state.entries.get(index).cloned() {
                    state.next += 1;
                    state.trim();
                    self.taken.notify_one();
                    return Some((number, entry));
                }
                if state.is_finished {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Whether another reader has taken over, so that `reader` did not read to the end.
    pub(crate) fn was_taken_from(&self, reader: u64) -> bool {
        lock(&self.state).reader != reader
    }

    /// Detaches `reader`. Returns whether the stream goes on without a reader.
    pub(crate) fn detach(&self, reader: u64) -> bool {
        let mut state = lock(&self.state);
        if state.reader == reader {
            state.has_reader = false;
        }
        state.reader == reader && !state.is_finished
    }

    /// Whether the stream still goes on without a reader, `reader` having been the last.
    pub(crate) fn is_abandoned_by(&self, reader: u64) -> bool {
        let state = lock(&self.state);
        state.reader == reader && !state.has_reader && !state.is_finished
    }
}
