//! The layer that checks API keys, and how many requests each key has under way.

use super::context::RequestContext;
use crate::api::error::{ApiError, Code};
use crate::api::protocol::is_work;
use crate::api::state::AppState;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// A header for the key, for clients that cannot set `Authorization`.
pub(crate) const KEY_HEADER: &str = "x-api-key";

/// Whether a path requires an API key on a server that has keys.
pub(crate) fn is_guarded(path: &str) -> bool {
    is_work(path) || path.ends_with("tokenize")
}

/// Rejects requests without a valid key, and those of a key that has as many under way as it may.
pub(crate) async fn authenticate(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
    next: Next,
) -> Response {
    let guard = state.shared.access.guard.as_ref().filter(|_| is_guarded(request.uri().path()));
    let Some(guard) = guard else { return next.run(request).await };
    let Some(key) = key_of(&request).and_then(|key| guard.verify(key)) else {
        let message = "this server asks for an API key: send one of its own as \"Authorization: Bearer KEY\"";
        return ApiError::new(Code::NoKey, message).into_response();
    };
    context.set_owner(key);
    if let Some(permits) = guard.permits(key) {
        let Ok(permit) = permits.try_acquire_owned() else {
            let message = "this API key has as many requests under way as it may; wait for one to end";
            return ApiError::new(Code::KeyFull, message).into_response();
        };
        context.hold(permit);
    }
    next.run(request).await
}

/// The key that a request carries.
fn key_of(request: &Request) -> Option<&str> {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| header(KEY_HEADER)).filter(|key| !key.is_empty())
}
