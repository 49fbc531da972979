//! The layer for `Idempotency-Key`: a request sent again is served once, and its answer repeated.

use super::body::collect;
use super::context::{RequestContext, last_event_id};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::protocol::Protocol;
use crate::api::state::AppState;
use crate::api::state::kept_answers::{AnswerKey, Lookup, Recorder};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

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
    let digest = Sha256::new().chain_update(parts.uri.path()).chain_update([0]).chain_update(&body).finalize().into();
    let key = AnswerKey { owner: context.owner(), key };
    loop {
        match state.shared.kept_answers.look_up(&key, digest) {
            Lookup::First(recorder) => {
                let response = next.run(Request::from_parts(parts, Body::from(body))).await;
                return Ok(recorded(response, recorder, context));
            }
            Lookup::Pending(mut done) => drop(done.changed().await), // an error says that the first one has ended
            Lookup::Complete { media_type, body } => {
                let headers = [(CONTENT_TYPE, media_type), (REPLAYED, HeaderValue::from_static("true"))];
                return Ok((headers, body).into_response());
            }
            Lookup::Conflict => {
                let message = "this Idempotency-Key came with another request; give each request a key of its own";
                return Err(ApiError::new(Code::KeyReused, message));
            }
        }
    }
}

/// The same response. If it is a success, its body is recorded as it is sent.
fn recorded(response: Response, recorder: Recorder, context: RequestContext) -> Response {
    let media_type = response.headers().get(CONTENT_TYPE).cloned();
    let Some(media_type) = media_type.filter(|_| response.status().is_success()) else { return response };
    response.map(|body| {
        let start = Some((body.into_data_stream(), recorder, media_type, context));
        Body::from_stream(stream::unfold(start, async |state| {
            let (mut body, mut recorder, media_type, context) = state?;
            match body.next().await {
                Some(Ok(bytes)) => {
                    recorder.push(&bytes);
                    Some((Ok(bytes), Some((body, recorder, media_type, context))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => {
                    if !context.has_failed() {
                        recorder.finish(media_type); // a stream may have ended with an error
                    }
                    None
                }
            }
        }))
    })
}
