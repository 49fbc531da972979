//! The protocol that a request speaks, HTTP or gRPC, and the paths that run the model.

use axum::http::{HeaderMap, header::CONTENT_TYPE};

/// The prefix of the paths of `remask.v1.Remask`. Health and reflection need no API key.
pub(crate) const GRPC_SERVICE: &str = "/remask.v1.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

impl Protocol {
    /// The protocol that a request's content type names.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        let is_grpc = |one: &&str| essence.eq_ignore_ascii_case(one);
        if ["application/grpc", "application/grpc+proto"].iter().any(is_grpc) { Self::Grpc } else { Self::Http }
    }
}

/// Whether `path` is probed or scraped all the time. Its requests are logged at level debug.
pub(crate) fn is_probe(path: &str) -> bool {
    ["/health", "/ready", "/metrics"].contains(&path) || path.starts_with("/grpc.health.")
}

/// Whether an answer under `path` may be a stream that is resumed after a broken connection.
pub(crate) fn is_resumable(path: &str) -> bool {
    ["/v1/infill", "/v1/repair"].contains(&path)
}

/// Whether requests to `path` run the model or concern one that does, unlike probes and scrapes.
pub(crate) fn is_work(path: &str) -> bool {
    path.starts_with("/v1/") || path.starts_with(GRPC_SERVICE)
}
