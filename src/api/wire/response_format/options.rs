//! Values that a schema lists, and which of them its other keywords allow.

use super::budget::Budget;
use super::decimal::{Decimal, is_same};
use super::keywords::{known, types, whole};
use super::path::Path;
use super::strings::{format_of, has_format, patterns};
use crate::api::error::{ApiError, ApiResult};
use crate::api::wire::field::shown;
use crate::text::Expression;
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Keywords that are checked for each value.
const CHECKED: [&str; 17] = [
    "const",
    "enum",
    "type",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
];

type Test<'s> = Box<dyn Fn(&Value) -> bool + 's>;

/// The values of `const` and `enum` that the other keywords allow, at least one; `None` without
/// `const` and `enum`.
pub(super) fn listed<'s>(
    schema: &'s Map<String, Value>,
    path: &Path<'_>,
    budget: &mut Budget,
) -> ApiResult<Option<Vec<&'s Value>>> {
    let (own, mut values): (_, Vec<&Value>) = match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => ("const", vec![value]),
        (None, Some(Value::Array(values))) if !values.is_empty() => ("enum", values.iter().collect()),
        (None, Some(given)) => return Err(path.at("enum").refused(given, "give an array of at least one value")),
        (None, None) => return Ok(None),
    };
    known(schema, path, &CHECKED)?;
    for (word, bound) in schema.iter().filter(|(word, _)| *word != own && CHECKED.contains(&word.as_str())) {
        budget.checks(path, values.len(), if word == "pattern" { patterns(schema, path)?.len() } else { 0 })?;
        if word == "pattern" {
            values = matching(values, schema, path)?;
        } else {
            let test = test(schema, word, bound, path)?;
            values.retain(|value| test(value));
        }
        if values.is_empty() {
            let bound = shown(bound);
            let message = format!("{word} {bound} beside it allows none of this; change one of the two");
            return Err(path.at(own).refused(&schema[own], &message));
        }
    }
    Ok(Some(values))
}

/// Whether a schema allows nothing but null.
pub(super) fn only_null(schema: &Map<String, Value>, listed: Option<&[Value]>) -> bool {
    let is_null =
        |kind: &Value| kind == "null" || kind.as_array().is_some_and(|all| all.iter().all(|one| one == "null"));
    schema.get("type").is_some_and(is_null) || listed.is_some_and(|values| values.iter().all(Value::is_null))
}

/// Whether a value has what a keyword asks for. Keywords of other types ask for nothing.
fn test<'s>(schema: &'s Map<String, Value>, word: &'s str, bound: &'s Value, path: &Path<'_>) -> ApiResult<Test<'s>> {
    let wrong = |allowed: &str| -> ApiError { path.at(word).refused(bound, allowed) };
    let size = || -> ApiResult<usize> { Ok(whole(schema, path, word)?.map_or(0, |(_, size)| size)) };
    let least = word.starts_with("min");
    let within = move |given: usize, size: usize| if least { given >= size } else { given <= size };
    Ok(match word {
        "type" => {
            let (words, may_be_null) = (types(schema, path)?.unwrap_or_default(), schema.get("nullable"));
            let may_be_null = may_be_null == Some(&Value::Bool(true));
            Box::new(move |value| words.iter().any(|word| is_a(word, value)) || may_be_null && value.is_null())
        }
        "const" => Box::new(|value| is_same(value, bound)),
        "enum" => {
            let all = bound.as_array().ok_or_else(|| wrong("give an array of at least one value"))?;
            Box::new(|value| all.iter().any(|own| is_same(value, own)))
        }
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
            let end = if word.ends_with("inimum") { Ordering::Greater } else { Ordering::Less };
            // before 2019, these were flags of the other bound
            let (bound, excludes) = match bound {
                Value::Bool(excludes) if word.starts_with("ex") => {
                    (schema.get(if end.is_gt() { "minimum" } else { "maximum" }), *excludes)
                }
                bound => (Some(bound), word.starts_with("ex")),
            };
            let Some(bound) = bound else { return Ok(Box::new(|_| true)) };
            let bound = Decimal::of(bound).ok_or_else(|| wrong("give a number"))?;
            let holds = move |number: Decimal| {
                let found = number.compare(bound);
                found == end || !excludes && found.is_eq()
            };
            Box::new(move |value| Decimal::of(value).is_none_or(holds))
        }
        "multipleOf" => {
            let step = Decimal::of(bound).filter(|step| step.is_positive());
            let step = step.ok_or_else(|| wrong("give a number above 0"))?;
            Box::new(move |value| Decimal::of(value).is_none_or(|number| number.is_multiple_of(step) == Some(true)))
        }
        "minLength" | "maxLength" => {
            let size = size()?;
            Box::new(move |value| value.as_str().is_none_or(|text| within(text.chars().count(), size)))
        }
        "minItems" | "maxItems" => {
            let size = size()?;
            Box::new(move |value| value.as_array().is_none_or(|items| within(items.len(), size)))
        }
        "minProperties" | "maxProperties" => {
            let size = size()?;
            Box::new(move |value| value.as_object().is_none_or(|members| within(members.len(), size)))
        }
        "required" => {
            let names = bound.as_array().ok_or_else(|| wrong("give an array of names"))?;
            let has = |members: &Map<String, Value>| {
                names.iter().filter_map(Value::as_str).all(|name| members.contains_key(name))
            };
            Box::new(move |value| value.as_object().is_none_or(has))
        }
        "format" => {
            let holds = format_of(schema, path)?.map(|(_, format)| has_format(format));
            Box::new(move |value| value.as_str().is_none_or(|text| holds.as_ref().is_none_or(|holds| holds(text))))
        }
        _ => Box::new(|_| true),
    })
}

/// The values that match all patterns of a schema.
fn matching<'s>(values: Vec<&'s Value>, schema: &Map<String, Value>, path: &Path<'_>) -> ApiResult<Vec<&'s Value>> {
    let wrong = |why: String| path.at("pattern").refused(&schema["pattern"], &format!("this cannot be kept: {why}"));
    let all = patterns(schema, path)?.into_iter().map(Expression::new).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let mut kept = Vec::new();
    for value in values {
        let matches = |text: &str| all.iter().try_fold(true, |before, one| Ok(before && one.is_match(text)?));
        if value.as_str().map_or(Ok(true), matches).map_err(wrong)? {
            kept.push(value);
        }
    }
    Ok(kept)
}

pub(super) fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => Decimal::of(value).is_some_and(|number| number.units(0).1),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    }
}
