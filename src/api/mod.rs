//! The API: the router and the listeners of HTTP and gRPC. Out of scope: how models are loaded.

mod answer;
mod endpoints;
mod error;
mod grpc;
mod openapi;
mod protocol;
mod request;
mod schema;
mod state;
mod stream;
mod wire;

use axum::{Router, middleware};
use endpoints::ops;
use futures_util::{FutureExt, future::OptionFuture};
use openapi::endpoint::Endpoint;
use request::connections::{self, Places};
use request::{auth, context, idempotency, room};
pub use state::keys::{Guard, GuardError};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::normalize_path::NormalizePath;

pub(crate) use answer::writer;
pub use state::services::{Service, ServicesError};
pub use state::{Access, AppState, BODY_MAX, Patience, RESUME_GRACE};
pub(crate) use stream::named_events::NamedEvents;
pub use wire::presets::{PresetError, with_presets};
pub(crate) use wire::refinement::Refinement;
pub(crate) use wire::repair::with_repair_fields;

/// How long clients may take to receive the end of their answers once the engine has drained.
const LINGER: Duration = Duration::from_secs(5);

/// Limit on the connections to the operators' port, whose files are not counted with the others.
const OPERATORS_MAX: usize = 32;

/// The whole API, without its socket: the endpoints of HTTP and of gRPC.
pub fn router(state: AppState) -> Router {
    with_layers(http().merge(grpc::endpoints(&state)), state)
}

fn http() -> Router<AppState> {
    routed(endpoints::table())
}

fn routed(endpoints: impl IntoIterator<Item = Endpoint>) -> Router<AppState> {
    let router = endpoints.into_iter().fold(Router::new(), |router, one| router.route(one.path, one.handler));
    router.fallback(endpoints::unknown_path)
}

/// Serves health, readiness and metrics on `listener` without an end, also during a drain.
pub async fn serve_operators(listener: TcpListener, state: AppState) {
    let is_for_operators = |one: &Endpoint| ["/metrics", "/health", "/ready"].contains(&one.path);
    let app = with_layers(routed(endpoints::table().into_iter().filter(is_for_operators)), state);
    connections::serve(listener, app, Places::new(OPERATORS_MAX), std::future::pending()).await;
}

/// The endpoints with the layers that every request passes. The last one is the outermost. A slash
/// at the end of a path, or a second one at its start, is taken off before its endpoint is looked
/// for: clients join base addresses and paths in such ways.
fn with_layers(endpoints: Router<AppState>, state: AppState) -> Router {
    let origins = state.shared.access.origins.clone();
    let endpoints = endpoints
        .method_not_allowed_fallback(ops::wrong_method)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(state.clone(), context::register))
        .layer(middleware::from_fn_with_state(state.clone(), idempotency::replay)) // gives a request that is sent again its ids
        .layer(middleware::from_fn_with_state(state.clone(), room::bound))
        .layer(middleware::from_fn_with_state(state.clone(), auth::authenticate))
        .layer(middleware::from_fn_with_state(state.clone(), grpc::status::translate))
        .layer(middleware::from_fn_with_state(state.clone(), context::open))
        .with_state(state);
    let endpoints = if origins.is_empty() { endpoints } else { endpoints.layer(auth::cors(origins)) };
    Router::new().fallback_service(NormalizePath::trim_trailing_slash(endpoints))
}

/// The sockets of a server.
#[derive(Debug)]
pub enum Listeners {
    /// HTTP and gRPC on one port.
    One(TcpListener),
    /// HTTP and gRPC on a port each.
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

/// Serves on `listeners` until `shutdown` completes, then drains: new requests are rejected, and
/// those admitted have `patience` to finish.
pub async fn serve(
    listeners: impl Into<Listeners>,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
    patience: Duration,
) {
    let (first, second) = match listeners.into() {
        Listeners::One(listener) => ((listener, router(state.clone())), None),
        Listeners::Two { http: listener, grpc } => {
            let only_grpc = grpc::endpoints(&state).fallback(grpc::status::no_http);
            ((listener, with_layers(http(), state.clone())), Some((grpc, with_layers(only_grpc, state.clone()))))
        }
    };
    let (send_drained, drained) = oneshot::channel();
    let stop = async move {
        shutdown.await;
        let given_up = state.drain(patience).await;
        tracing::info!(given_up, "drained");
        let _ = send_drained.send(()); // the receiver is gone once the server has failed
    };
    let lingered = async move {
        let _ = drained.await; // an error also means that there is nothing to wait for
        tokio::time::sleep(LINGER).await;
    };
    let (stop, places) = (stop.shared(), Places::by_open_files());
    let listen = |(listener, app)| connections::serve(listener, app, Arc::clone(&places), stop.clone());
    let (first, second) = (listen(first), OptionFuture::from(second.map(listen)));
    tokio::select! {
        _ = futures_util::future::join(first, second) => {}
        () = lingered => {}
    }
}
