//! An answer that is written once and read by several connections, each from its beginning. Out of
//! scope: which answers are kept (`kept_answers`).

use super::lock::lock;
use axum::body::Bytes;
use axum::http::HeaderValue;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// An answer, as far as it is written.
#[derive(Debug, Default)]
pub(super) struct Recording {
    pub(super) state: Mutex<State>,
    /// Wakes the readers and the recorder at each change.
    pub(super) changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) media_type: Option<HeaderValue>,
    pub(super) body: Vec<u8>,
    /// Bytes before `body` that were dropped, all readers having read them.
    dropped: usize,
    pub(super) stage: Stage,
    /// How many bytes each reader has read.
    pub(super) readers: BTreeMap<u64, usize>,
    next_reader: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Running,
    /// Nothing follows.
    Ended,
    /// It broke off.
    Cut,
}

impl Recording {
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.send_replace(());
    }
}

impl State {
    /// Drops what all readers have read.
    pub(super) fn drop_read(&mut self) {
        let read = self.readers.values().min().map_or(0, |read| read - self.dropped);
        self.body.drain(..read);
        self.dropped += read;
    }
}

/// Reads an answer from its beginning.
pub(crate) struct Reader {
    recording: Arc<Recording>,
    changed: watch::Receiver<()>,
    number: u64,
}

/// The answer broke off.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(crate) struct BrokeOff;

impl Reader {
    pub(super) fn new(recording: &Arc<Recording>) -> Self {
        let mut state = lock(&recording.state);
        let (number, dropped) = (state.next_reader, state.dropped);
        state.next_reader += 1;
        state.readers.insert(number, dropped);
        drop(state);
        Self { recording: Arc::clone(recording), changed: recording.changed.subscribe(), number }
    }

    /// Waits for the media type of a success; `None` if the answer is none.
    pub(crate) async fn media_type(&mut self) -> Option<HeaderValue> {
        loop {
            self.changed.borrow_and_update();
            {
                let state = lock(&self.recording.state);
                if state.media_type.is_some() || state.stage != Stage::Running {
                    return state.media_type.clone();
                }
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, BrokeOff>> {
        loop {
            self.changed.borrow_and_update();
            {
                let mut state = lock(&self.recording.state);
                let end = state.dropped + state.body.len();
                let read = state.readers.insert(self.number, end).unwrap_or(end);
                let bytes = Bytes::copy_from_slice(&state.body[read - state.dropped..]);
                let stage = state.stage;
                drop(state);
                if !bytes.is_empty() {
                    self.recording.changed.send_replace(()); // there may be room again
                    return Some(Ok(bytes));
                }
                match stage {
                    Stage::Running => {}
                    Stage::Ended => return None,
                    Stage::Cut => return Some(Err(BrokeOff)),
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.recording.update(|state| {
            state.readers.remove(&self.number);
        });
    }
}
