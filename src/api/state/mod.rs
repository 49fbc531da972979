//! What all requests share. Out of scope: any single request.

pub(crate) mod kept_answers;
pub(crate) mod keys;
mod lock;
pub(crate) mod recording;
pub(crate) mod services;
pub(crate) mod stream_logs;
pub(crate) mod text_work;
pub(crate) mod under_way;

use super::error::{ApiError, Code};
use crate::telemetry::Metrics;
use axum::http::HeaderValue;
use futures_util::future::join_all;
use kept_answers::KeptAnswers;
use keys::Guard;
use services::{Service, Services, ServicesError};
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
    /// Empty while the models are being loaded.
    services: OnceLock<Services>,
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
            services: OnceLock::new(),
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

    /// Serves these models from now on. The first one answers requests that name none.
    ///
    /// # Errors
    /// When there is none, when two have the same name, or when models are being served already.
    pub fn loaded(&self, services: Vec<Service>) -> Result<(), ServicesError> {
        self.shared.services.set(Services::new(services)?).map_err(|_| ServicesError::Twice)
    }

    /// Rejects new requests, waits for those admitted, and aborts the rest after `patience`.
    /// Returns how many were aborted.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        let services = self.shared.services.get().map(Services::all).unwrap_or_default();
        join_all(services.iter().map(|service| service.handle.drain(patience))).await.into_iter().sum()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// The models that are served; an error while they are loaded, and during shutdown.
    pub(crate) fn services(&self) -> Result<&Services, ApiError> {
        if self.is_draining() {
            return Err(ApiError::new(Code::Draining, "the server is shutting down and takes no new requests"));
        }
        self.shared.services.get().ok_or_else(|| {
            ApiError::new(Code::Loading, "the model is still being loaded; /ready says when it can be used")
        })
    }

    /// Checks whether every model would admit a new request, apart from load.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        let services = self.services()?;
        services.all().iter().try_for_each(|service| service.check_ready(services.all().len() > 1))
    }
}
