//! `GET /openapi.json` and `GET /docs`: the document about this server, and a viewer of it that is part of the binary and asks
//! nobody else for anything. Refuses to know what the document says.

use crate::api::error::ApiError;
use crate::api::error::Code;
use crate::api::openapi;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use std::io::Read;
use std::sync::LazyLock;

/// The media type of the page.
pub(crate) const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
/// Nothing from anywhere else; the viewer writes styles into its elements, and its icons into its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("../openapi/viewer/index.html");

/// A file of the viewer.
struct File {
    name: &'static str,
    media_type: &'static str,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    Plain(&'static str),
    Gzipped(&'static [u8]),
}

const FILES: [File; 3] = [
    File {
        name: "swagger-ui.css",
        media_type: STYLE,
        content: Content::Gzipped(include_bytes!("../openapi/viewer/swagger-ui.css.gz")),
    },
    File {
        name: "swagger-ui-bundle.js",
        media_type: SCRIPT,
        content: Content::Gzipped(include_bytes!("../openapi/viewer/swagger-ui-bundle.js.gz")),
    },
    File { name: "start.js", media_type: SCRIPT, content: Content::Plain(include_str!("../openapi/viewer/start.js")) },
];

/// Names and media types of the viewer's files.
pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().map(|file| (file.name, file.media_type))
}

/// The document, written once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = openapi::document(crate::api::endpoints());
    Bytes::from(document.to_pretty_json().expect("a document has no keys but texts"))
});

/// What this server understands and answers.
pub(crate) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}

/// A page that shows it.
pub(crate) async fn page() -> impl IntoResponse {
    ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, POLICY)], PAGE)
}

/// What the page is made of.
pub(crate) async fn file(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, ApiError> {
    let file = name.ok().and_then(|Path(name)| FILES.iter().find(|file| file.name == name));
    let file = file.ok_or_else(|| {
        let names: Vec<_> = files().map(|(name, _)| name).collect();
        ApiError::new(Code::UnknownPath, format!("the viewer has no such file; it has {}", names.join(", ")))
    })?;
    let common = [(CONTENT_TYPE, file.media_type), (VARY, "accept-encoding")];
    Ok(match file.content {
        Content::Plain(text) => (common, text).into_response(),
        Content::Gzipped(bytes) if takes_gzip(&headers) => {
            (common, [(CONTENT_ENCODING, "gzip")], bytes).into_response()
        }
        Content::Gzipped(bytes) => (common, unpacked(bytes)).into_response(),
    })
}

/// Whether a client says that it takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|codings| codings.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_some_and(|weight| weight > 0.0)
    })
}

fn unpacked(gzipped: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(gzipped).read_to_end(&mut bytes).expect("the viewer's files are whole");
    bytes
}
