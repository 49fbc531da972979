//! What goes with a request from its arrival to its last byte: its name, its span, and the promise that its end is
//! counted exactly once, however it ends. Refuses to know what was asked.

use crate::api::AppState;
use crate::api::error;
use crate::api::error::ApiError;
use crate::api::error::CLIENT_CLOSED_REQUEST;
use crate::api::error::Code;
use crate::api::grpc;
use crate::api::state::keys::Fingerprint;
use crate::engine::Answer;
use crate::telemetry::trace::{self, Trace};
use crate::telemetry::{Metrics, Outcome};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{Instrument, Span};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a caller's own request id; a longer one is replaced.
const REQUEST_ID_MAX: usize = 128;

/// How much later than a request its connection is given up.
const GRACE: Duration = Duration::from_millis(500);

/// One request's ticket. All clones are the same; the last one dropped counts the request.
#[derive(Clone, Debug)]
pub(crate) struct Ticket(Arc<Stub>);

#[derive(Debug)]
struct Stub {
    id: String,
    method: Method,
    endpoint: String,
    arrived: Instant,
    /// Unset when the caller goes away: then nothing is left running that could set it.
    outcome: OnceLock<Outcome>,
    stream_began: OnceLock<Instant>,
    has_text: OnceLock<()>,
    /// Its API key's, given back with the last byte.
    place: OnceLock<OwnedSemaphorePermit>,
    owner: OnceLock<Fingerprint>,
    cancel: Arc<watch::Sender<bool>>,
    /// How long it may take.
    limit: Option<Duration>,
    metrics: Arc<Metrics>,
    span: Span,
}

/// Put on a response whose body decides the outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed;

impl Ticket {
    /// The request's name: the caller's own, or a fresh one.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Whose API key the request told.
    pub(crate) fn owner(&self) -> Option<Fingerprint> {
        self.0.owner.get().copied()
    }

    /// The request told this API key; it can be stopped by whoever tells the same.
    pub(crate) fn belongs_to(&self, owner: Fingerprint) {
        let _ = self.0.owner.set(owner); // a request tells one
    }

    /// What stops the request when it is set to true.
    pub(crate) fn stopper(&self) -> &Arc<watch::Sender<bool>> {
        &self.0.cancel
    }

    /// Waits until somebody has the request stopped, or it has taken as long as any may.
    pub(crate) async fn interrupted(&self) -> ApiError {
        let mut cancel = self.0.cancel.subscribe();
        let cancelled = async { drop(cancel.wait_for(|is_cancelled| *is_cancelled).await) }; // the ticket holds the sender
        let limit = self.0.limit;
        let expired = async {
            match limit {
                Some(limit) => tokio::time::sleep_until((self.0.arrived + limit).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancelled => {
                let message = "this request was cancelled by DELETE /v1/requests/{id}";
                ApiError::new(Code::Cancelled, message)
            }
            () = expired => {
                let seconds = limit.unwrap_or_default().as_secs();
                let message = format!("this request has taken {seconds} s, the most that any may; ask for fewer tokens or steps");
                ApiError::new(Code::TimedOut, message)
            }
        }
    }

    /// Whether it is known to have ended without an answer.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.outcome.get().is_some_and(|outcome| *outcome != Outcome::Ok)
    }

    /// Keeps a place for as long as the request lasts.
    pub(crate) fn keep(&self, place: OwnedSemaphorePermit) {
        let _ = self.0.place.set(place); // a request takes one
    }

    /// Final text is about to be sent.
    pub(crate) fn has_text(&self) {
        if self.0.has_text.set(()).is_ok() {
            self.0.metrics.first_text(self.0.arrived.elapsed());
        }
    }

    /// The answer is there.
    pub(crate) fn has_answer(&self, answer: &Answer) {
        self.0.metrics.answered(answer.prompt_tokens, answer.completion_tokens);
        let counts = [
            ("gen_ai.usage.input_tokens", answer.prompt_tokens),
            ("gen_ai.usage.output_tokens", answer.completion_tokens),
            ("remask.forward_passes", answer.forward_passes as usize),
            ("remask.filled", answer.filled as usize),
            ("remask.erased", answer.erased as usize),
        ];
        trace::counted(&self.0.span, counts);
    }

    /// Decides how the request ended, by the status its answer has or would have had; the first word stands.
    pub(crate) fn settle(&self, status: StatusCode) {
        let _ = self.0.outcome.set(outcome(status));
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if let Some(began) = self.stream_began.get() {
            Trace::of(self.span.clone()).part("stream", *began, Instant::now(), || []);
        }
        let _inside = self.span.enter();
        let (outcome, took) = (self.outcome.get().copied().unwrap_or(Outcome::Cancelled), self.arrived.elapsed());
        self.metrics.request(&self.endpoint, outcome, took);
        let words = [
            ("http.request.method", self.method.to_string()),
            ("http.route", self.endpoint.clone()),
            ("remask.request_id", self.id.clone()),
            ("remask.outcome", format!("{outcome:?}").to_lowercase()),
        ];
        let name = format!("{} {}", self.method, self.endpoint);
        trace::ended(&self.span, name, words, outcome == Outcome::Failed);
        if is_work(&self.endpoint) {
            tracing::info!(endpoint = self.endpoint, ?outcome, ?took, "request ended");
        } else {
            tracing::debug!(endpoint = self.endpoint, ?outcome, ?took, "request ended");
        }
    }
}

/// Whether a request is for the model, or about one that is: probes and scrapes come every few seconds and say nothing new.
fn is_work(endpoint: &str) -> bool {
    endpoint.starts_with("/v1/") || endpoint.starts_with(grpc::OURS)
}

/// The outermost layer.
pub(crate) async fn accompany(
    State(state): State<AppState>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = own_id(&request).map_or_else(fresh_id, str::to_owned);
    // unknown paths are one endpoint, so that nobody can make metrics without bound
    let endpoint = path.map_or_else(|| "other".to_owned(), |path| path.as_str().replace("{*", "{"));
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let (method, path) = (request.method().as_str(), request.uri().path());
    let span = trace::arrived(&id, method, path, is_work(&endpoint), header);
    state.metrics().endpoint(&endpoint);
    let ticket = Ticket(Arc::new(Stub {
        id,
        method: request.method().clone(),
        endpoint,
        arrived: Instant::now(),
        outcome: OnceLock::new(),
        stream_began: OnceLock::new(),
        has_text: OnceLock::new(),
        place: OnceLock::new(),
        owner: OnceLock::new(),
        cancel: Arc::new(watch::Sender::new(false)),
        limit: state.patience().timeout,
        metrics: state.metrics(),
        span: span.clone(),
    }));
    request.extensions_mut().insert(ticket.clone());
    let answered = next.run(request).instrument(span);
    let mut response = match state.patience().timeout {
        None => answered.await,
        // a body that never ends, too; an answer that is waited for says itself why it ended
        Some(limit) => match tokio::time::timeout(limit + GRACE, answered).await {
            Ok(response) => response,
            Err(_) => ticket.interrupted().await.into_response(),
        },
    };
    match response.extensions().get::<Streamed>() {
        None => ticket.settle(response.status()),
        Some(Streamed) => drop(ticket.0.stream_began.set(Instant::now())), // a response begins once
    }
    response = error::named(response, ticket.id());
    if let Ok(id) = HeaderValue::from_str(ticket.id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The name a caller gave, if it can stand in headers, logs and event ids as it is.
fn own_id(request: &Request) -> Option<&str> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (is_plain && (1..=REQUEST_ID_MAX).contains(&id.len())).then_some(id)
}

/// 16 hexadecimal digits: std's hasher keys are the process's own randomness, and differ from one to the next.
fn fresh_id() -> String {
    format!("{:016x}", RandomState::new().hash_one(0_u8))
}

fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Outcome::Refused,
        status if status == CLIENT_CLOSED_REQUEST => Outcome::Cancelled,
        status if status.is_server_error() => Outcome::Failed,
        status if status.is_client_error() => Outcome::Invalid,
        _ => Outcome::Ok,
    }
}
