//! `GET /openapi.json`, and `GET /docs`: a viewer of the document and the guides, which need no
//! network.

use super::accept::weights;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::openapi::guides::{GUIDES, Guide};
use crate::api::openapi::viewer::{FILES, HTML, MARKDOWN, PAGE};
use crate::api::request::body::PathName;
use axum::body::Bytes;
use axum::extract::OriginalUri;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Redirect, Response};
use flate2::read::GzDecoder;
use std::io::Read;

/// Nothing from other servers. The viewer has inline styles, and icons in its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Nothing from other servers, no scripts, nothing inline.
const GUIDE_POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                            frame-ancestors 'none'";

pub(crate) fn document(document: &Bytes) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json")], document.clone())
}

pub(crate) async fn page(OriginalUri(uri): OriginalUri) -> Response {
    if uri.path().ends_with('/') {
        return Redirect::permanent("../docs").into_response(); // the page's own addresses are relative
    }
    ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, POLICY)], PAGE).into_response()
}

/// A file of the viewer, or a guide: as a page, or with `.md` as its source.
pub(crate) async fn file(OriginalUri(uri): OriginalUri, PathName(name): PathName, headers: HeaderMap) -> ApiResult {
    if let Some(guide) = GUIDES.iter().find(|guide| guide.name == name.strip_suffix(".md").unwrap_or(&name)) {
        return Ok(guided(guide, &name, uri.path()));
    }
    let file = FILES.iter().find(|file| file.name == name).ok_or_else(|| {
        let names: Vec<&str> = GUIDES.iter().map(|guide| guide.name).chain(FILES.map(|file| file.name)).collect();
        ApiError::new(Code::UnknownPath, format!("there is no such page; there are {}", names.join(", ")))
    })?;
    let common = [(CONTENT_TYPE, file.media_type), (VARY, "accept-encoding")];
    Ok(match file.is_gzipped() {
        false => (common, file.content).into_response(),
        true if accepts_gzip(&headers) => (common, [(CONTENT_ENCODING, "gzip")], file.content).into_response(),
        true => (common, unzipped(file.content)).into_response(),
    })
}

fn guided(guide: &Guide, name: &str, path: &str) -> Response {
    if name != guide.name {
        return ([(CONTENT_TYPE, MARKDOWN)], guide.source).into_response();
    }
    if path.ends_with('/') {
        return Redirect::permanent(&format!("../{name}")).into_response(); // its addresses are relative
    }
    ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, GUIDE_POLICY)], guide.page()).into_response()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    weights(headers, ACCEPT_ENCODING).any(|(name, weight)| name.eq_ignore_ascii_case("gzip") && weight > 0.0)
}

fn unzipped(gzipped: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(gzipped).read_to_end(&mut bytes).expect("the viewer's files are whole");
    bytes
}
