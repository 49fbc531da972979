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
/// The keywords of each type.
const WORDS: [(&str, &[&str]); 6] = [
    (
        "object",
        &[
            "type",
            "properties",
            "required",
            "additionalProperties",
            "propertyNames",
            "patternProperties",
            "minProperties",
            "maxProperties",
        ],
    ),
    ("array", &["type", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "additionalItems"]),
    ("string", &["type", "minLength", "maxLength", "pattern", "format", "contentEncoding", TOKENS]),
    ("number", &["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format", TOKENS]),
    ("boolean", &["type"]),
    ("null", &["type"]),
];

pub(super) fn is_annotation(word: &str) -> bool {
    ANNOTATIONS.split(' ').any(|known| known == word)
}

/// The keywords of a type.
pub(super) fn words_of(kind: &str) -> &'static [&'static str] {
    let kind = if kind == "integer" { "number" } else { kind };
    WORDS.iter().find(|(name, _)| *name == kind).map_or(&[], |(_, words)| words)
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

/// The types of a value. `null` beside another is left out: a value may always be given. Without a
/// type, the one whose keywords are there; none if there are no keywords at all.
pub(super) fn kinds<'a>(schema: &'a Map<String, Value>, path: &Path<'_>) -> Result<Vec<&'a str>, ApiError> {
    let wrong = || path.at("type").invalid("give one type, or an array of types");
    let mut words: Vec<&str> = match schema.get("type") {
        Some(Value::String(word)) => vec![word],
        Some(Value::Array(words)) if !words.is_empty() => {
            words.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
        None => {
            let has_word = |words: &[&str]| words.iter().any(|word| schema.contains_key(*word));
            let kind = WORDS.iter().find(|(_, words)| has_word(words)).map(|(kind, _)| *kind);
            match (kind, schema.keys().find(|word| !is_annotation(word))) {
                (Some(kind), _) => vec![kind],
                (None, Some(word)) => {
                    let message = "this cannot be kept; give a type and the keywords of that type";
                    return Err(path.at(word).invalid(message));
                }
                (None, None) => Vec::new(),
            }
        }
    };
    if words.iter().any(|word| *word != "null") {
        words.retain(|word| *word != "null");
    }
    // an integer is a number, too
    if words.contains(&"number") {
        words.retain(|word| *word != "integer");
    }
    words.dedup();
    Ok(words)
}

/// A schema of several types for one of them: without the keywords of the others.
pub(super) fn for_kind(schema: &Map<String, Value>, kind: &str) -> Map<String, Value> {
    let own = words_of(kind);
    let is_of_other =
        |word: &String| !own.contains(&word.as_str()) && WORDS.iter().any(|(_, words)| words.contains(&word.as_str()));
    let mut all: Map<String, Value> = schema
        .iter()
        .filter(|(word, _)| !is_of_other(word))
        .map(|(word, value)| (word.clone(), value.clone()))
        .collect();
    all.insert("type".to_owned(), Value::from(kind));
    all
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
