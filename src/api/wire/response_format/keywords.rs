//! Keywords of a JSON Schema: which mean nothing here, which are refused, and their values.

use super::budget::VALUES_MAX;
use super::path::Path;
use crate::api::error::{ApiError, ApiResult};
use serde_json::{Map, Value};

/// Keywords that constrain nothing. `null` is never written, whatever `nullable` says.
const ANNOTATIONS: &str = "$schema $id id $anchor $dynamicAnchor $vocabulary $comment $defs definitions title description \
                           markdownDescription default examples example deprecated readOnly writeOnly nullable \
                           discriminator externalDocs xml enumNames enumDescriptions errorMessage propertyOrdering";
/// Every type.
pub(super) const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
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
            "unevaluatedProperties",
            "dependentRequired",
            "propertyNames",
            "patternProperties",
            "minProperties",
            "maxProperties",
        ],
    ),
    (
        "array",
        &["type", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "additionalItems", "unevaluatedItems"],
    ),
    ("string", &["type", "minLength", "maxLength", "pattern", "format", "contentEncoding", TOKENS]),
    ("number", &["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format", TOKENS]),
    ("boolean", &["type"]),
    ("null", &["type"]),
];

/// Keywords that begin with `x-` are extensions, which other programs read.
pub(super) fn is_annotation(word: &str) -> bool {
    ANNOTATIONS.split(' ').any(|known| known == word) || word.starts_with("x-") && word != TOKENS
}

/// The keywords of a type.
pub(super) fn words_of(kind: &str) -> &'static [&'static str] {
    let kind = if kind == "integer" { "number" } else { kind };
    WORDS.iter().find(|(name, _)| *name == kind).map_or(&[], |(_, words)| words)
}

/// Rejects keywords other than `words` and annotations: their constraints would not be kept.
pub(super) fn known(schema: &Map<String, Value>, path: &Path<'_>, words: &[&str]) -> ApiResult<()> {
    let is_known = |word: &&String| words.contains(&word.as_str()) || is_annotation(word);
    schema.keys().find(|word| !is_known(word)).map_or(Ok(()), |word| Err(unknown(word, path, words)))
}

/// As [`known`] for a value of a type. Keywords of other types ask for nothing, as JSON Schema has
/// it.
pub(super) fn known_of(schema: &Map<String, Value>, path: &Path<'_>, kind: &str) -> ApiResult<()> {
    let own = words_of(kind);
    let is_of_other = |word: &str| word != TOKENS && WORDS.iter().any(|(_, words)| words.contains(&word));
    let is_kept = |word: &&String| own.contains(&word.as_str()) || is_of_other(word) || is_annotation(word);
    schema.keys().find(|word| !is_kept(word)).map_or(Ok(()), |word| Err(unknown(word, path, own)))
}

fn unknown(word: &str, path: &Path<'_>, words: &[&str]) -> ApiError {
    path.at(word).invalid(&format!("this cannot be kept; here only {} can", words.join(", ")))
}

/// The types that a schema names; `None` if it names none.
pub(super) fn types<'a>(schema: &'a Map<String, Value>, path: &Path<'_>) -> Result<Option<Vec<&'a str>>, ApiError> {
    let Some(given) = schema.get("type") else { return Ok(None) };
    let words: Option<Vec<&str>> = match given {
        Value::Array(words) if !words.is_empty() => words.iter().map(Value::as_str).collect(),
        word => word.as_str().map(|word| vec![word]),
    };
    let words = words.filter(|words| words.iter().all(|word| TYPES.contains(word)));
    let message = "give object, array, string, number, integer, boolean or null, or an array of them";
    words.map(Some).ok_or_else(|| path.at("type").refused(given, message))
}

/// The types of a value. `null` beside another is left out: a value may always be given. Without a
/// type, the one whose keywords are there; none if there are no keywords at all.
pub(super) fn kinds<'a>(schema: &'a Map<String, Value>, path: &Path<'_>) -> Result<Vec<&'a str>, ApiError> {
    let mut words = match types(schema, path)? {
        Some(words) => words,
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

/// A number of tokens, characters or elements. In JSON 3, 3.0 and 3e0 are the same number.
pub(super) fn size(schema: &Map<String, Value>, path: &Path<'_>, word: &str) -> Result<Option<usize>, ApiError> {
    match whole(schema, path, word)? {
        Some((given, size)) if size > VALUES_MAX => Err(path.at(word).refused(given, &allowed_sizes())),
        found => Ok(found.map(|(_, size)| size)),
    }
}

/// The largest size that a value may have; one above all canvases constrains nothing.
pub(super) fn upper_size(schema: &Map<String, Value>, path: &Path<'_>, word: &str) -> Result<Option<usize>, ApiError> {
    Ok(whole(schema, path, word)?.map(|(_, size)| size).filter(|size| *size <= VALUES_MAX))
}

/// A whole number from 0, and how it is given; those that are too large count as the largest.
pub(super) fn whole<'s>(
    schema: &'s Map<String, Value>,
    path: &Path<'_>,
    word: &str,
) -> Result<Option<(&'s Value, usize)>, ApiError> {
    let Some(given) = schema.get(word) else { return Ok(None) };
    let whole = given.as_f64().filter(|size| *size >= 0.0 && size.fract() == 0.0);
    // a cast of a float ends at the largest
    whole.map(|size| Some((given, size as usize))).ok_or_else(|| path.at(word).refused(given, &allowed_sizes()))
}

fn allowed_sizes() -> String {
    format!("give a whole number from 0 to {VALUES_MAX}")
}

/// The names that an object must have, and the keyword that says so. A flag, as drafts before 4 had
/// it, asks for nothing here, as every property is written.
pub(super) fn required<'s>(schema: &'s Map<String, Value>, path: &Path<'_>) -> ApiResult<Vec<(&'static str, &'s str)>> {
    let wrong = |word, given| path.at(word).refused(given, "give an array of names");
    let mut lists = Vec::new();
    if let Some(given) = schema.get("required").filter(|given| !given.is_boolean()) {
        lists.push(("required", given));
    }
    if let Some(given) = schema.get("dependentRequired") {
        let members = given.as_object().ok_or_else(|| wrong("dependentRequired", given))?;
        lists.extend(members.values().map(|names| ("dependentRequired", names)));
    }
    let mut names = Vec::new();
    for (word, given) in lists {
        let list: Option<Vec<&str>> = given.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        names.extend(list.ok_or_else(|| wrong(word, given))?.into_iter().map(|name| (word, name)));
    }
    Ok(names)
}

/// What members that are not named may be, and the keyword that says so.
pub(super) fn further<'s>(
    schema: &'s Map<String, Value>,
    path: &Path<'_>,
) -> ApiResult<Option<(&'static str, &'s Value)>> {
    for word in ["additionalProperties", "unevaluatedProperties"] {
        match schema.get(word) {
            None => {}
            Some(given @ (Value::Bool(_) | Value::Object(_))) => return Ok(Some((word, given))),
            Some(given) => return Err(path.at(word).refused(given, "give a schema, true or false")),
        }
    }
    Ok(None)
}

/// The array of a keyword.
pub(super) fn array_of<'s>(
    schema: &'s Map<String, Value>,
    path: &Path<'_>,
    word: &str,
    what: &str,
) -> ApiResult<Option<&'s Vec<Value>>> {
    let Some(given) = schema.get(word) else { return Ok(None) };
    let wrong = || path.at(word).refused(given, &format!("give an array of {what}"));
    given.as_array().map(Some).ok_or_else(wrong)
}
