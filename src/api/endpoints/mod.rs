//! The HTTP endpoints. The router, the list at `/` and `/openapi.json` are made of one table.

mod accept;
mod chat;
mod completions;
mod docs;
mod infill;
mod models;
pub(crate) mod ops;
mod playground;
mod repair;
mod requests;
mod score;
mod tokenize;

use super::openapi::endpoint::Endpoint;
use super::openapi::{self, endpoints as about};
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::HeaderMap;
use std::sync::LazyLock;

/// The method and path of every endpoint, for people.
static LINES: LazyLock<Vec<String>> = LazyLock::new(|| table().into_iter().map(|one| one.line).collect());

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = openapi::document(table());
    Bytes::from(document.to_pretty_json().expect("a document has no keys but texts"))
});

pub(crate) fn table() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/completions", completions::create, about::completions()),
        Endpoint::post("/v1/chat/completions", chat::create, about::chat()),
        Endpoint::post("/v1/infill", infill::create, about::infill()),
        Endpoint::post("/v1/score", score::create, about::score()),
        Endpoint::post("/v1/repair", repair::create, about::repair()),
        Endpoint::get("/v1/requests/{id}", requests::resume, about::resume()),
        Endpoint::delete("/v1/requests/{id}", requests::cancel, about::cancel()),
        Endpoint::post("/tokenize", tokenize::tokenize, about::tokenize()),
        Endpoint::post("/detokenize", tokenize::detokenize, about::detokenize()),
        Endpoint::get("/v1/models", models::list, about::models()),
        Endpoint::get("/v1/models/{*id}", models::retrieve, about::model()),
        Endpoint::get("/", async |headers: HeaderMap| playground::root(&headers, &LINES), about::root()),
        Endpoint::get("/playground/{file}", playground::file, about::playground_file()),
        Endpoint::get("/version", ops::version, about::version()),
        Endpoint::get("/health", ops::health, about::health()),
        Endpoint::get("/ready", ops::ready, about::ready()),
        Endpoint::get("/metrics", ops::metrics, about::metrics()),
        Endpoint::get("/openapi.json", async || docs::document(&DOCUMENT), about::document()),
        Endpoint::get("/docs", docs::page, about::viewer()),
        Endpoint::get("/docs/{file}", docs::file, about::viewer_file()),
    ]
}

/// The answer under a path that no endpoint has.
pub(crate) async fn unknown_path(request: Request) -> super::error::ApiError {
    ops::unknown_path(&request, &LINES)
}
