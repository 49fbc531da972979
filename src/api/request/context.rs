//! The context of a request from arrival to last byte: id, span, protocol, owner, and outcome.

use crate::api::error::{self, ApiError, ApiResult, CLIENT_CLOSED_REQUEST, Code};
use crate::api::protocol::{Protocol, is_probe, is_resumable, is_work};
use crate::api::state::AppState;
use crate::api::state::keys::{Fingerprint, Owner};
use crate::api::state::under_way::{Progress, UnderWay, Work};
use crate::engine::{Answer, Origin};
use crate::telemetry::trace::{self, Trace};
use crate::telemetry::{Metrics, Outcome};
use crate::text::shown;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::OptionFuture;
use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, Span};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a client's own, in characters; a longer one is replaced.
const REQUEST_ID_MAX: usize = 128;

/// Time between a request's limit, at which it should answer itself, and the end of its connection.
const GRACE: Duration = Duration::from_millis(500);

/// Bytes of a path in the log.
const PATH_MAX: usize = 200;

/// What the answers of a request took.
#[derive(Debug, Default)]
struct Spent {
    prompt_tokens: AtomicUsize,
    completion_tokens: AtomicUsize,
    passes: AtomicUsize,
}

/// The context of one request. Dropping the last clone counts the request, exactly once.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    protocol: Protocol,
    method: Method,
    /// The path that was asked for, cut to [`PATH_MAX`].
    path: String,
    /// The path of the route, or `other`.
    endpoint: String,
    arrived: Instant,
    status: OnceLock<StatusCode>,
    spent: Spent,
    /// Stays empty when the client disconnects: then nothing is left running that could set it.
    outcome: OnceLock<Outcome>,
    stream_began: OnceLock<Instant>,
    has_text: OnceLock<()>,
    /// Counts against the limit of the API key; released after the last byte.
    permit: OnceLock<OwnedSemaphorePermit>,
    owner: OnceLock<Fingerprint>,
    origin: OnceLock<Origin>,
    /// Ends when the outcome is known: a client may use its id again when it has the last byte.
    work: Arc<Work>,
    under_way: Arc<UnderWay>,
    /// The digest of the body, where the answer may be a stream that is resumed.
    body: OnceLock<Fingerprint>,
    limit: Option<Duration>,
    metrics: Arc<Metrics>,
    span: Span,
}

/// A response extension: the body decides the outcome, not the status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed;

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Self::of(&parts.extensions)
    }
}

impl RequestContext {
    /// The context that [`open`] has put among the extensions of a request.
    pub(crate) fn of(extensions: &Extensions) -> ApiResult<Self> {
        let context = extensions.get::<Self>().cloned();
        context.ok_or_else(|| ApiError::new(Code::Internal, "the server has no ticket for this call"))
    }

    /// The request's id: the client's own, or a fresh one.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    pub(crate) fn owner(&self) -> Owner {
        self.0.owner.get().copied()
    }

    /// Where everything comes from that this request submits. Call it after [`Self::set_owner`].
    pub(crate) fn origin(&self) -> Origin {
        *self.0.origin.get_or_init(|| Origin::new(None))
    }

    /// Sets the owner, who alone may cancel or resume the request. `is_alone`: it is the only one
    /// that the server knows.
    pub(crate) fn set_owner(&self, owner: Fingerprint, is_alone: bool) {
        let origin = Origin::new(Some(owner));
        let _ = self.0.owner.set(owner); // a request has one
        let _ = self.0.origin.set(if is_alone { origin.alone() } else { origin });
    }

    /// Waits until the request is cancelled or has reached its time limit.
    pub(crate) async fn interrupted(&self) -> ApiError {
        let limit = self.0.limit;
        let end = OptionFuture::from(limit.map(|limit| tokio::time::sleep_until((self.0.arrived + limit).into())));
        tokio::select! {
            () = self.0.work.cancelled() => ApiError::new(Code::Cancelled, "this request was cancelled by DELETE /v1/requests/{id}"),
            Some(()) = end => {
                let seconds = limit.unwrap_or_default().as_secs();
                let message = format!("this request has taken {seconds} s, the most that any may; ask for fewer tokens or steps");
                ApiError::new(Code::TimedOut, message)
            }
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.0.outcome.get().is_some_and(|outcome| *outcome != Outcome::Ok)
    }

    pub(crate) fn hold(&self, permit: OwnedSemaphorePermit) {
        let _ = self.0.permit.set(permit); // a request takes one
    }

    /// Records that final text is about to be sent.
    pub(crate) fn record_text(&self) {
        if self.0.has_text.set(()).is_ok() {
            self.0.metrics.time_to_first_text.observe(self.0.arrived.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn record_answer(&self, answer: &Answer) {
        let spent = &self.0.spent;
        spent.prompt_tokens.fetch_add(answer.prompt_tokens, Ordering::Relaxed);
        spent.completion_tokens.fetch_add(answer.completion_tokens, Ordering::Relaxed);
        spent.passes.fetch_add(answer.forward_passes as usize, Ordering::Relaxed);
        let counts = [
            ("gen_ai.usage.input_tokens", answer.prompt_tokens),
            ("gen_ai.usage.output_tokens", answer.completion_tokens),
            ("remask.forward_passes", answer.forward_passes as usize),
            ("remask.filled", answer.filled as usize),
            ("remask.erased", answer.erased as usize),
            ("remask.replaced", answer.replaced as usize),
        ];
        trace::counted(&self.0.span, counts);
    }

    /// Notes the answer, whether or not its client is still there: its status, and the outcome too
    /// unless the body decides it. Only the first answer counts.
    pub(crate) fn record_response(&self, response: &Response) {
        let _ = self.0.status.set(response.status()); // a request has one answer
        match response.extensions().get::<Streamed>() {
            None => self.set(outcome(response.status(), response.extensions().get::<ApiError>())),
            Some(Streamed) => drop(self.0.stream_began.set(Instant::now())), // a response begins once
        }
    }

    /// Sets the outcome by the status of the answer. Only the first call counts.
    pub(crate) fn set_outcome(&self, status: StatusCode) {
        self.set(outcome(status, None));
    }

    /// The same by the error that is answered.
    pub(crate) fn set_error(&self, error: &ApiError) {
        self.set(outcome(error.status(), Some(error)));
    }

    fn set(&self, outcome: Outcome) {
        let _ = self.0.outcome.set(outcome);
        self.0.under_way.end(&self.0.work, outcome.into());
    }

    /// What is computed for this request.
    pub(crate) fn work(&self) -> &Arc<Work> {
        &self.0.work
    }

    /// The path of the route, or `other`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Sets the digest of the body, by which a request that resumes a stream is compared.
    pub(crate) fn set_body(&self, digest: Fingerprint) {
        let _ = self.0.body.set(digest); // a request has one
    }

    /// The digest of the body; `None` where no stream is resumed.
    pub(crate) fn body(&self) -> Option<Fingerprint> {
        self.0.body.get().copied()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.under_way.end(&self.work, Progress::Cancelled);
        if let Some(began) = self.stream_began.get() {
            Trace::of(self.span.clone()).part("stream", *began, Instant::now(), || []);
        }
        let _inside = self.span.enter();
        let (outcome, took) = (self.outcome.get().copied().unwrap_or(Outcome::Cancelled), self.arrived.elapsed());
        self.metrics.request(&self.endpoint, outcome, took);
        let attributes = [
            ("http.request.method", self.method.to_string()),
            ("http.route", self.endpoint.clone()),
            ("remask.request_id", self.id.clone()),
            ("remask.outcome", outcome.label().to_owned()),
        ];
        let name = format!("{} {}", self.method, self.endpoint);
        trace::ended(&self.span, name, attributes, outcome == Outcome::Failed);
        self.log(outcome, took);
    }
}

impl Inner {
    /// Writes the one line that the log has of each request. Its id is that of the span.
    fn log(&self, outcome: Outcome, took: Duration) {
        let (method, path, outcome) = (self.method.as_str(), self.path.as_str(), outcome.label());
        // a client that disconnected has no answer
        let status = self.status.get().copied().unwrap_or(CLIENT_CLOSED_REQUEST).as_u16();
        let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        if is_probe(&self.endpoint) {
            tracing::debug!(method, path, status, outcome, duration_ms, "request ended");
            return;
        }
        let count = |count: &AtomicUsize| Some(count.load(Ordering::Relaxed)).filter(|count| *count > 0);
        let Spent { prompt_tokens, completion_tokens, passes } = &self.spent;
        let [prompt_tokens, completion_tokens, passes] = [prompt_tokens, completion_tokens, passes].map(count);
        tracing::info!(
            method,
            path,
            status,
            outcome,
            duration_ms,
            prompt_tokens,
            completion_tokens,
            passes,
            "request ended"
        );
    }
}

/// The outermost layer: gives a request its context, and its response the request's id.
pub(crate) async fn open(
    State(state): State<AppState>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = own_id(&request).map_or_else(fresh_id, str::to_owned);
    // all unknown paths are one endpoint, so that the number of metrics is bounded
    let endpoint = path.map_or_else(|| "other".to_owned(), |path| path.as_str().replace("{*", "{"));
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let span = trace::arrived(&id, kind(&endpoint), header);
    state.shared.metrics.endpoint(&endpoint);
    let context = RequestContext(Arc::new(Inner {
        id,
        protocol: Protocol::of(request.headers()),
        method: request.method().clone(),
        path: request.uri().path().chars().take(PATH_MAX).collect(),
        endpoint,
        arrived: Instant::now(),
        status: OnceLock::new(),
        spent: Spent::default(),
        outcome: OnceLock::new(),
        stream_began: OnceLock::new(),
        has_text: OnceLock::new(),
        permit: OnceLock::new(),
        owner: OnceLock::new(),
        origin: OnceLock::new(),
        work: Arc::default(),
        under_way: Arc::clone(&state.shared.under_way),
        body: OnceLock::new(),
        limit: state.patience().timeout,
        metrics: Arc::clone(&state.shared.metrics),
        span: span.clone(),
    }));
    request.extensions_mut().insert(context.clone());
    let answered = next.run(request).instrument(span);
    let mut response = match state.patience().timeout {
        None => answered.await,
        // ends also a request whose body never ends; a request that runs says itself why it ended
        Some(limit) => match tokio::time::timeout(limit + GRACE, answered).await {
            Ok(response) => response,
            Err(_) => context.interrupted().await.into_response(),
        },
    };
    context.record_response(&response);
    response = error::with_request_id(response, context.id());
    if let Ok(id) = HeaderValue::from_str(context.id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The layer that lists a request that runs the model for as long as it lasts, so that it can be
/// cancelled by its id. A request with an id that is in use is refused, and one that would resume a
/// stream where none can be.
pub(crate) async fn register(
    State(state): State<AppState>,
    context: RequestContext,
    request: Request,
    next: Next,
) -> ApiResult {
    let path = request.uri().path();
    if request.method() == Method::POST && is_work(path) {
        match last_event_id(&request) {
            None => state.shared.under_way.register(context.owner(), context.id(), context.work())?,
            Some(_) if is_resumable(path) => {}
            Some(_) => {
                let message =
                    format!("the events of {} have no ids, so none is resumed; leave out Last-Event-ID", shown(path));
                return Err(ApiError::new(Code::InvalidRequest, message));
            }
        }
    }
    Ok(next.run(request).await)
}

/// What the log and traces make of the requests to an endpoint.
fn kind(endpoint: &str) -> trace::Kind {
    match endpoint {
        endpoint if is_work(endpoint) => trace::Kind::Work,
        endpoint if is_probe(endpoint) => trace::Kind::Probe,
        _ => trace::Kind::Other,
    }
}

/// The id that a client gave, if headers, paths, logs and event ids can hold it as it is.
fn own_id(request: &Request) -> Option<&str> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let is_plain = is_plain && ![".", ".."].contains(&id); // which clients take out of a path
    (is_plain && (1..=REQUEST_ID_MAX).contains(&id.len())).then_some(id)
}

/// 16 hexadecimal digits. The keys of std's hashers are random, and differ from one to the next.
fn fresh_id() -> String {
    format!("{:016x}", RandomState::new().hash_one(0_u8))
}

fn outcome(status: StatusCode, error: Option<&ApiError>) -> Outcome {
    match status {
        _ if error.is_some_and(|error| error.code == Code::ShutDown) => Outcome::Failed,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Outcome::Refused,
        status if status == CLIENT_CLOSED_REQUEST => Outcome::Cancelled,
        status if status.is_server_error() => Outcome::Failed,
        status if status.is_client_error() => Outcome::Invalid,
        _ => Outcome::Ok,
    }
}

/// The `Last-Event-ID` of a request that resumes a stream.
pub(crate) fn last_event_id(request: &Request) -> Option<Cow<'_, str>> {
    let id = request.headers().get("last-event-id").filter(|id| !id.is_empty())?;
    Some(String::from_utf8_lossy(id.as_bytes()))
}
