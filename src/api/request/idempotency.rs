//! `Idempotency-Key`: a request that is sent twice is served once, and its answer told twice. Refuses to know what is asked.

use crate::api::AppState;
use crate::api::endpoints::requests;
use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::grpc;
use crate::api::request::context::Streamed;
use crate::api::request::context::Ticket;
use crate::api::state::keys::Fingerprint;
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Characters of a key at most.
const KEY_MAX: usize = 255;
/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// Bytes of an answer that is kept at most, and of all together.
const ANSWER_MAX: usize = 1 << 20;
const ANSWERS_MAX: usize = 64 << 20;

/// Who sent a key, and the key.
type Name = (Option<Fingerprint>, String);

/// Answers by the keys of their requests.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<BTreeMap<Name, Entry>>);

#[derive(Debug)]
struct Entry {
    /// Of path and body.
    request: Fingerprint,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// Being served; the sender is dropped when that has ended.
    Awaited(watch::Receiver<()>),
    There {
        media_type: HeaderValue,
        body: Bytes,
        since: Instant,
    },
}

/// What becomes of a request with a key.
enum Turn {
    /// It is the first.
    Serve(Writer),
    Wait(watch::Receiver<()>),
    Replay(HeaderValue, Bytes),
    Mistaken,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(self: &Arc<Self>, name: &Name, request: Fingerprint) -> Turn {
        let mut entries = self.lock();
        let is_fresh = |entry: &Entry| match &entry.answer {
            Answer::Awaited(_) => true,
            Answer::There { since, .. } => since.elapsed() < KEPT_FOR,
        };
        entries.retain(|_, entry| is_fresh(entry));
        match entries.get(name) {
            Some(entry) if entry.request != request => Turn::Mistaken,
            Some(Entry { answer: Answer::Awaited(done), .. }) => Turn::Wait(done.clone()),
            Some(Entry { answer: Answer::There { media_type, body, .. }, .. }) => {
                Turn::Replay(media_type.clone(), body.clone())
            }
            None => {
                let (done, awaited) = watch::channel(());
                entries.insert(name.clone(), Entry { request, answer: Answer::Awaited(awaited) });
                Turn::Serve(Writer { answers: Arc::clone(self), name: name.clone(), body: Vec::new(), _done: done })
            }
        }
    }
}

/// Writes down the answer of the first request of a name; dropped before its end, it leaves the name to the next one.
struct Writer {
    answers: Arc<Answers>,
    name: Name,
    body: Vec<u8>,
    /// Those who wait hold the other end.
    _done: watch::Sender<()>,
}

impl Writer {
    fn end(mut self, media_type: HeaderValue) {
        let body = Bytes::from(std::mem::take(&mut self.body));
        if body.len() > ANSWER_MAX {
            return;
        }
        let mut entries = self.answers.lock();
        let size = |entry: &Entry| match &entry.answer {
            Answer::Awaited(_) => 0,
            Answer::There { body, .. } => body.len(),
        };
        while entries.values().map(size).sum::<usize>() + body.len() > ANSWERS_MAX {
            let oldest = entries.iter().filter_map(|(name, entry)| match &entry.answer {
                Answer::Awaited(_) => None,
                Answer::There { since, .. } => Some((*since, name.clone())),
            });
            match oldest.min() {
                Some((_, name)) => drop(entries.remove(&name)),
                None => break,
            }
        }
        if let Some(entry) = entries.get_mut(&self.name) {
            entry.answer = Answer::There { media_type, body, since: Instant::now() };
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut entries = self.answers.lock();
        if let Some(Entry { answer: Answer::Awaited(_), .. }) = entries.get(&self.name) {
            entries.remove(&self.name);
        }
    }
}

/// The layer before every endpoint that computes something.
pub(crate) async fn serve(
    State(state): State<AppState>,
    Extension(ticket): Extension<Ticket>,
    request: Request,
    next: Next,
) -> Response {
    // gRPC's answers end with trailers, and the rest of a stream is not the answer
    let is_whole = !grpc::is_grpc(request.headers()) && requests::last_event(&request).is_none();
    let is_kept = request.method() == Method::POST && is_whole;
    let Some(key) = request.headers().get(KEY).filter(|_| is_kept) else {
        return next.run(request).await;
    };
    let key = key.to_str().ok().filter(|key| (1..=KEY_MAX).contains(&key.len())).map(str::to_owned);
    let Some(key) = key else {
        let message = format!("the Idempotency-Key is not 1 to {KEY_MAX} visible characters of ASCII");
        return ApiError::new(Code::InvalidRequest, message).into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, state.body_max()).await else {
        return ApiError::body_too_large(state.body_max()).into_response(); // or it broke off, and nobody is there to hear
    };
    let hash = Sha256::new().chain_update(parts.uri.path()).chain_update([0]).chain_update(&body);
    let (name, print) = ((ticket.owner(), key), hash.finalize().into());
    let answers = state.answers();
    loop {
        match answers.turn(&name, print) {
            Turn::Serve(writer) => {
                let response = next.run(Request::from_parts(parts, Body::from(body))).await;
                return written(response, writer, ticket);
            }
            Turn::Wait(mut done) => drop(done.changed().await), // an error when the first one has ended, as wanted
            Turn::Replay(media_type, body) => {
                let headers = [(CONTENT_TYPE, media_type), (REPLAYED, HeaderValue::from_static("true"))];
                return (headers, body).into_response();
            }
            Turn::Mistaken => {
                let message = "this Idempotency-Key came with another request; give each request a key of its own";
                return ApiError::new(Code::KeyReused, message).into_response();
            }
        }
    }
}

/// The response, its body written down on its way if it is an answer.
fn written(response: Response, writer: Writer, ticket: Ticket) -> Response {
    let media_type = response.headers().get(CONTENT_TYPE).cloned();
    let Some(media_type) = media_type.filter(|_| response.status().is_success()) else { return response };
    let is_streamed = response.extensions().get::<Streamed>().copied();
    let (parts, body) = response.into_parts();
    let mut response = Response::from_parts(parts, Body::from_stream(copied(body, writer, media_type, ticket)));
    if let Some(streamed) = is_streamed {
        response.extensions_mut().insert(streamed);
    }
    response
}

fn copied(
    body: Body,
    writer: Writer,
    media_type: HeaderValue,
    ticket: Ticket,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let start = Some((body.into_data_stream(), writer, media_type, ticket));
    stream::unfold(start, async |copying| {
        let (mut body, mut writer, media_type, ticket) = copying?;
        match body.next().await {
            Some(Ok(bytes)) => {
                if writer.body.len() <= ANSWER_MAX {
                    writer.body.extend_from_slice(&bytes);
                }
                Some((Ok(bytes), Some((body, writer, media_type, ticket))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                if !ticket.has_failed() {
                    writer.end(media_type); // a stream may have ended with an error
                }
                None
            }
        }
    })
}
