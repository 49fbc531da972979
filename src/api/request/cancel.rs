//! The layer that makes requests known by their ids, so that they can be cancelled.

use super::context::RequestContext;
use crate::api::state::AppState;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

/// Registers a `POST` request for as long as it lasts.
pub(crate) async fn register(
    State(state): State<AppState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::POST {
        state.shared.cancels.register(context.id(), context.owner(), context.canceller());
    }
    next.run(request).await
}
