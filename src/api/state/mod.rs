//! What all requests share. Out of scope: any single request.

pub(crate) mod kept_answers;
pub(crate) mod keys;
mod lock;
pub(crate) mod recording;
pub(crate) mod stream_logs;
pub(crate) mod text_work;
pub(crate) mod under_way;

use super::error::{ApiError, Code};
use crate::engine::{Admitted, Handle, Origin, Readiness, Rejected, Request, Session, Task};
use crate::telemetry::Metrics;
use crate::text::quoted;
use axum::http::HeaderValue;
use kept_answers::KeptAnswers;
use keys::Guard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stream_logs::StreamLogs;
use text_work::TextWork;
use tokio::sync::Semaphore;
use under_way::UnderWay;

/// Default limit on the bytes of a body. 8,192 token ids take less than 0.1 MB.
pub const BODY_MAX: usize = 2 << 20;

/// Bytes of all long bodies that are being received or read: 64 of [`BODY_MAX`].
pub(crate) const BODIES_MAX: usize = 128 << 20;
/// Default time for which a stream of named events goes on without a reader.
pub const RESUME_GRACE: Duration = Duration::from_secs(10);

/// The state that all requests share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppState {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// Empty while the model is being loaded.
    service: OnceLock<Service>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) body_max: usize,
    /// Room for the bytes of long bodies, [`BODIES_MAX`] in all.
    pub(crate) body_room: Arc<Semaphore>,
    pub(crate) access: Access,
    draining: AtomicBool,
    patience: OnceLock<Patience>,
    pub(crate) under_way: Arc<UnderWay>,
    pub(crate) stream_logs: Arc<StreamLogs>,
    pub(crate) kept_answers: Arc<KeptAnswers>,
    pub(crate) text_work: TextWork,
}

/// Time limits of requests and streams.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Limit on the time from a request's first byte to its answer's last; `None` for no limit.
    pub timeout: Option<Duration>,
    /// How long a stream of named events goes on without a reader; zero ends it at once.
    pub resume: Duration,
}

impl Patience {
    /// No limit on requests, and [`RESUME_GRACE`] for streams.
    pub const DEFAULT: Self = Self { timeout: None, resume: RESUME_GRACE };
}

/// Who may send requests.
#[derive(Debug, Default)]
pub struct Access {
    /// Checks API keys; `None` admits everybody.
    pub guard: Option<Guard>,
    /// Other origins whose pages may send requests, as `https://example.org`; `*` for all.
    pub origins: Vec<HeaderValue>,
}

impl AppState {
    /// The state of a server without a model yet. `body_max`: bytes of a body, as [`BODY_MAX`].
    pub fn new(metrics: Arc<Metrics>, body_max: usize, access: Access) -> Self {
        let shared = Shared {
            service: OnceLock::new(),
            metrics,
            body_max,
            body_room: Arc::new(Semaphore::new(BODIES_MAX)),
            access,
            draining: AtomicBool::new(false),
            patience: OnceLock::new(),
            under_way: Arc::default(),
            stream_logs: Arc::default(),
            kept_answers: Arc::default(),
            text_work: TextWork::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Replaces [`Patience::DEFAULT`]. Call it before the first request, at most once.
    #[must_use]
    pub fn patient(self, patience: Patience) -> Self {
        let _ = self.shared.patience.set(patience); // a second value is ignored
        self
    }

    pub(crate) fn patience(&self) -> Patience {
        *self.shared.patience.get().unwrap_or(&Patience::DEFAULT)
    }

    /// Serves a model from now on.
    ///
    /// # Errors
    /// Returns the model when another one is being served already.
    pub fn loaded(&self, service: Service) -> Result<(), Box<Service>> {
        self.shared.service.set(service).map_err(Box::new)
    }

    /// Rejects new requests, waits for those admitted, and aborts the rest after `patience`.
    /// Returns how many were aborted.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        match self.shared.service.get() {
            Some(service) => service.handle.drain(patience).await,
            None => 0,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// The model that is served; an error while it is loaded, and during shutdown.
    pub(crate) fn service(&self) -> Result<&Service, ApiError> {
        if self.is_draining() {
            return Err(ApiError::new(Code::Draining, "the server is shutting down and takes no new requests"));
        }
        self.shared.service.get().ok_or_else(|| {
            ApiError::new(Code::Loading, "the model is still being loaded; /ready says when it can be used")
        })
    }

    /// Checks whether a new request would be admitted, apart from load.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        let message = match self.service()?.handle.readiness() {
            Readiness::Ready => return Ok(()),
            Readiness::Draining => return Err(Rejected::Draining.into()),
            Readiness::GivenUp => return Err(Rejected::GivenUp.into()),
            Readiness::Restarting => {
                "the model broke down and is being loaded anew; requests wait, and the server's log says why".to_owned()
            }
            Readiness::Failing { in_a_row } => {
                format!("the last {in_a_row} forward passes failed; the server's log says why")
            }
        };
        Err(ApiError::new(Code::ModelFailing, message))
    }
}

/// What the client of a session reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Every step, and the answer.
    Steps,
    /// The answer alone.
    Answer,
}

/// A loaded model.
#[derive(Debug)]
pub struct Service {
    /// Submits requests to it. Requests may name presets if it comes from
    /// [`with_presets`](crate::api::with_presets).
    pub handle: Handle,
    /// The name that clients use for it.
    pub name: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

impl Service {
    /// Checks the model's name in a request; `None` stands for the model that is served.
    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked.unwrap_or_default() {
            "" => Ok(()),
            asked if asked != self.name => {
                let message = format!("the model {} does not exist; this server serves {:?}", quoted(asked), self.name);
                Err(ApiError::new(Code::ModelNotFound, message).at(Some("model".to_owned())))
            }
            _ => Ok(()),
        }
    }

    /// Submits a request of `origin`. Admission, which encodes the text, runs on a blocking thread.
    /// The job is queued by the calling task, so that dropping the task also drops the job.
    pub(crate) async fn submit(&self, origin: Origin, mut request: Request, reads: Reads) -> Result<Session, ApiError> {
        let task = std::mem::replace(&mut request.task, Task::InfillTokens { cells: Vec::new() });
        let session = self.submit_all(origin, request, vec![task], 1, reads).await?.pop();
        session.ok_or_else(|| ApiError::new(Code::Internal, "the engine admitted no choice of this request"))
    }

    /// The same for `choices` choices of each task, with the options of `request`.
    pub(crate) async fn submit_all(
        &self,
        origin: Origin,
        request: Request,
        tasks: Vec<Task>,
        choices: usize,
        reads: Reads,
    ) -> Result<Vec<Session>, ApiError> {
        let request = Request { origin: Some(origin), ..request };
        let (handle, span) = (self.handle.clone(), tracing::Span::current());
        let admit = move || span.in_scope(|| handle.admit_all(request, tasks, choices));
        let admitted = tokio::task::spawn_blocking(admit).await.map_err(|error| {
            tracing::error!(%error, "a request could not be admitted");
            ApiError::new(Code::Internal, "the server made a mistake in reading this request; its log says more")
        })?;
        let queue = |admitted: Admitted| match reads {
            Reads::Steps => self.handle.queue(admitted),
            Reads::Answer => self.handle.queue_for_answer(admitted),
        };
        Ok(admitted?.into_iter().map(queue).collect::<Result<_, _>>()?) // an error drops, and so cancels, the sessions before
    }
}
