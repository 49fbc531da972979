//! Who may send requests: the layers that check API keys, and the origins of browsers' pages.

use super::context::RequestContext;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::protocol::is_work;
use crate::api::state::AppState;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// A header for the key, for clients that cannot set `Authorization`.
pub(crate) const KEY_HEADER: &str = "x-api-key";

/// Whether a path requires an API key on a server that has keys.
pub(crate) fn is_guarded(path: &str) -> bool {
    is_work(path) || path.ends_with("tokenize")
}

/// Rejects requests without a valid key, and those of a key that has as many under way as it may.
pub(crate) async fn authenticate(
    State(state): State<AppState>,
    context: RequestContext,
    request: Request,
    next: Next,
) -> ApiResult {
    let guard = state.shared.access.guard.as_ref().filter(|_| is_guarded(request.uri().path()));
    let Some(guard) = guard else { return Ok(next.run(request).await) };
    let key = key_of(&request).and_then(|key| guard.verify(key)).ok_or_else(|| {
        let message = "this server asks for an API key: send one of its own as \"Authorization: Bearer KEY\"";
        ApiError::new(Code::NoKey, message)
    })?;
    context.set_owner(key, guard.has_one_key());
    if let Some(permits) = guard.permits(key) {
        let message = "this API key has as many requests under way as it may; wait for one to end";
        context.hold(permits.try_acquire_owned().map_err(|_| ApiError::new(Code::KeyFull, message))?);
    }
    Ok(next.run(request).await)
}

fn key_of(request: &Request) -> Option<&str> {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| header(KEY_HEADER)).filter(|key| !key.is_empty())
}

/// Lets pages of these origins send every header, API keys included. `*` stands for all origins.
pub(crate) fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let origins =
        if origins.iter().any(|origin| origin == "*") { AllowOrigin::any() } else { AllowOrigin::list(origins) };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id"), RETRY_AFTER])
}
