//! References and combined schemas: `$ref` and `allOf`. Out of scope: the shape that they ask for.

use super::budget::Budget;
use super::keywords::is_annotation;
use super::path::Path;
use crate::api::error::{ApiError, ApiResult};
use crate::text::quoted;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The schema that a reference leads to: a JSON pointer in a URI fragment (RFC 6901, section 6).
pub(super) fn target<'a>(root: &'a Value, reference: &Value, path: &Path<'_>) -> Result<&'a Value, ApiError> {
    let pointer = reference.as_str().and_then(|reference| reference.strip_prefix('#'));
    let decoded = pointer.and_then(|pointer| percent_decode_str(pointer).decode_utf8().ok());
    let found = decoded.and_then(|pointer| root.pointer(&pointer));
    found.ok_or_else(|| path.at("$ref").invalid("leads nowhere; give one like #/$defs/NAME"))
}

/// A schema without references and `allOf`: one that has everything they ask for.
pub(super) fn resolved<'s, 'a: 's>(
    root: &'a Value,
    schema: &'s Value,
    path: &Path<'_>,
    depth: usize,
    budget: &mut Budget,
) -> ApiResult<Cow<'s, Map<String, Value>>> {
    budget.value(path, depth)?;
    let Value::Object(own) = schema else {
        return Err(path.invalid("give a schema as an object; true and false leave everything open"));
    };
    let mut parts: Vec<&'s Value> = Vec::new();
    if let Some(reference) = own.get("$ref") {
        parts.push(target(root, reference, path)?);
    }
    match own.get("allOf") {
        None => {}
        Some(Value::Array(all)) if !all.is_empty() => parts.extend(all),
        Some(_) => return Err(path.at("allOf").invalid("give an array of at least one schema")),
    }
    if parts.is_empty() {
        return Ok(Cow::Borrowed(own));
    }
    let is_own = |word: &&String| *word != "$ref" && *word != "allOf" && !is_annotation(word);
    if let ([only], None) = (&parts[..], own.keys().find(is_own)) {
        return resolved(root, only, path, depth + 1, budget);
    }
    let mut all: Map<String, Value> =
        own.iter().filter(|(word, _)| is_own(word)).map(|(word, value)| (word.clone(), value.clone())).collect();
    budget.combined(path, schema)?;
    for part in parts {
        let part = resolved(root, part, path, depth + 1, budget)?.into_owned();
        let part = Value::Object(part);
        budget.combined(path, &part)?;
        let Value::Object(part) = part else { continue };
        check_closed(&all, &part, &path.at("allOf"))?;
        for (word, value) in part.into_iter().filter(|(word, _)| !is_annotation(word)) {
            let value = match all.remove(&word) {
                None => value,
                Some(other) => both(&word, &other, &value, &path.at("allOf"))?,
            };
            all.insert(word, value);
        }
    }
    Ok(Cow::Owned(all))
}

/// The value of a keyword with which both of its values are kept.
fn both(word: &str, one: &Value, other: &Value, path: &Path<'_>) -> ApiResult<Value> {
    if one == other {
        return Ok(one.clone());
    }
    let conflict = || path.at(word).invalid("its parts ask for different values, which cannot be kept together");
    let larger = |want_larger: bool| match (one.as_f64(), other.as_f64()) {
        (Some(a), Some(b)) => Ok(if (a > b) == want_larger { one.clone() } else { other.clone() }),
        _ => Err(conflict()),
    };
    match (word, one, other) {
        ("minimum" | "exclusiveMinimum" | "minLength" | "minItems", ..) => larger(true),
        ("maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "x-tokens", ..) => larger(false),
        ("properties", Value::Object(one), Value::Object(other)) => {
            let mut all = one.clone();
            for (name, schema) in other {
                let schema = match all.get(name) {
                    Some(other) if other != schema => json!({"allOf": [other, schema]}),
                    Some(_) | None => schema.clone(),
                };
                all.insert(name.clone(), schema);
            }
            Ok(Value::Object(all))
        }
        ("required", Value::Array(one), Value::Array(other)) => {
            Ok(one.iter().chain(other.iter().filter(|name| !one.contains(name))).cloned().collect())
        }
        ("items", Value::Object(_), Value::Object(_)) => Ok(json!({"allOf": [one, other]})),
        ("enum", Value::Array(one), Value::Array(other)) => {
            Ok(one.iter().filter(|option| other.contains(option)).cloned().collect())
        }
        ("type", ..) => {
            let words = |value: &Value| match value {
                Value::Array(words) => words.clone(),
                word => vec![word.clone()],
            };
            let (one, other) = (words(one), words(other));
            let shared: Vec<Value> = one.into_iter().filter(|word| other.contains(word)).collect();
            if shared.is_empty() { Err(conflict()) } else { Ok(Value::Array(shared)) }
        }
        // kept together
        ("pattern", ..) => {
            let all = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            Ok(Value::Array([all(one), all(other)].concat()))
        }
        // no further members are written, whatever they might be
        ("additionalProperties", ..) => Ok(json!(false)),
        _ => Err(conflict()),
    }
}

/// Refuses an object that one part closes, and to which the other adds members.
fn check_closed(one: &Map<String, Value>, other: &Map<String, Value>, path: &Path<'_>) -> ApiResult<()> {
    let members = |part: &Map<String, Value>| part.get("properties").and_then(Value::as_object).cloned();
    for (part, other) in [(one, other), (other, one)] {
        let (own, more) = (members(part).unwrap_or_default(), members(other).unwrap_or_default());
        let is_closed = part.get("additionalProperties") == Some(&Value::Bool(false));
        if let Some(name) = more.keys().find(|name| is_closed && !own.contains_key(*name)) {
            return Err(path.invalid(&format!("one part has no members but its own, another has {}", quoted(name))));
        }
    }
    Ok(())
}

/// The values that a schema lists, if it is a list of values.
pub(super) fn listed(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), None) => Some(vec![value.clone()]),
        (None, Some(Value::Array(values))) => Some(values.clone()),
        _ => None,
    }
}

/// Whether a schema allows nothing but null.
pub(super) fn only_null(schema: &Map<String, Value>) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
        || listed(schema).is_some_and(|values| values.iter().all(Value::is_null))
}
