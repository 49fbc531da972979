//! What is known of requests under way: they can be cancelled by name, end in time, and named streams can be read on after a
//! broken connection. Refuses to know what was asked and what is answered.

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::request::context::Ticket;
use crate::api::state::keys::Fingerprint;
use axum::Extension;
use axum::extract::{Request, State as Shared};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// How long a named stream goes on without a reader, unless the operator says otherwise.
pub const RESUME_GRACE: Duration = Duration::from_secs(10);
/// How long the events of a stream that has ended are kept.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Streams kept at the same time; with [`KEPT_BYTES`] each, 64 MB.
const RUNS_MAX: usize = 256;
/// Bytes of events kept of one stream, unread ones included; what a slow reader does not fetch beyond that waits in the engine,
/// where steps are merged.
const KEPT_BYTES: usize = 256 << 10;

/// An event of a named stream, its number apart.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: &'static str,
    /// JSON.
    pub(crate) data: String,
}

/// What brings a stream's records, a few at a time; `None` after the last ones.
pub(crate) trait Source: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Option<Vec<Record>>> + Send;
}

/// Everything under way.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Ways to stop them, by their names.
    cancels: Mutex<BTreeMap<String, Cancel>>,
    runs: Mutex<BTreeMap<String, Arc<Run>>>,
}

/// Whose request it is, and what stops it while it is under way.
type Cancel = (Option<Fingerprint>, Weak<watch::Sender<bool>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(id: &str) -> ApiError {
    let message = format!(
        "there is no request {id:?} under way, and none of that name that ended within {} s; send it again as a new one",
        KEPT_FOR.as_secs()
    );
    ApiError::new(Code::UnknownRequest, message)
}

impl Requests {
    /// Makes a request known by its name until it ends; of two with one name the later.
    pub(crate) fn enter(&self, id: &str, owner: Option<Fingerprint>, cancel: &Arc<watch::Sender<bool>>) {
        let mut cancels = lock(&self.cancels);
        cancels.retain(|_, (_, cancel)| cancel.strong_count() > 0);
        cancels.insert(id.to_owned(), (owner, Arc::downgrade(cancel)));
    }

    /// Stops a request of the same API key.
    ///
    /// # Errors
    /// When none of that name is under way.
    pub(crate) fn cancel(&self, id: &str, owner: Option<Fingerprint>) -> Result<(), ApiError> {
        let cancels = lock(&self.cancels);
        let cancel = cancels.get(id).filter(|(whose, _)| *whose == owner).and_then(|(_, cancel)| cancel.upgrade());
        let cancel = cancel.ok_or_else(|| unknown(id))?;
        cancel.send_replace(true);
        Ok(())
    }

    /// Starts a named stream that goes on for `grace` without a reader, and reads it from its beginning.
    pub(crate) fn begin(self: &Arc<Self>, ticket: &Ticket, source: impl Source, grace: Duration) -> Response {
        let run = Arc::new(Run::new(ticket.id().to_owned(), ticket.owner(), grace));
        let response = self.read(&run, 0); // before anything can be let go of: there is always a first event
        self.feed(&run, source);
        response.unwrap_or_else(|_| unknown(&run.id).into_response())
    }

    /// Has a run fed by a task of its own, and kept.
    fn feed(self: &Arc<Self>, run: &Arc<Run>, source: impl Source) {
        let pumped = tokio::spawn(pump(source, Arc::clone(run), Arc::clone(self)));
        *lock(&run.pump) = Some(pumped.abort_handle());
        self.keep(run);
    }

    /// Keeps a run for those who lose it, if there is room.
    fn keep(&self, run: &Arc<Run>) {
        if run.grace.is_zero() {
            return;
        }
        let mut runs = lock(&self.runs);
        if runs.len() >= RUNS_MAX {
            let ended = runs.iter().find(|(_, run)| lock(&run.state).is_over).map(|(id, _)| id.clone());
            match ended.and_then(|id| runs.remove(&id)) {
                Some(gone) => gone.stop_pump(), // it only waits for the end of a time that has come
                None => return,
            }
        }
        runs.insert(run.id.clone(), Arc::clone(run));
    }

    fn forget(&self, run: &Arc<Run>) {
        let mut runs = lock(&self.runs);
        if runs.get(&run.id).is_some_and(|kept| Arc::ptr_eq(kept, run)) {
            runs.remove(&run.id);
        }
    }

    /// Reads on behind the event `last`, as `Last-Event-ID` gives it, or a whole stream by its request's name.
    ///
    /// # Errors
    /// When there is no such stream, or that part of it is gone or not there yet.
    pub(crate) fn resume(self: &Arc<Self>, last: &str, owner: Option<Fingerprint>) -> Result<Response, ApiError> {
        let (id, from) = match last.rsplit_once(':') {
            None => (last, 0),
            Some((id, number)) => match number.parse::<u64>() {
                Ok(number) => (id, number.saturating_add(1)),
                Err(_) => return Err(unknown(last)),
            },
        };
        let run = lock(&self.runs).get(id).filter(|run| run.owner == owner).cloned().ok_or_else(|| unknown(id))?;
        self.read(&run, from).map_err(|kept| {
            let message =
                format!("of the stream of request {id} events {} to {} can be read on", kept.start(), kept.end());
            ApiError::new(Code::UnknownRequest, message)
        })
    }

    /// The response that reads a run from an event on, or which events it could begin with. Whoever read it before is done.
    fn read(self: &Arc<Self>, run: &Arc<Run>, from: u64) -> Result<Response, RangeInclusive<u64>> {
        let number = {
            let mut state = lock(&run.state);
            let kept = state.first..=state.first + state.records.len() as u64;
            if !kept.contains(&from) {
                return Err(kept);
            }
            state.reader += 1;
            state.has_reader = true;
            state.next = from;
            state.reader
        };
        run.grown.notify_waiters();
        let reader = Reader { run: Arc::clone(run), requests: Arc::clone(self), number };
        let events = stream::unfold(reader, async |reader| {
            let (number, record) = reader.next().await?;
            let event = sse::Event::default().id(format!("{}:{number}", reader.run.id)).event(record.name);
            Some((Ok::<_, std::convert::Infallible>(event.data(record.data)), reader))
        });
        Ok(Sse::new(events)
            .keep_alive(KeepAlive::new().interval(crate::api::stream::sessions::KEEP_ALIVE))
            .into_response())
    }
}

/// The layer that makes requests known by their names.
pub(crate) async fn enter(
    Shared(state): Shared<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::POST {
        state.requests().enter(ticket.id(), ticket.owner(), ticket.stopper());
    }
    next.run(request).await
}

/// A named stream.
#[derive(Debug)]
struct Run {
    id: String,
    owner: Option<Fingerprint>,
    grace: Duration,
    state: Mutex<State>,
    /// Something came for the reader, or another one took its place.
    grown: Notify,
    /// The reader took something.
    fetched: Notify,
    pump: Mutex<Option<AbortHandle>>,
}

impl Run {
    fn new(id: String, owner: Option<Fingerprint>, grace: Duration) -> Self {
        let (grown, fetched) = (Notify::new(), Notify::new());
        Self { id, owner, grace, state: Mutex::default(), grown, fetched, pump: Mutex::default() }
    }

    fn stop_pump(&self) {
        if let Some(pump) = lock(&self.pump).take() {
            pump.abort();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Record>,
    /// Number of the first record kept.
    first: u64,
    bytes: usize,
    /// Number of the record that the reader takes next.
    next: u64,
    /// The last reader's number; the others are done.
    reader: u64,
    has_reader: bool,
    is_over: bool,
}

impl State {
    fn push(&mut self, record: Record) {
        self.bytes += record.data.len();
        self.records.push_back(record);
        self.trim();
    }

    /// Lets go of records that were read, where there are too many.
    fn trim(&mut self) {
        while self.bytes > KEPT_BYTES && self.first < self.next {
            let gone = self.records.pop_front();
            self.bytes -= gone.map_or(0, |record| record.data.len());
            self.first += 1;
        }
    }
}

/// Fetches records as they come, as long as there is room, to the last one.
async fn pump(mut source: impl Source, run: Arc<Run>, requests: Arc<Requests>) {
    loop {
        let fetched = run.fetched.notified();
        if lock(&run.state).bytes > KEPT_BYTES {
            fetched.await;
        }
        let Some(records) = source.next().await else { break };
        {
            let mut state = lock(&run.state);
            records.into_iter().for_each(|record| state.push(record));
        }
        run.grown.notify_waiters();
    }
    drop(source); // the request has ended, whoever is still to read of it
    lock(&run.state).is_over = true;
    run.grown.notify_waiters();
    let (grace, kept) = (run.grace, Arc::downgrade(&run));
    drop(run); // who keeps or reads it holds it, so that what there is no room for goes at once
    if !grace.is_zero() {
        tokio::time::sleep(KEPT_FOR).await;
        if let Some(run) = kept.upgrade() {
            requests.forget(&run);
        }
    }
}

/// Reads a run for one connection.
struct Reader {
    run: Arc<Run>,
    requests: Arc<Requests>,
    number: u64,
}

impl Reader {
    /// The next record and its number; `None` after the last one, or when another reader took over.
    async fn next(&self) -> Option<(u64, Record)> {
        loop {
            let grown = self.run.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable(); // what comes between the look and the wait is heard
            {
                let mut state = lock(&self.run.state);
                if state.reader != self.number {
                    return None;
                }
                let number = state.next;
                let index = usize::try_from(number.saturating_sub(state.first)).unwrap_or(usize::MAX);
                if let Some(record) = state.records.get(index).cloned() {
                    state.next += 1;
                    state.trim();
                    self.run.fetched.notify_one();
                    return Some((number, record));
                }
                if state.is_over {
                    return None;
                }
            }
            grown.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.run.state);
            if state.reader != self.number {
                return;
            }
            state.has_reader = false;
            if state.is_over {
                return;
            }
        }
        let (run, requests, number) = (Arc::clone(&self.run), Arc::clone(&self.requests), self.number);
        if run.grace.is_zero() {
            give_up(&run, &requests);
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(run.grace).await;
            let is_left = {
                let state = lock(&run.state);
                state.reader == number && !state.has_reader && !state.is_over
            };
            if is_left {
                give_up(&run, &requests);
            }
        });
    }
}

/// Ends a run that nobody reads: its source is dropped, and with it what is computed for it.
fn give_up(run: &Arc<Run>, requests: &Arc<Requests>) {
    run.stop_pump();
    requests.forget(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that ends at once.
    struct Nothing;

    impl Source for Nothing {
        async fn next(&mut self) -> Option<Vec<Record>> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_ended_is_held_as_long_as_it_is_kept() {
        let requests = Arc::new(Requests::default());
        let mut streams = Vec::new();
        for number in 0..RUNS_MAX + 10 {
            let run = Arc::new(Run::new(number.to_string(), None, RESUME_GRACE));
            streams.push(Arc::downgrade(&run));
            requests.feed(&run, Nothing);
            drop(run);
            tokio::task::yield_now().await; // it ends
        }
        let streams_and_tasks = || {
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            (streams.iter().filter(|run| run.strong_count() > 0).count(), tasks)
        };
        assert_eq!(streams_and_tasks(), (RUNS_MAX, RUNS_MAX), "what there was no room for is gone");
        tokio::time::sleep(KEPT_FOR * 2).await;
        assert_eq!(streams_and_tasks(), (0, 0));
    }
}
