//! The wire: HTTP or gRPC in, domain words to the engine, HTTP or gRPC out. Everything about a request but its words is
//! decided behind [`Handle`]. Refuses to know tensors, and how models are loaded.

mod answer;
mod endpoints;
mod error;
mod grpc;
mod openapi;
mod request;
mod schema;
mod state;
mod stream;
mod wire;

use crate::engine::{Handle, Readiness, Request, Session};
use crate::telemetry::Metrics;
use answer::{infill, models, repair as given};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::{Router, middleware};
use endpoints::{completions, docs, ops, requests as resume, tokenize as tokens};
use error::{ApiError, Code};
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use openapi::{Endpoint, endpoints as about};
use request::{connections, context as ticket, idempotency as once};
pub use requests::RESUME_GRACE;
use state::keys as auth;
pub use state::keys::{Guard, GuardError};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;
use stream::log as requests;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Bytes of a request's body at most, unless the operator says otherwise: a canvas of 8,192 tokens spelled as ids
/// takes less than 0.1 MB.
pub const BODY_MAX: usize = 2 << 20;
/// How long a client may take to fetch the end of its answer once the engine has drained.
const LINGER: Duration = Duration::from_secs(5);

/// Connections to a port for operators alone at most: a scraper and a probe or two, out of the files that other connections leave.
const OPERATORS_MAX: usize = 32;

/// What is served, for people who lost their way.
static ENDPOINTS: LazyLock<Vec<String>> = LazyLock::new(|| endpoints().into_iter().map(|one| one.line).collect());

/// A model that is loaded and being served.
#[derive(Debug)]
pub struct Service {
    /// The way to it.
    pub handle: Handle,
    /// What callers call it.
    pub name: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

impl Service {
    /// Whether `asked`, if anything was asked for, is what is served.
    fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(asked) if asked != self.name => {
                let message = format!("the model {asked:?} does not exist; this server serves {:?}", self.name);
                Err(ApiError::new(Code::ModelNotFound, message).at(Some("model".to_owned())))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Submits, encoding the text off the async threads. Queued here, so that whoever stops waiting drops what the engine has.
    async fn submit(&self, request: Request) -> Result<Session, ApiError> {
        let (handle, span) = (self.handle.clone(), tracing::Span::current());
        let admitted = tokio::task::spawn_blocking(move || span.in_scope(|| handle.admit(&request))).await;
        let admitted = admitted.map_err(|error| {
            tracing::error!(%error, "a request could not be admitted");
            ApiError::new(Code::Internal, "the server made a mistake in reading this request; its log says more")
        })?;
        Ok(self.handle.queue(admitted?)?)
    }
}

/// What all requests share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Empty while the model is being loaded.
    service: OnceLock<Service>,
    metrics: Arc<Metrics>,
    body_max: usize,
    access: Access,
    draining: AtomicBool,
    patience: OnceLock<Patience>,
    requests: Arc<requests::Requests>,
    answers: Arc<once::Answers>,
}

/// How long the server waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A request may take so long, its body and its answer's last byte included; `None` is without end.
    pub timeout: Option<Duration>,
    /// A named stream goes on so long when its reader is gone; zero drops it at once.
    pub resume: Duration,
}

impl Patience {
    /// As long as it takes, and ten seconds.
    pub const DEFAULT: Self = Self { timeout: None, resume: RESUME_GRACE };
}

/// Who may ask, and from where.
#[derive(Debug, Default)]
pub struct Access {
    /// Asks for API keys; `None` lets everybody in.
    pub guard: Option<Guard>,
    /// Origins whose pages may ask, as `https://example.org`; `*` is all. Empty: pages of no other origin.
    pub origins: Vec<HeaderValue>,
}

impl AppState {
    /// A server whose model is still being loaded. `body_max`: bytes of a request's body at most, as [`BODY_MAX`].
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, body_max: usize, access: Access) -> Self {
        let draining = AtomicBool::new(false);
        Self(Arc::new(Shared {
            service: OnceLock::new(),
            metrics,
            body_max,
            access,
            draining,
            patience: OnceLock::new(),
            requests: Arc::default(),
            answers: Arc::default(),
        }))
    }

    /// The same server with other patience than [`Patience::DEFAULT`]; to be said before anybody asks.
    #[must_use]
    pub fn patient(self, patience: Patience) -> Self {
        let _ = self.0.patience.set(patience); // said once
        self
    }

    fn patience(&self) -> Patience {
        *self.0.patience.get().unwrap_or(&Patience::DEFAULT)
    }

    fn requests(&self) -> &Arc<requests::Requests> {
        &self.0.requests
    }

    fn answers(&self) -> &Arc<once::Answers> {
        &self.0.answers
    }

    /// The model is loaded: from now on it is served. A second model is handed back.
    ///
    /// # Errors
    /// When a model is being served already.
    pub fn loaded(&self, service: Service) -> Result<(), Box<Service>> {
        self.0.service.set(service).map_err(Box::new)
    }

    /// Takes no more requests, waits for those admitted, and after `patience` gives up on the rest. Returns how many
    /// were given up.
    pub async fn drain(&self, patience: Duration) -> usize {
        self.0.draining.store(true, Ordering::Release);
        match self.0.service.get() {
            Some(service) => service.handle.drain(patience).await,
            None => 0,
        }
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.0.metrics)
    }

    fn guard(&self) -> Option<&Guard> {
        self.0.access.guard.as_ref()
    }

    fn body_max(&self) -> usize {
        self.0.body_max
    }

    fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    fn service(&self) -> Result<&Service, ApiError> {
        if self.is_draining() {
            return Err(ApiError::new(Code::Draining, "the server is shutting down and takes no new requests"));
        }
        self.0.service.get().ok_or_else(|| {
            ApiError::new(Code::Loading, "the model is still being loaded; /ready says when it can be used")
        })
    }

    fn check_ready(&self) -> Result<(), ApiError> {
        match self.service()?.handle.readiness() {
            Readiness::Ready => Ok(()),
            Readiness::Draining => Err(ApiError::from(crate::engine::Rejected::Draining)),
            Readiness::GivenUp => Err(ApiError::from(crate::engine::Rejected::GivenUp)),
            Readiness::Restarting => {
                let message =
                    "the model broke down and is being loaded anew; requests wait, and the server's log says why";
                Err(ApiError::new(Code::ModelFailing, message))
            }
            Readiness::Failing { in_a_row } => {
                let message = format!("the last {in_a_row} forward passes failed; the server's log says why");
                Err(ApiError::new(Code::ModelFailing, message))
            }
        }
    }
}

/// Every endpoint: what the router, the list of them and the document are made of.
fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/completions", completions::create, about::completions()),
        Endpoint::post("/v1/chat/completions", completions::chat, about::chat()),
        Endpoint::post("/v1/infill", infill::create, about::infill()),
        Endpoint::post("/v1/score", given::score, about::score()),
        Endpoint::post("/v1/repair", given::repair, about::repair()),
        Endpoint::get("/v1/requests/{id}", resume::read, about::read_on()),
        Endpoint::delete("/v1/requests/{id}", resume::cancel, about::cancel()),
        Endpoint::post("/tokenize", tokens::tokenize, about::tokenize()),
        Endpoint::post("/detokenize", tokens::detokenize, about::detokenize()),
        Endpoint::get("/v1/models", models::list, about::models()),
        Endpoint::get("/v1/models/{*id}", models::retrieve, about::model()),
        Endpoint::get("/", ops::root, about::root()),
        Endpoint::get("/health", ops::health, about::health()),
        Endpoint::get("/ready", ops::ready, about::ready()),
        Endpoint::get("/metrics", ops::metrics, about::metrics()),
        Endpoint::get("/openapi.json", docs::document, about::document()),
        Endpoint::get("/docs", docs::page, about::viewer()),
        Endpoint::get("/docs/{file}", docs::file, about::viewer_file()),
    ]
}

/// The server, but for its socket: HTTP's endpoints and gRPC's.
pub fn router(state: AppState) -> Router {
    dressed(http().merge(grpc::endpoints(&state)), state)
}

/// HTTP's endpoints.
fn http() -> Router<AppState> {
    routed(endpoints())
}

fn routed(endpoints: impl IntoIterator<Item = Endpoint>) -> Router<AppState> {
    let routes = endpoints.into_iter().map(Endpoint::route);
    routes.fold(Router::new(), |router, (path, serve)| router.route(path, serve)).fallback(ops::unknown_path)
}

/// Serves on `listener`, for as long as there is somebody to ask, what operators alone ask: metrics, alive, ready. Whoever drains is
/// still asked how far it is.
pub async fn serve_operators(listener: TcpListener, state: AppState) {
    let is_theirs = |one: &Endpoint| ["/metrics", "/health", "/ready"].contains(&one.path());
    let app = dressed(routed(endpoints().into_iter().filter(is_theirs)), state);
    connections::serve(listener, app, Arc::new(Semaphore::new(OPERATORS_MAX)), std::future::pending()).await;
}

/// `endpoints` with what every path has in common: a ticket, and an error object whatever happens.
fn dressed(endpoints: Router<AppState>, state: AppState) -> Router {
    let origins = state.0.access.origins.clone();
    let endpoints = endpoints
        .method_not_allowed_fallback(ops::wrong_method)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(state.clone(), once::serve))
        .layer(middleware::from_fn_with_state(state.clone(), requests::enter))
        .layer(middleware::from_fn_with_state(state.clone(), auth::check))
        .layer(middleware::from_fn_with_state(state.clone(), grpc::translate))
        .layer(middleware::from_fn_with_state(state.clone(), ticket::accompany))
        .with_state(state);
    if origins.is_empty() { endpoints } else { endpoints.layer(cors(origins)) }
}

/// What browsers are told: pages of these origins may send everything a client sends, their key included.
fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let origins =
        if origins.iter().any(|origin| origin == "*") { AllowOrigin::any() } else { AllowOrigin::list(origins) };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), RETRY_AFTER])
}

/// Where a server listens.
#[derive(Debug)]
pub enum Listeners {
    /// HTTP and gRPC on one port.
    One(TcpListener),
    /// Each on its own, and only there.
    Two {
        /// For HTTP.
        http: TcpListener,
        /// For gRPC.
        grpc: TcpListener,
    },
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        Self::One(listener)
    }
}

/// Serves on `listeners` until `shutdown` completes, then drains: new requests are refused, those admitted have
/// `patience` to finish.
pub async fn serve(
    listeners: impl Into<Listeners>,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
    patience: Duration,
) {
    let (first, second) = match listeners.into() {
        Listeners::One(listener) => ((listener, router(state.clone())), None),
        Listeners::Two { http: listener, grpc } => (
            (listener, dressed(http(), state.clone())),
            Some((grpc, dressed(grpc::endpoints(&state).fallback(grpc::no_http), state.clone()))),
        ),
    };
    let (tell_drained, drained) = oneshot::channel();
    let stop = async move {
        shutdown.await;
        let given_up = state.drain(patience).await;
        tracing::info!(given_up, "drained");
        let _ = tell_drained.send(()); // nobody listens once the server has failed
    };
    let lingered = async move {
        let _ = drained.await; // an error says the same: there is nothing more to wait for
        tokio::time::sleep(LINGER).await;
    };
    let (stop, places) = (stop.shared(), connections::places());
    let listen = |(listener, app)| connections::serve(listener, app, Arc::clone(&places), stop.clone());
    let (first, second) = (listen(first), OptionFuture::from(second.map(listen)));
    tokio::select! {
        _ = futures_util::future::join(first, second) => {}
        () = lingered => {}
    }
}
