//! Keywords of a JSON Schema: which mean nothing here, which are refused, and their values.

use super::budget::VALUES_MAX;
use super::path::Path;
use crate::api::error::{ApiError, ApiResult};
use serde_json::{Map, Value};

/// Keywords that constrain nothing. `null` is never written, whatever `nullable` says.
const ANNOTATIONS: &str = "$schema $id $anchor $comment $defs definitions title description default examples example \
                           deprecated readOnly writeOnly nullable discriminator externalDocs xml x-order";
/// Limit on the tokens of a value: this server's own keyword.
pub(super) const TOKENS: &str = "x-tokens";

pub(super) fn is_annotation(word: &str) -> bool {
    ANNOTATIONS.split(' ').any(|known| known == word)
}

/// Rejects keywords other than `words` and annotations: their constraints would not be kept.
pub(super) fn known(schema: &Map<String, Value>, path: &Path<'_>, words: &[&str]) -> ApiResult<()> {
    match schema.keys().find(|word| !words.contains(&word.as_str()) && !is_annotation(word)) {
        None => Ok(()),
        Some(word) => {
            let message = format!("this cannot be kept; here only {} can", words.join(", "));
            Err(path.at(word).invalid(&message))
        }
    }
}

/// The type of a value. `null` beside it is ignored: a value may always be given. Without a type,
/// the one whose keywords are there.
pub(super) fn kind<'a>(schema: &'a Map<String, Value>, path: &Path<'_>) -> Result<&'a str, ApiError> {
    let words: Vec<&str> = match schema.get("type") {
        Some(Value::String(word)) => vec![word],
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).filter(|word| *word != "null").collect(),
        Some(_) => Vec::new(),
        None => {
            let of = [("properties", "object"), ("items", "array"), ("prefixItems", "array")];
            of.into_iter().filter(|(word, _)| schema.contains_key(*word)).map(|(_, kind)| kind).take(1).collect()
        }
    };
    match words[..] {
        [word] => Ok(word),
        // an integer is a number, too
        ["integer", "number"] | ["number", "integer"] => Ok("number"),
        _ => Err(path.at("type").invalid("give one type; null may stand beside it")),
    }
}

/// A number of tokens, characters or elements.
pub(super) fn size(schema: &Map<String, Value>, path: &Path<'_>, word: &str) -> Result<Option<usize>, ApiError> {
    let Some(value) = schema.get(word) else { return Ok(None) };
    match value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= VALUES_MAX) {
        None => Err(path.at(word).invalid(&format!("give a whole number from 0 to {VALUES_MAX}"))),
        size => Ok(size),
    }
}

/// The largest size that a value may have; one above all canvases constrains nothing.
pub(super) fn upper_size(schema: &Map<String, Value>, path: &Path<'_>, word: &str) -> Result<Option<usize>, ApiError> {
    match schema.get(word).and_then(Value::as_u64) {
        Some(size) if size > VALUES_MAX as u64 => Ok(None),
        _ => size(schema, path, word),
    }
}
