//! Whether a connection waits for its client or for the server, and since when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Limit on the time for a request's head, and on silence before it, as in nginx.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(75);
/// Limit on the time for which a client takes nothing of what is sent. Slower readers resume
/// streams.
pub(super) const UNREAD_MAX: Duration = Duration::from_secs(300);

/// The activity of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Notified when the place of the connection is needed for another one.
    given_up: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Requests whose answers have not ended.
    open: usize,
    /// Those of them for which the server is at work, which do not wait for their client.
    at_work: usize,
    /// The last time at which something changed.
    since: Instant,
    /// Since when the socket takes no more bytes.
    unsent: Option<Instant>,
}

impl State {
    /// When the connection is to be closed; `None` while the server is at work.
    fn end(self) -> Option<Instant> {
        match self {
            Self { unsent: Some(unsent), .. } => Some(unsent + UNREAD_MAX),
            Self { open: 0, since, .. } => Some(since + IDLE_MAX),
            Self { at_work: 0, since, .. } => Some(since + UNREAD_MAX),
            Self { .. } => None,
        }
    }
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let state = State { open: 0, at_work: 0, since: Instant::now(), unsent: None };
        Arc::new(Self { state: Mutex::new(state), given_up: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when the connection waits for its client; `None` while the server is at work for it.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let State { at_work, since, unsent, .. } = *self.state();
        unsent.or_else(|| (at_work == 0).then_some(since))
    }

    /// Whether no request is open.
    pub(super) fn is_idle(&self) -> bool {
        self.state().open == 0
    }

    /// Notes whether the socket takes bytes.
    pub(super) fn sends(&self, takes_bytes: bool) {
        let mut state = self.state();
        match state.unsent {
            None if !takes_bytes => state.unsent = Some(Instant::now()),
            Some(_) if takes_bytes => (state.unsent, state.since) = (None, Instant::now()),
            None | Some(_) => {}
        }
    }

    /// Closes the connection because its place is needed.
    pub(super) fn give_up(&self) {
        self.given_up.notify_one();
    }

    /// Waits until the connection has waited for its client for too long, or is given up.
    pub(super) async fn expired(&self) {
        let too_long = async {
            loop {
                let end = self.state().end();
                match end {
                    Some(end) if end <= Instant::now() => return,
                    Some(end) => sleep_until(end).await,
                    None => sleep(IDLE_MAX).await, // no wait that begins meanwhile ends earlier
                }
            }
        };
        tokio::select! {
            () = too_long => {}
            () = self.given_up.notified() => {}
        }
    }
}

/// A request, from its head until its answer and its body are dropped.
#[derive(Debug)]
pub(super) struct OpenRequest {
    activity: Arc<Activity>,
    is_at_work: AtomicBool,
}

impl OpenRequest {
    /// A request whose body has just begun.
    pub(super) fn new(activity: &Arc<Activity>) -> Arc<Self> {
        let mut state = activity.state();
        (state.open, state.since) = (state.open + 1, Instant::now());
        drop(state);
        Arc::new(Self { activity: Arc::clone(activity), is_at_work: AtomicBool::new(false) })
    }

    /// Notes whether the server is at work for the request, or waits for its client.
    pub(super) fn is_at_work(&self, is_at_work: bool) {
        let mut state = self.activity.state();
        state.since = Instant::now();
        if self.is_at_work.swap(is_at_work, Ordering::Relaxed) != is_at_work {
            state.at_work = if is_at_work { state.at_work + 1 } else { state.at_work - 1 };
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.is_at_work(false);
        self.activity.state().open -= 1;
    }
}
