//! Combined schemas: `$ref` and `allOf`. Out of scope: the shape that they ask for.

use super::budget::Budget;
use super::decimal::{Decimal, is_same};
use super::keywords::is_annotation;
use super::path::Path;
use super::references::target;
use crate::api::error::ApiResult;
use crate::api::wire::field::shown;
use crate::text::quoted;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Most comparisons of the options of two parts.
const COMPARED_MAX: usize = 1_000_000;

/// A schema without references and `allOf`: one that has everything they ask for.
pub(super) fn resolved<'s, 'a: 's>(
    root: &'a Value,
    schema: &'s Value,
    path: &Path<'_>,
    depth: usize,
    budget: &mut Budget,
) -> ApiResult<Cow<'s, Map<String, Value>>> {
    budget.value(path, depth)?;
    let own = match schema {
        Value::Object(own) => own,
        // as {}
        Value::Bool(true) => return Ok(Cow::Owned(Map::new())),
        Value::Bool(false) => return Err(path.refused(schema, "no value is allowed here; leave this member out")),
        _ => return Err(path.refused(schema, "give a schema, as {\"type\": \"string\"}")),
    };
    let mut parts: Vec<&'s Value> = Vec::new();
    if let Some(reference) = own.get("$ref").filter(|reference| !reference.is_null()) {
        parts.push(target(root, reference, path)?);
    }
    match own.get("allOf") {
        None | Some(Value::Null) => {}
        Some(Value::Array(all)) if !all.is_empty() => parts.extend(all),
        Some(given) => return Err(path.at("allOf").refused(given, "give an array of at least one schema")),
    }
    // what is null asks for nothing, except a constant
    let is_null = |word: &str, value: &Value| value.is_null() && word != "const";
    let is_own = |(word, value): &(&String, &Value)| {
        !is_null(word, value) && *word != "$ref" && *word != "allOf" && !is_annotation(word)
    };
    if parts.is_empty() && !own.iter().any(|(word, value)| is_null(word, value)) {
        return Ok(Cow::Borrowed(own));
    }
    if let ([only], None) = (&parts[..], own.iter().find(is_own)) {
        return resolved(root, only, path, depth + 1, budget);
    }
    let mut all: Map<String, Value> =
        own.iter().filter(is_own).map(|(word, value)| (word.clone(), value.clone())).collect();
    budget.combined(path, schema)?;
    // it speaks of the members of all parts
    let closed = all.shift_remove("unevaluatedProperties");
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
    all.extend(closed.map(|closed| ("unevaluatedProperties".to_owned(), closed)));
    Ok(Cow::Owned(all))
}

/// The value of a keyword with which both of its values are kept.
fn both(word: &str, one: &Value, other: &Value, path: &Path<'_>) -> ApiResult<Value> {
    if one == other {
        return Ok(one.clone());
    }
    let conflict = || {
        let (one, other) = (shown(one), shown(other));
        path.at(word).invalid(&format!("its parts ask for {one} and for {other}, which cannot be kept together"))
    };
    let larger = |want_larger: bool| match (Decimal::of(one), Decimal::of(other)) {
        (Some(a), Some(b)) => Ok(if a.compare(b).is_gt() == want_larger { one.clone() } else { other.clone() }),
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
            if one.len().saturating_mul(other.len()) > COMPARED_MAX {
                return Err(path.at(word).invalid("too many options to combine; give at most 1000 in each part"));
            }
            let shared: Vec<Value> =
                one.iter().filter(|option| other.iter().any(|own| is_same(own, option))).cloned().collect();
            if shared.is_empty() { Err(conflict()) } else { Ok(Value::Array(shared)) }
        }
        ("const", ..) if is_same(one, other) => Ok(one.clone()),
        ("type", ..) => {
            let words = |value: &Value| match value {
                Value::Array(words) => words.clone(),
                word => vec![word.clone()],
            };
            // an integer is a number, too
            let holds = |words: &[Value], word: &Value| {
                words.contains(word) || word == "integer" && words.contains(&json!("number"))
            };
            let (one, other) = (words(one), words(other));
            let mut shared: Vec<Value> = one.iter().filter(|word| holds(&other, word)).cloned().collect();
            shared.extend(other.iter().filter(|word| holds(&one, word) && !one.contains(word)).cloned());
            if shared.is_empty() { Err(conflict()) } else { Ok(Value::Array(shared)) }
        }
        // kept together
        ("pattern", ..) => {
            let all = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            Ok(Value::Array([all(one), all(other)].concat()))
        }
        // no further members are written, whatever they might be
        ("additionalProperties" | "unevaluatedProperties", ..) => Ok(json!(false)),
        _ => Err(conflict()),
    }
}

/// Refuses an object that one part closes, and to which the other adds members.
fn check_closed(one: &Map<String, Value>, other: &Map<String, Value>, path: &Path<'_>) -> ApiResult<()> {
    let members = |part: &Map<String, Value>| part.get("properties").and_then(Value::as_object).cloned();
    for (part, other) in [(one, other), (other, one)] {
        let (own, more) = (members(part).unwrap_or_default(), members(other).unwrap_or_default());
        let is_closed = ["additionalProperties", "unevaluatedProperties"]
            .iter()
            .any(|word| part.get(*word) == Some(&Value::Bool(false)));
        if let Some(name) = more.keys().find(|name| is_closed && !own.contains_key(*name)) {
            return Err(path.invalid(&format!("one part has no members but its own, another has {}", quoted(name))));
        }
    }
    Ok(())
}
