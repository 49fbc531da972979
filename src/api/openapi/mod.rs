//! What this server says about itself: an OpenAPI document, made of the endpoints that the router is made of, the types
//! that requests are read into, and the table of errors. Refuses to know what a request does.

mod completion;
pub(crate) mod endpoints;
mod operation;

use endpoints::TAGS;
use operation::About;

use crate::api::AppState;
use crate::api::error::ErrorBody;
use crate::api::state::keys;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, post};
use utoipa::openapi::path::{HttpMethod, PathItem, PathsBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Server};

/// The schemes a key may be told by; either will do, and neither where the server asks for none.
pub(crate) const SCHEMES: [&str; 2] = ["bearer", "header"];

/// What is said in general.
const DESCRIPTION: &str = include_str!("description.md");

/// One method of one path: what answers, and what is said about it.
pub(crate) struct Endpoint {
    method: HttpMethod,
    /// As the router has it, where `{*name}` takes in slashes.
    path: &'static str,
    serve: MethodRouter<AppState>,
    about: About,
    /// As people are told it: `GET /health`.
    pub(crate) line: String,
}

impl Endpoint {
    pub(crate) fn get<T: 'static>(path: &'static str, handler: impl Handler<T, AppState>, about: About) -> Self {
        Self::new((HttpMethod::Get, "GET"), path, get(handler), about)
    }

    pub(crate) fn post<T: 'static>(path: &'static str, handler: impl Handler<T, AppState>, about: About) -> Self {
        Self::new((HttpMethod::Post, "POST"), path, post(handler), about)
    }

    pub(crate) fn delete<T: 'static>(path: &'static str, handler: impl Handler<T, AppState>, about: About) -> Self {
        Self::new((HttpMethod::Delete, "DELETE"), path, delete(handler), about)
    }

    fn new(
        (method, word): (HttpMethod, &str),
        path: &'static str,
        serve: MethodRouter<AppState>,
        about: About,
    ) -> Self {
        let line = format!("{word} {}", plain(path));
        Self { method, path, serve, about, line }
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    /// For the router.
    pub(crate) fn route(self) -> (&'static str, MethodRouter<AppState>) {
        (self.path, self.serve)
    }
}

/// A path without the mark for slashes.
fn plain(path: &str) -> String {
    path.replace("{*", "{")
}

/// The document about some endpoints.
pub(crate) fn document(endpoints: Vec<Endpoint>) -> OpenApi {
    let mut schemas = completion::schemas();
    completion::add::<ErrorBody<'_>>(&mut schemas, true);
    let mut paths = PathsBuilder::new();
    for Endpoint { method, path, about, .. } in endpoints {
        let (operation, referred) = about.operation(keys::is_guarded(path));
        schemas.extend(referred);
        paths = paths.path(plain(path), PathItem::new(method, operation));
    }
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .responses_from_iter(operation::refusals())
        .parameter(operation::REQUEST_ID, operation::request_id())
        .security_scheme(SCHEMES[0], SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .security_scheme(SCHEMES[1], SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(keys::OTHER_HEADER))));
    let licence = License::builder().name("Apache-2.0").identifier(Some("Apache-2.0"));
    let info = InfoBuilder::new()
        .title("Remask")
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(licence.build()))
        .description(Some(DESCRIPTION));
    let tag = |(name, description): (&str, &str)| TagBuilder::new().name(name).description(Some(description)).build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(TAGS.map(tag)))
        .build()
}
