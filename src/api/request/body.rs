//! The JSON body of a request, or an error that names the field at fault, and the name in its path.

use super::connections::is_slow_body;
use super::context::RequestContext;
use super::room::NoRoom;
use super::{digest, values};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::state::AppState;
use crate::api::state::keys::Fingerprint;
use crate::api::state::services::Service;
use crate::text::{quoted, shown};
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

/// What some editors and libraries on Windows put before UTF-8 (RFC 8259 lets parsers ignore it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The one name in a path, such as the id of `/v1/requests/{id}`. One that is not UTF-8 becomes a
/// text that nothing is named.
pub(crate) struct PathName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let name = Path::from_request_parts(parts, state).await;
        Ok(Self(name.map_or_else(|_| "\u{fffd}".to_owned(), |Path(name)| name)))
    }
}

/// Reads a body for the model that it names, or the first one, and makes of it what `read` does. A
/// long body is worked on by a blocking thread, from its bytes to the result.
pub(crate) async fn read_for_model<T: DeserializeOwned + 'static, R: Send + 'static>(
    state: &AppState,
    request: Request,
    model: fn(&T) -> Option<&str>,
    read: impl FnOnce(T, &Service) -> ApiResult<R> + Send + 'static,
) -> ApiResult<(Arc<Service>, R)> {
    read_bytes(state, request, |_| {}, model, read).await
}

/// The same for an answer that may be a stream that is resumed: the context gets the body's digest.
pub(crate) async fn read_to_resume<T: DeserializeOwned + 'static, R: Send + 'static>(
    state: &AppState,
    context: &RequestContext,
    request: Request,
    model: fn(&T) -> Option<&str>,
    read: impl FnOnce(T, &Service) -> ApiResult<R> + Send + 'static,
) -> ApiResult<(Arc<Service>, R)> {
    let context = context.clone();
    read_bytes(state, request, move |bytes| context.set_body(digest::of(bytes)), model, read).await
}

async fn read_bytes<T: DeserializeOwned + 'static, R: Send + 'static>(
    state: &AppState,
    request: Request,
    look: impl FnOnce(&[u8]) + Send + 'static,
    model: fn(&T) -> Option<&str>,
    read: impl FnOnce(T, &Service) -> ApiResult<R> + Send + 'static,
) -> ApiResult<(Arc<Service>, R)> {
    state.services()?; // before a long body is received in vain
    let (bytes, state_there) = (whole(state, request).await?, state.clone());
    let length = bytes.len();
    let work = move || {
        look(&bytes);
        let body = parse(&bytes)?;
        let service = Arc::clone(state_there.services()?.find(model(&body))?);
        let read = read(body, &service)?;
        Ok((service, read))
    };
    state.shared.text_work.run(length, work).await?
}

/// The digest of a request's body.
pub(crate) async fn digest(state: &AppState, request: Request) -> ApiResult<Fingerprint> {
    let bytes = whole(state, request).await?;
    state.shared.text_work.run(bytes.len(), move || digest::of(&bytes)).await
}

/// The bytes of a body of JSON, as many as are allowed at most.
async fn whole(state: &AppState, request: Request) -> ApiResult<Vec<u8>> {
    let limit = state.shared.body_max;
    check_encoding(request.headers())?;
    let declared = header(request.headers(), &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(ApiError::body_too_large(limit));
    }
    collect(request.into_body(), limit).await
}

/// A whole body of at most `limit` bytes.
pub(crate) async fn collect(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| unread(&error))?;
        if bytes.len() + chunk.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The error of a body that ends before it is whole.
fn unread(error: &axum::Error) -> ApiError {
    if is_slow_body(error) {
        return ApiError::new(Code::BodyTooSlow, error.to_string());
    }
    NoRoom::of(error).unwrap_or_else(|| invalid(format!("the body could not be read: {error}")))
}

/// Accepts the media types that clients send with JSON: of a form in `curl -d`, text in browsers.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let media_type = header(headers, &CONTENT_TYPE).unwrap_or("application/json");
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let accepted = ["application/json", "application/x-www-form-urlencoded", "text/plain", "text/json", ""];
    if !accepted.contains(&essence.as_str()) && !essence.ends_with("+json") {
        let message = format!("the body's content type is {}; send application/json", quoted(&essence));
        return Err(ApiError::new(Code::UnsupportedMediaType, message));
    }
    match header(headers, &CONTENT_ENCODING) {
        None | Some("identity") => Ok(()),
        Some(encoding) => {
            let message = format!("the body's content encoding is {}; send it uncompressed", quoted(encoding));
            Err(ApiError::new(Code::UnsupportedMediaType, message))
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    match bytes.trim_ascii().first() {
        None => return Err(invalid("the body is empty; send a JSON object")),
        // serde would read a struct's fields from it
        Some(b'[') => return Err(invalid("the body is an array; send a JSON object")),
        Some(_) => values::check(bytes)?,
    }
    parse_object("the body", bytes)
}

/// The value of a JSON text, which is an object; errors call it `what`.
pub(crate) fn parse_object<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = Some(error.path().to_string()).filter(|path| path != ".");
        explain(what, path.map(ApiError::path), error.inner())
    })?;
    json.end().map_err(|error| explain(what, None, &error))?;
    Ok(value)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, message)
}

fn explain(what: &str, path: Option<String>, error: &serde_json::Error) -> ApiError {
    match error.classify() {
        Category::Syntax => invalid(format!("{what} is not valid JSON: {error}{}", advice(error))).at(path),
        // the field at which the text breaks off is not at fault
        Category::Eof | Category::Io => invalid(format!("{what} is not valid JSON: {error}")),
        Category::Data => {
            let place = format!(" at line {} column {}", error.line(), error.column());
            let text = error.to_string();
            let text = cut(text.strip_suffix(&place).unwrap_or(&text));
            let text = in_json_words(&text);
            let message = path.as_ref().map_or_else(|| format!("{what}: {text}"), |path| format!("{path}: {text}"));
            invalid(message).at(given_twice(path.as_deref(), &text).or(path))
        }
    }
}

/// How to fix a body in which half of a character stands alone: a text was cut within an emoji.
fn advice(error: &serde_json::Error) -> &'static str {
    let text = error.to_string();
    match text.starts_with("lone leading surrogate") || text.starts_with("unexpected end of hex escape") {
        true => "; an escape as \\ud83d is half of a character, so give both halves, or cut texts between characters",
        false => "",
    }
}

/// serde's error of a value that it repeats, with the beginning of the value alone.
fn cut(text: &str) -> Cow<'_, str> {
    const BEFORE_VALUES: [&str; 4] =
        ["unknown field `", "unknown variant `", "invalid type: string \"", "invalid value: string \""];
    let parts = BEFORE_VALUES.iter().find_map(|before| {
        let (value, wanted) = text.strip_prefix(before)?.rsplit_once(", expected ")?;
        let mark = &before[before.len() - 1..];
        Some((before, value.strip_suffix(mark)?, mark, wanted))
    });
    let Some((before, value, mark, wanted)) = parts else { return text.into() };
    format!("{before}{}{mark}, expected {wanted}", shown(value)).into()
}

/// serde's error of a value of another type, in the words of JSON: what was given, what is allowed.
fn in_json_words(text: &str) -> Cow<'_, str> {
    const TYPES: [(&str, &str); 5] = [
        ("a boolean", "true or false"),
        ("a sequence", "an array"),
        ("a map", "an object"),
        ("unit", "null"),
        ("map", "an object"),
    ];
    let word = |serde: &str| match TYPES.iter().find(|(own, _)| *own == serde) {
        Some((_, json)) => (*json).to_owned(),
        None => serde.to_owned(),
    };
    let Some((given, wanted)) = text.strip_prefix("invalid type: ").and_then(|text| text.rsplit_once(", expected "))
    else {
        return Cow::Borrowed(text);
    };
    let given = match given {
        "sequence" => "an array".to_owned(),
        given => match given.split_once(' ') {
            Some(("string", text)) => text.to_owned(),
            Some(("integer" | "boolean" | "floating", _)) => given.rsplit(' ').next().unwrap_or(given).replace('`', ""),
            _ => word(given),
        },
    };
    format!("given {given}; give {}", word(wanted)).into()
}

/// The field that is given twice, which only the message names; `path` leads to its object.
fn given_twice(path: Option<&str>, message: &str) -> Option<String> {
    let field = message.strip_prefix("duplicate field `")?.strip_suffix('`')?;
    Some(path.map_or_else(|| field.to_owned(), |path| format!("{path}.{field}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::state::{Access, BODY_MAX};
    use crate::engine::{Limits, start};
    use crate::model::Toy;
    use crate::telemetry::Metrics;
    use serde::de::{Deserialize, Deserializer, IgnoredAny};
    use std::thread::{ThreadId, current};

    /// The thread that parsed a body.
    struct ParsedBy(ThreadId);

    impl<'de> Deserialize<'de> for ParsedBy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            IgnoredAny::deserialize(deserializer).map(|_| Self(current().id()))
        }
    }

    #[tokio::test]
    async fn a_long_body_takes_no_time_of_the_runtime() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let toy = metrics.model("toy").unwrap();
        let state = AppState::new(metrics, BODY_MAX, Access::default());
        let handle = start(Box::new(Toy::new()), None, Limits::default(), toy).unwrap();
        state.loaded(vec![Service { handle, name: "toy".to_owned(), created: 0 }]).unwrap();
        for (bytes, is_here) in [(100, true), (1 << 20, false)] {
            let request = || Request::new(Body::from(format!("{{\"pad\": \"{}\"}}", "x".repeat(bytes))));
            let read = |body: ParsedBy, _: &Service| Ok((body.0, current().id()));
            let (_, (parsed_by, read_by)) = read_for_model(&state, request(), |_| None, read).await.unwrap();
            assert_eq!((parsed_by == current().id(), read_by == current().id()), (is_here, is_here), "{bytes} bytes");
            assert_ne!(digest(&state, request()).await.unwrap(), [0; 32]);
        }
    }
}
