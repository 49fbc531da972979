//! The OpenAPI document, made of the table of endpoints, their types, and the table of errors.

mod completion;
pub(crate) mod endpoint;
pub(crate) mod endpoints;
pub(crate) mod guides;
mod operation;
pub(crate) mod viewer;

use super::error::ErrorBody;
use super::request::auth;
use super::schema;
use endpoint::Endpoint;
use endpoints::TAGS;
use operation::SCHEMES;
use utoipa::openapi::path::{PathItem, PathsBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Server};

const DESCRIPTION: &str = include_str!("description.md");

pub(crate) fn document(endpoints: Vec<Endpoint>) -> OpenApi {
    let mut schemas = completion::schemas();
    schema::add::<ErrorBody<'_>>(&mut schemas);
    let mut paths = PathsBuilder::new();
    for endpoint in endpoints {
        let (operation, referred) = endpoint.doc.operation(auth::is_guarded(endpoint.path));
        schemas.extend(referred);
        paths = paths.path(endpoint::plain(endpoint.path), PathItem::new(endpoint.method, operation));
    }
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .responses_from_iter(operation::errors())
        .parameter(operation::REQUEST_ID, operation::request_id())
        .security_scheme(SCHEMES[0], SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .security_scheme(SCHEMES[1], SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(auth::KEY_HEADER))));
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
