//! The layer for `Idempotency-Key`: a request sent again is served once, and its answer repeated,
//! also where the connection of the first one is lost.

use super::body::collect;
use super::context::{RequestContext, last_event_id};
use super::digest;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::protocol::{Protocol, is_work};
use crate::api::state::AppState;
use crate::api::state::kept_answers::{AnswerKey, Lookup, Recorder};
use crate::api::state::keys::Fingerprint;
use crate::api::state::recording::Reader;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::response::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use std::future::Future;
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const KEY_MAX: usize = 255;

/// Serves the first request with a key, and repeats its answer to the others.
pub(crate) async fn replay(
    State(state): State<AppState>,
    context: RequestContext,
    request: Request,
    next: Next,
) -> ApiResult {
    // answers of gRPC end with trailers, and the rest of a stream is only part of an answer
    let is_whole = context.protocol() == Protocol::Http && last_event_id(&request).is_none();
    let is_kept = request.method() == Method::POST && is_whole;
    let Some(key) = request.headers().get(KEY).filter(|_| is_kept) else {
        return Ok(next.run(request).await);
    };
    let Some(key) = key.to_str().ok().filter(|key| (1..=KEY_MAX).contains(&key.len())).map(str::to_owned) else {
        let message = format!("the Idempotency-Key is not 1 to {KEY_MAX} visible characters of ASCII");
        return Err(ApiError::new(Code::InvalidRequest, message));
    };
    let (parts, body) = request.into_parts();
    let body = collect(body, state.shared.body_max).await?;
    let (path, body) = (parts.uri.path().to_owned(), Bytes::from(body));
    let (length, bytes) = (body.len(), body.clone());
    let digest = move || Sha256::new().chain_update(path).chain_update([0]).chain_update(digest::of(&bytes)).finalize();
    let digest: Fingerprint = state.shared.text_work.run(length, digest).await?.into();
    let key = AnswerKey { owner: context.owner(), key };
    loop {
        match state.shared.kept_answers.look_up(&key, digest, context.work()) {
            Lookup::First(recorder) => {
                let reader = recorder.reader();
                let (send, head) = oneshot::channel();
                let answered = next.run(Request::from_parts(parts, Body::from(body)));
                // a task of its own, which a lost connection does not end
                tokio::spawn(record(answered, recorder, context, send).instrument(Span::current()));
                let lost = |_| ApiError::new(Code::Internal, "the server made a mistake; its log says more");
                return Ok(match head.await.map_err(lost)? {
                    Head::Kept(parts) => Response::from_parts(parts, read_on(reader)),
                    Head::Other(response) => response,
                });
            }
            Lookup::Kept(mut reader, work) => {
                if is_work(parts.uri.path()) {
                    state.shared.under_way.register(context.owner(), context.id(), &work)?;
                }
                let Some(media_type) = reader.media_type().await else { continue }; // it was no success
                let headers = [(CONTENT_TYPE, media_type), (REPLAYED, HeaderValue::from_static("true"))];
                return Ok((headers, read_on(reader)).into_response());
            }
            Lookup::Cancelled => {
                let message =
                    "the request with this Idempotency-Key was cancelled; to have it computed, send it with a new one";
                return Err(ApiError::new(Code::Cancelled, message));
            }
            Lookup::Conflict => {
                let message = "this Idempotency-Key came with another request; give each request a key of its own";
                return Err(ApiError::new(Code::KeyReused, message));
            }
        }
    }
}

/// The answer to the first request with a key.
enum Head {
    /// A success, whose body is read from the recording.
    Kept(Parts),
    Other(Response),
}

/// Runs the first request with a key to its end, and records its answer if it is a success.
async fn record(
    answered: impl Future<Output = Response>,
    mut recorder: Recorder,
    context: RequestContext,
    head: oneshot::Sender<Head>,
) {
    let response = answered.await;
    context.record_response(&response); // also if its connection is lost
    let media_type = response.headers().get(CONTENT_TYPE).cloned();
    let Some(media_type) = media_type.filter(|_| response.status().is_success()) else {
        // before the client knows that the request failed
        if context.work().is_cancelled() {
            recorder.cancel();
        } else {
            drop(recorder); // the key is free
        }
        let _ = head.send(Head::Other(response)); // nobody waits if the connection is lost
        return;
    };
    recorder.begin(media_type);
    let (parts, body) = response.into_parts();
    let _ = head.send(Head::Kept(parts));
    let mut body = body.into_data_stream();
    while let Some(bytes) = body.next().await {
        let Ok(bytes) = bytes else { return };
        if !recorder.push(&bytes).await {
            return;
        }
    }
    // a stream may have ended with an error
    if context.has_failed() && context.work().is_cancelled() {
        recorder.cancel();
    } else {
        recorder.finish(!context.has_failed());
    }
}

fn read_on(reader: Reader) -> Body {
    Body::from_stream(stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        let bytes = reader.next().await?;
        let is_cut = bytes.is_err();
        Some((bytes, Some(reader).filter(|_| !is_cut)))
    }))
}
