//! Answers kept by the `Idempotency-Key` of their requests.

use super::keys::{Fingerprint, Owner};
use super::lock::lock;
use axum::body::Bytes;
use axum::http::HeaderValue;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const KEPT_FOR: Duration = Duration::from_secs(600);
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of all kept answers together. The oldest answers are dropped first.
const TOTAL_BYTES_MAX: usize = 64 << 20;

/// A key, and who sent it: two owners may use the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AnswerKey {
    pub(crate) owner: Owner,
    pub(crate) key: String,
}

#[derive(Debug, Default)]
pub(crate) struct KeptAnswers(Mutex<BTreeMap<AnswerKey, Entry>>);

#[derive(Debug)]
struct Entry {
    /// Digest of the request's path and body.
    request: Fingerprint,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// The first request is being served; its sender is dropped when that has ended.
    Pending(watch::Receiver<()>),
    Complete {
        media_type: HeaderValue,
        body: Bytes,
        since: Instant,
    },
}

impl Answer {
    /// The body of a complete answer, and since when it is kept.
    fn complete(&self) -> Option<(&Bytes, Instant)> {
        match self {
            Self::Pending(_) => None,
            Self::Complete { body, since, .. } => Some((body, *since)),
        }
    }
}

/// How a request with a key is to be answered.
pub(crate) enum Lookup {
    /// It is the first with its key: serve it, and record its answer.
    First(Recorder),
    /// The first one is being served: look up again when this channel closes.
    Pending(watch::Receiver<()>),
    Complete {
        media_type: HeaderValue,
        body: Bytes,
    },
    /// The key belongs to a different request.
    Conflict,
}

impl KeptAnswers {
    /// Looks a key up; `request` is the digest of the request's path and body.
    pub(crate) fn look_up(self: &Arc<Self>, key: &AnswerKey, request: Fingerprint) -> Lookup {
        let mut entries = lock(&self.0);
        entries.retain(|_, entry| entry.answer.complete().is_none_or(|(_, since)| since.elapsed() < KEPT_FOR));
        match entries.get(key) {
            Some(entry) if entry.request != request => Lookup::Conflict,
            Some(Entry { answer: Answer::Pending(done), .. }) => Lookup::Pending(done.clone()),
            Some(Entry { answer: Answer::Complete { media_type, body, .. }, .. }) => {
                Lookup::Complete { media_type: media_type.clone(), body: body.clone() }
            }
            None => {
                let (done, pending) = watch::channel(());
                entries.insert(key.clone(), Entry { request, answer: Answer::Pending(pending) });
                Lookup::First(Recorder { answers: Arc::clone(self), key: key.clone(), body: Vec::new(), _done: done })
            }
        }
    }
}

/// Records the answer to the first request with a key. Dropping it unfinished frees the key.
pub(crate) struct Recorder {
    answers: Arc<KeptAnswers>,
    key: AnswerKey,
    body: Vec<u8>,
    /// The other ends are in [`Answer::Pending`] and with the requests that wait for this one.
    _done: watch::Sender<()>,
}

impl Recorder {
    /// Records a piece of the answer, unless the answer is too large already.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.body.len() <= ANSWER_BYTES_MAX {
            self.body.extend_from_slice(bytes);
        }
    }

    /// Keeps the answer, unless it is too large.
    pub(crate) fn finish(mut self, media_type: HeaderValue) {
        let body = Bytes::from(std::mem::take(&mut self.body));
        if body.len() > ANSWER_BYTES_MAX {
            return;
        }
        let mut entries = lock(&self.answers.0);
        let bytes = |entry: &Entry| entry.answer.complete().map_or(0, |(body, _)| body.len());
        while entries.values().map(bytes).sum::<usize>() + body.len() > TOTAL_BYTES_MAX {
            let complete = entries.iter().filter_map(|(key, entry)| Some((entry.answer.complete()?.1, key.clone())));
            let Some((_, oldest)) = complete.min() else { break };
            entries.remove(&oldest);
        }
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.answer = Answer::Complete { media_type, body, since: Instant::now() };
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut entries = lock(&self.answers.0);
        if let Some(Entry { answer: Answer::Pending(_), .. }) = entries.get(&self.key) {
            entries.remove(&self.key);
        }
    }
}
