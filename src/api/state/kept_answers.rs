//! Answers kept by the `Idempotency-Key` of their requests: while they are computed, and after.

use super::keys::{Fingerprint, Owner};
use super::lock::lock;
use super::recording::{Reader, Recording, Stage};
use super::under_way::Work;
use axum::http::HeaderValue;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KEPT_FOR: Duration = Duration::from_secs(600);
/// Bytes of one answer. A larger one is not kept: it ends with the connections that read it.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of all answers together, running and complete. The oldest complete ones are dropped first.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// Answers together, for the many that are small.
const ANSWERS_MAX: usize = 4096;

/// A key, and who sent it: two owners may use the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AnswerKey {
    pub(crate) owner: Owner,
    pub(crate) key: String,
}

#[derive(Debug, Default)]
pub(crate) struct KeptAnswers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<AnswerKey, Entry>,
    /// Bytes of all their bodies.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    /// Digest of the request's path and body.
    request: Fingerprint,
    work: Arc<Work>,
    recording: Arc<Recording>,
    bytes: usize,
    /// Since when the answer is complete; `None` while it is computed.
    complete: Option<Instant>,
    /// Whether it was cancelled, so that there is no answer.
    is_cancelled: bool,
}

/// How a request with a key is to be answered.
pub(crate) enum Lookup {
    /// It is the first with its key: serve it, and record its answer.
    First(Recorder),
    /// The answer is there, or is being computed by this work.
    Kept(Reader, Arc<Work>),
    /// It was cancelled.
    Cancelled,
    /// The key belongs to a different request.
    Conflict,
}

impl KeptAnswers {
    /// Looks a key up; `request` is the digest of the request's path and body, `work` what computes
    /// the answer if it is the first.
    pub(crate) fn look_up(self: &Arc<Self>, key: &AnswerKey, request: Fingerprint, work: &Arc<Work>) -> Lookup {
        let mut kept = lock(&self.0);
        kept.drop_where(|entry| entry.complete.is_some_and(|since| since.elapsed() >= KEPT_FOR));
        match kept.entries.get(key) {
            Some(entry) if entry.request != request => Lookup::Conflict,
            Some(entry) if entry.is_cancelled => Lookup::Cancelled,
            Some(entry) => Lookup::Kept(Reader::new(&entry.recording), Arc::clone(&entry.work)),
            None => {
                if kept.entries.len() >= ANSWERS_MAX {
                    kept.drop_oldest();
                }
                let recording = Arc::new(Recording::default());
                let entry = Entry {
                    request,
                    work: Arc::clone(work),
                    recording: Arc::clone(&recording),
                    bytes: 0,
                    complete: None,
                    is_cancelled: false,
                };
                kept.entries.insert(key.clone(), entry);
                Lookup::First(Recorder { answers: Arc::clone(self), key: key.clone(), recording, is_kept: true })
            }
        }
    }
}

impl Kept {
    fn drop_where(&mut self, is_dropped: impl Fn(&Entry) -> bool) {
        let bytes = &mut self.bytes;
        self.entries.retain(|_, entry| {
            let stays = !is_dropped(entry);
            *bytes -= if stays { 0 } else { entry.bytes };
            stays
        });
    }

    /// Drops the complete answer that is kept longest; false if there is none.
    fn drop_oldest(&mut self) -> bool {
        let complete = self.entries.iter().filter_map(|(key, entry)| Some((entry.complete?, key)));
        let Some((_, oldest)) = complete.min().map(|(since, key)| (since, key.clone())) else { return false };
        self.bytes -= self.entries.remove(&oldest).map_or(0, |entry| entry.bytes);
        true
    }
}

/// Writes the answer to the first request with a key. Dropping it unfinished frees the key.
pub(crate) struct Recorder {
    answers: Arc<KeptAnswers>,
    key: AnswerKey,
    recording: Arc<Recording>,
    is_kept: bool,
}

impl Recorder {
    /// A reader from the beginning, if nothing was dropped yet.
    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.recording)
    }

    /// The answer is a success of this media type; its body follows.
    pub(crate) fn begin(&self, media_type: HeaderValue) {
        self.recording.update(|state| state.media_type = Some(media_type));
    }

    /// Records a piece of the answer. Where the answer is too large to be kept, waits until its
    /// readers have read it; false if there are none left.
    pub(crate) async fn push(&mut self, bytes: &[u8]) -> bool {
        if self.is_kept && !self.make_room(bytes.len()) {
            self.forget();
        }
        self.recording.update(|state| state.body.extend_from_slice(bytes));
        if self.is_kept {
            return true;
        }
        let mut changed = self.recording.changed.subscribe();
        loop {
            {
                let mut state = lock(&self.recording.state);
                state.drop_read();
                if state.body.len() <= ANSWER_BYTES_MAX {
                    return true;
                }
                if state.readers.is_empty() {
                    return false;
                }
            }
            let _ = changed.changed().await; // the recording holds the sender
        }
    }

    /// Whether so many bytes more can be kept, of this answer and of all.
    fn make_room(&self, bytes: usize) -> bool {
        let mut kept = lock(&self.answers.0);
        let own = kept.entries.get(&self.key).map_or(ANSWER_BYTES_MAX, |entry| entry.bytes);
        if own + bytes > ANSWER_BYTES_MAX {
            return false;
        }
        while kept.bytes + bytes > TOTAL_BYTES_MAX {
            if !kept.drop_oldest() {
                return false;
            }
        }
        kept.bytes += bytes;
        if let Some(entry) = kept.entries.get_mut(&self.key) {
            entry.bytes += bytes;
        }
        true
    }

    /// Frees the key: nobody joins the readers from now on.
    fn forget(&mut self) {
        let mut kept = lock(&self.answers.0);
        if self.is_kept {
            kept.bytes -= kept.entries.remove(&self.key).map_or(0, |entry| entry.bytes);
        }
        self.is_kept = false;
    }

    /// The request was cancelled, and stays so for those that are sent again with its key.
    pub(crate) fn cancel(mut self) {
        let mut kept = lock(&self.answers.0);
        if self.is_kept
            && let Some(entry) = kept.entries.get_mut(&self.key)
        {
            (entry.complete, entry.is_cancelled, entry.recording) = (Some(Instant::now()), true, Arc::default());
            let bytes = std::mem::take(&mut entry.bytes);
            kept.bytes -= bytes;
            self.is_kept = false; // it is no longer this recorder's to forget
        }
        drop(kept);
        self.recording.update(|state| state.stage = Stage::Ended);
    }

    /// The answer is complete. It is kept if it `succeeded` and is not too large.
    pub(crate) fn finish(mut self, succeeded: bool) {
        if succeeded && self.is_kept {
            if let Some(entry) = lock(&self.answers.0).entries.get_mut(&self.key) {
                entry.complete = Some(Instant::now());
            }
            self.is_kept = false; // it is no longer this recorder's to forget
        }
        self.forget();
        self.recording.update(|state| state.stage = Stage::Ended);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.forget();
        self.recording.update(|state| {
            if state.stage == Stage::Running {
                state.stage = Stage::Cut;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;

    fn key(name: usize) -> AnswerKey {
        AnswerKey { owner: None, key: name.to_string() }
    }

    fn first(answers: &Arc<KeptAnswers>, name: usize) -> Recorder {
        match answers.look_up(&key(name), [0; 32], &Arc::default()) {
            Lookup::First(recorder) => recorder,
            Lookup::Kept(..) | Lookup::Cancelled | Lookup::Conflict => panic!("{name} is there"),
        }
    }

    fn is_kept(answers: &Arc<KeptAnswers>, name: usize) -> bool {
        matches!(answers.look_up(&key(name), [0; 32], &Arc::default()), Lookup::Kept(..))
    }

    #[tokio::test]
    async fn what_is_kept_has_a_bound_in_bytes_and_in_number() {
        let answers = Arc::new(KeptAnswers::default());
        let half = vec![0; ANSWER_BYTES_MAX / 2];
        let most = TOTAL_BYTES_MAX / half.len();
        for name in 0..most + 10 {
            let mut recorder = first(&answers, name);
            assert!(recorder.push(&half).await);
            recorder.finish(true);
            assert!(lock(&answers.0).bytes <= TOTAL_BYTES_MAX);
        }
        assert!(!is_kept(&answers, 9) && is_kept(&answers, 10), "the oldest are dropped first");
        for name in 1000..1000 + ANSWERS_MAX {
            first(&answers, name).finish(true);
        }
        let kept = lock(&answers.0);
        assert_eq!((kept.entries.len(), kept.bytes), (ANSWERS_MAX, 0));
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_ends_with_its_readers() {
        let answers = Arc::new(KeptAnswers::default());
        let mut recorder = first(&answers, 0);
        let (mut one, mut other) = (recorder.reader(), recorder.reader());
        let whole = tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(Ok(piece)) = one.next().await {
                bytes += piece.len();
            }
            bytes
        });
        let piece = vec![1; ANSWER_BYTES_MAX / 2];
        for _ in 0..2 {
            assert!(recorder.push(&piece).await);
        }
        {
            let mut pushed = std::pin::pin!(recorder.push(&piece));
            let polled = std::future::poll_fn(|context| Poll::Ready(pushed.as_mut().poll(context))).await;
            assert!(polled.is_pending(), "one of two readers has read nothing");
            assert_eq!(other.next().await.unwrap().unwrap().len(), 3 * piece.len());
            assert!(pushed.await, "there is room again");
        }
        drop(other);
        recorder.finish(true);
        assert_eq!(whole.await.unwrap(), 3 * piece.len());
        let mut unread = first(&answers, 0); // its key is free: it was not kept
        for piece in [&piece, &piece] {
            assert!(unread.push(piece).await);
        }
        assert!(!unread.push(&piece).await, "nobody reads what cannot be kept");
        drop(unread);
        assert_eq!(lock(&answers.0).bytes, 0);
    }
}
