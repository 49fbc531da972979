//! `GET /openapi.json`, and `GET /docs`: a viewer of the document that needs no network.

use super::accept::weights;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::openapi::viewer::{FILES, HTML, PAGE};
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

pub(crate) fn document(document: &Bytes) -> impl IntoResponse + use<> {
    ([(CONTENT_TYPE, "application/json")], document.clone())
}

pub(crate) async fn page(OriginalUri(uri): OriginalUri) -> Response {
    if uri.path().ends_with('/') {
        return Redirect::permanent("../docs").into_response(); // the page's own addresses are relative
    }
    ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, POLICY)], PAGE).into_response()
}

pub(crate) async fn file(PathName(name): PathName, headers: HeaderMap) -> ApiResult {
    let file = FILES.iter().find(|file| file.name == name).ok_or_else(|| {
        let names = FILES.map(|file| file.name).join(", ");
        ApiError::new(Code::UnknownPath, format!("the viewer has no such file; it has {names}"))
    })?;
    let common = [(CONTENT_TYPE, file.media_type), (VARY, "accept-encoding")];
    Ok(match file.is_gzipped() {
        false => (common, file.content).into_response(),
        true if accepts_gzip(&headers) => (common, [(CONTENT_ENCODING, "gzip")], file.content).into_response(),
        true => (common, unzipped(file.content)).into_response(),
    })
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    weights(headers, ACCEPT_ENCODING).any(|(name, weight)| name.eq_ignore_ascii_case("gzip") && weight > 0.0)
}

fn unzipped(gzipped: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(gzipped).read_to_end(&mut bytes).expect("the viewer's files are whole");
    bytes
}
