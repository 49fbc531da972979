//! The playground: a page for browsers at `GET /`, and its files. It is embedded in the program and
//! asks nothing but this server's own API. Out of scope: what it shows, which is in `playground/`.

use super::accept::{weights, wish};
use super::ops;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::openapi::viewer::{HTML, SCRIPT, STYLE};
use crate::api::request::body::PathName;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Nothing from other servers, nothing inline, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const PAGE: File = File { name: "index.html", media_type: HTML, content: include_str!("playground/index.html") };

const FILES: &[File] = &[
    style("theme.css", include_str!("playground/theme.css")),
    style("fields.css", include_str!("playground/fields.css")),
    style("stage.css", include_str!("playground/stage.css")),
    style("canvas.css", include_str!("playground/canvas.css")),
    style("style.css", include_str!("playground/style.css")),
    script("api.js", include_str!("playground/api.js")),
    script("canvas.js", include_str!("playground/canvas.js")),
    script("causes.js", include_str!("playground/causes.js")),
    script("chat.js", include_str!("playground/chat.js")),
    script("dialogs.js", include_str!("playground/dialogs.js")),
    script("dom.js", include_str!("playground/dom.js")),
    script("errors.js", include_str!("playground/errors.js")),
    script("files.js", include_str!("playground/files.js")),
    script("inspector.js", include_str!("playground/inspector.js")),
    script("lane.js", include_str!("playground/lane.js")),
    script("letters.js", include_str!("playground/letters.js")),
    script("main.js", include_str!("playground/main.js")),
    script("models.js", include_str!("playground/models.js")),
    script("player.js", include_str!("playground/player.js")),
    script("policies.js", include_str!("playground/policies.js")),
    script("puzzles.js", include_str!("playground/puzzles.js")),
    script("requests.js", include_str!("playground/requests.js")),
    script("review.js", include_str!("playground/review.js")),
    script("run.js", include_str!("playground/run.js")),
    script("settings.js", include_str!("playground/settings.js")),
    script("shade.js", include_str!("playground/shade.js")),
    script("share.js", include_str!("playground/share.js")),
    script("snippets.js", include_str!("playground/snippets.js")),
    script("sudoku.js", include_str!("playground/sudoku.js")),
    script("theme.js", include_str!("playground/theme.js")),
    script("trajectory.js", include_str!("playground/trajectory.js")),
];

#[derive(Clone, Copy, Debug)]
struct File {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
}

const fn style(name: &'static str, content: &'static str) -> File {
    File { name, media_type: STYLE, content }
}

const fn script(name: &'static str, content: &'static str) -> File {
    File { name, media_type: SCRIPT, content }
}

impl File {
    /// The file, or 304 if the client has it already.
    fn response(&self, headers: &HeaderMap) -> Response {
        let tag = self.tag();
        let known =
            weights(headers, IF_NONE_MATCH).any(|(known, _)| known == "*" || known.trim_start_matches("W/") == tag);
        let common = [
            (CONTENT_SECURITY_POLICY, POLICY.to_owned()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (REFERRER_POLICY, "no-referrer".to_owned()),
            (CACHE_CONTROL, "no-cache".to_owned()), // a newer program has newer files
            (ETAG, tag),
        ];
        match known {
            true => (StatusCode::NOT_MODIFIED, common).into_response(),
            false => (common, [(CONTENT_TYPE, self.media_type)], self.content).into_response(),
        }
    }

    /// The entity tag: the beginning of the content's SHA-256.
    fn tag(&self) -> String {
        let digest = Sha256::digest(self.content);
        let hex = digest.iter().take(8).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a string does not fail
            hex
        });
        format!("\"{hex}\"")
    }
}

/// The page for clients that prefer HTML, as browsers do; for all others, what this server is.
pub(super) fn root(headers: &HeaderMap, endpoints: &'static [String]) -> Response {
    let is_browser = wish(headers, ("text", "html")) > wish(headers, ("application", "json"));
    let response = if is_browser { PAGE.response(headers) } else { ops::root(endpoints).into_response() };
    ([(VARY, ACCEPT.as_str())], response).into_response()
}

/// A file of the page.
pub(super) async fn file(PathName(name): PathName, headers: HeaderMap) -> ApiResult {
    let file = FILES.iter().find(|file| file.name == name).ok_or_else(|| {
        let names: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        let message = format!("the playground has no such file; it has {}", names.join(", "));
        ApiError::new(Code::UnknownPath, message)
    })?;
    Ok(file.response(&headers))
}
