//! An endpoint: a row of the table that router and document are made of.

use super::operation::EndpointDoc;
use crate::api::state::AppState;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, post};
use utoipa::openapi::path::HttpMethod;

/// One method of one path: its handler and its description.
pub(crate) struct Endpoint {
    pub(super) method: HttpMethod,
    /// As the router has it, where `{*name}` may contain slashes.
    pub(crate) path: &'static str,
    pub(crate) handler: MethodRouter<AppState>,
    pub(super) doc: EndpointDoc,
    /// Method and path for people, as `GET /health`.
    pub(crate) line: String,
}

impl Endpoint {
    pub(crate) fn get<T: 'static>(path: &'static str, handler: impl Handler<T, AppState>, doc: EndpointDoc) -> Self {
        Self::new((HttpMethod::Get, "GET"), path, get(handler), doc)
    }

    pub(crate) fn post<T: 'static>(path: &'static str, handler: impl Handler<T, AppState>, doc: EndpointDoc) -> Self {
        Self::new((HttpMethod::Post, "POST"), path, post(handler), doc)
    }

    pub(crate) fn delete<T: 'static>(path: &'static str, handler: impl Handler<T, AppState>, doc: EndpointDoc) -> Self {
        Self::new((HttpMethod::Delete, "DELETE"), path, delete(handler), doc)
    }

    fn new(
        (method, word): (HttpMethod, &str),
        path: &'static str,
        handler: MethodRouter<AppState>,
        doc: EndpointDoc,
    ) -> Self {
        let line = format!("{word} {}", plain(path));
        Self { method, path, handler, doc, line }
    }
}

/// A path as OpenAPI writes it.
pub(super) fn plain(path: &str) -> String {
    path.replace("{*", "{")
}
