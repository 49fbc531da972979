//! The part of JSON Schema that the server's document and the tests of structured answers use. An
//! unknown keyword is a failure.

use serde_json::Value;

/// All faults of `value` by `schema`, whose references lead into `root`.
pub fn faults(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    match schema {
        Value::Bool(true) => return faults,
        Value::Bool(false) => return vec![format!("{value} is not allowed")],
        _ => {}
    }
    let keywords = schema.as_object().unwrap_or_else(|| panic!("{schema} is no schema"));
    // what is null asks for nothing, except a constant
    for (keyword, bound) in keywords.iter().filter(|(keyword, bound)| *keyword == "const" || !bound.is_null()) {
        let number = || bound.as_f64().unwrap();
        let size = || bound.as_f64().unwrap() as usize;
        let holds = match (keyword.as_str(), value) {
            ("$ref", _) => {
                let schema = target(root, bound.as_str().unwrap());
                faults.extend(self::faults(root, schema, value));
                true
            }
            ("type", _) => match bound {
                Value::Array(types) => types.iter().any(|one| is_a(one, value)),
                one => is_a(one, value) || value.is_null() && schema["nullable"] == true,
            },
            ("const", _) => is_same(bound, value),
            ("allOf", _) => {
                faults.extend(bound.as_array().unwrap().iter().flat_map(|part| self::faults(root, part, value)));
                true
            }
            ("enum", _) => bound.as_array().unwrap().iter().any(|own| is_same(own, value)),
            ("oneOf", _) => {
                let fits = |schema: &&Value| self::faults(root, schema, value).is_empty();
                bound.as_array().unwrap().iter().filter(fits).count() == 1
            }
            ("anyOf", _) => bound.as_array().unwrap().iter().any(|schema| self::faults(root, schema, value).is_empty()),
            ("minimum", Value::Number(given)) => given.as_f64().unwrap() >= number(),
            ("maximum", Value::Number(given)) => given.as_f64().unwrap() <= number(),
            ("exclusiveMinimum", Value::Number(_)) if bound.is_boolean() => {
                bound == false || value != &schema["minimum"]
            }
            ("exclusiveMinimum", Value::Number(given)) => given.as_f64().unwrap() > number(),
            ("exclusiveMaximum", Value::Number(given)) => given.as_f64().unwrap() < number(),
            ("multipleOf", Value::Number(given)) => {
                let steps = given.as_f64().unwrap() / number();
                (steps - steps.round()).abs() < 1e-6
            }
            ("maxLength", Value::String(given)) => given.chars().count() <= size(),
            ("pattern", Value::String(given)) => is_match(bound.as_str().unwrap(), given),
            ("format", Value::String(given)) => is_of_format(bound.as_str().unwrap(), given),
            ("prefixItems", Value::Array(items)) => {
                let parts = bound.as_array().unwrap().iter().zip(items);
                faults.extend(parts.flat_map(|(schema, item)| self::faults(root, schema, item)));
                true
            }
            ("minLength", Value::String(given)) => given.chars().count() >= size(),
            ("minItems", Value::Array(items)) => items.len() >= size(),
            ("maxItems", Value::Array(items)) => items.len() <= size(),
            ("items", Value::Array(items)) => {
                let (tuple, further) = match bound {
                    Value::Array(tuple) => (tuple.as_slice(), schema.get("additionalItems")),
                    further => (schema["prefixItems"].as_array().map_or(&[][..], Vec::as_slice), Some(further)),
                };
                // `prefixItems` has a keyword of its own
                let own = if bound.is_array() { tuple } else { &[] };
                faults.extend(own.iter().zip(items).flat_map(|(schema, item)| self::faults(root, schema, item)));
                let more = items.iter().skip(tuple.len());
                match further {
                    None | Some(Value::Bool(true)) => true,
                    Some(Value::Bool(false)) => more.count() == 0,
                    Some(further) => {
                        faults.extend(more.flat_map(|item| self::faults(root, further, item)));
                        true
                    }
                }
            }
            ("uniqueItems", Value::Array(items)) => {
                *bound == false || items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))
            }
            ("minProperties", Value::Object(object)) => object.len() >= size(),
            ("maxProperties", Value::Object(object)) => object.len() <= size(),
            ("propertyNames", Value::Object(object)) => {
                let names = object.keys().map(|name| Value::from(name.as_str()));
                faults.extend(names.flat_map(|name| self::faults(root, bound, &name)));
                true
            }
            ("patternProperties", Value::Object(object)) => {
                for (pattern, schema) in bound.as_object().unwrap() {
                    let own = object.iter().filter(|(name, _)| is_match(pattern, name));
                    faults.extend(own.flat_map(|(_, field)| self::faults(root, schema, field)));
                }
                true
            }
            ("required", Value::Object(object)) => {
                bound.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
            }
            ("properties", Value::Object(object)) => {
                let known = object.iter().filter_map(|(name, field)| Some((bound.get(name)?, field)));
                faults.extend(known.flat_map(|(schema, field)| self::faults(root, schema, field)));
                true
            }
            ("additionalProperties", Value::Object(object)) => {
                let known = schema.get("properties");
                let is_known = |name: &String| known.is_some_and(|known| known.get(name).is_some());
                let others = object.iter().filter(|(name, _)| !is_known(name));
                match bound {
                    Value::Bool(allowed) => *allowed || others.count() == 0,
                    bound => {
                        faults.extend(others.flat_map(|(_, field)| self::faults(root, bound, field)));
                        true
                    }
                }
            }
            ("dependentRequired", Value::Object(object)) => {
                let there = bound.as_object().unwrap().iter().filter(|(name, _)| object.contains_key(*name));
                let mut needed = there.flat_map(|(_, names)| names.as_array().unwrap());
                needed.all(|name| object.contains_key(name.as_str().unwrap()))
            }
            ("unevaluatedProperties", Value::Object(object)) if *bound == false => {
                let parts = schema["allOf"].as_array().into_iter().flatten().chain([schema]);
                let known: Vec<&Value> = parts.filter_map(|part| part.get("properties")).collect();
                object.keys().all(|name| known.iter().any(|known| known.get(name).is_some()))
            }
            ("unevaluatedProperties" | "dependentRequired", _) => true,
            ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf", _) => true,
            ("minLength" | "maxLength" | "pattern" | "format", _) => true,
            ("minItems" | "maxItems" | "items" | "prefixItems", _) => true,
            ("required" | "properties" | "additionalProperties", _) => true,
            ("description" | "contentMediaType" | "contentSchema" | "title" | "default" | "examples", _) => true,
            ("$schema" | "$defs" | "definitions" | "deprecated" | "readOnly" | "writeOnly" | "nullable", _) => true,
            ("uniqueItems" | "additionalItems" | "minProperties" | "maxProperties", _) => true,
            ("propertyNames" | "patternProperties" | "discriminator" | "contentEncoding", _) => true,
            ("$id" | "$anchor" | "propertyOrdering", _) => true,
            (extension, _) if extension.starts_with("x-") => true,
            ("not", _) => !self::faults(root, bound, value).is_empty(),
            _ => panic!("{keyword} is not checked"),
        };
        if !holds {
            faults.push(format!("{value} breaks {keyword} {bound}"));
        }
    }
    faults
}

/// What a reference leads to: a pointer, or the schema whose `$id` ends so, and an anchor in it.
fn target<'a>(root: &'a Value, reference: &str) -> &'a Value {
    let (address, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    let end = address.rsplit('/').next().unwrap();
    let is_named = |schema: &Value| schema["$id"].as_str().is_some_and(|id| id.rsplit('/').next() == Some(end));
    let document = if address.is_empty() { Some(root) } else { find(root, &is_named) };
    let pointer = percent_encoding::percent_decode_str(fragment).decode_utf8().unwrap();
    let found = document.and_then(|document| match &*pointer {
        "" => Some(document),
        pointer if pointer.starts_with('/') => {
            let is_there = |schema: &Value| schema.pointer(pointer).is_some();
            find(document, &is_there)?.pointer(pointer)
        }
        anchor => find(document, &|schema: &Value| schema["$anchor"] == anchor),
    });
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

/// The first value of which something is true, outer ones first.
fn find<'a>(value: &'a Value, is_it: &dyn Fn(&Value) -> bool) -> Option<&'a Value> {
    let parts: Vec<&Value> = match value {
        _ if is_it(value) => return Some(value),
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return None,
    };
    parts.into_iter().find_map(|part| find(part, is_it))
}

/// Whether two values are equal. In JSON 3 and 3.0 are the same number.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || one.is_number() && one.as_f64() == other.as_f64()
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// Whether a text matches an expression of ECMA-262. Look-aheads, which the library lacks, are
/// checked one by one where they begin an expression. One with others is zod's of a duration.
fn is_match(expression: &str, text: &str) -> bool {
    let matches = |expression: &str| {
        let expression = expression.replace("\\d", "[0-9]").replace("\\/", "/");
        regex::Regex::new(&expression).unwrap_or_else(|error| panic!("{error}")).is_match(text)
    };
    if let Some(rest) = expression.strip_prefix("^(?!^[-+.]*$)") {
        return text.chars().any(|c| c.is_ascii_digit()) && matches(&format!("^{rest}"));
    }
    if expression.contains("(?!.*W)") {
        return matches("^P([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+S)?)?$") && text.len() > 2 && !text.ends_with('T');
    }
    let mut rest = expression.strip_prefix('^').unwrap_or(expression);
    let heads = ["(?!\\.)", "(?!.*\\.\\.)", "(?=.*[A-Z])", "(?=.*\\d)", "(?=.{1,253}\\.?$)"];
    while let Some(head) = heads.iter().find(|head| rest.starts_with(**head)) {
        let is_wanted = head.starts_with("(?=");
        if matches(&format!("^{}", &head[3..head.len() - 1])) != is_wanted {
            return false;
        }
        rest = &rest[head.len()..];
    }
    matches(&if expression.starts_with('^') { format!("^{rest}") } else { expression.to_owned() })
}

/// Whether a text has a format. Unknown ones, as those of numbers, constrain nothing.
fn is_of_format(format: &str, text: &str) -> bool {
    let is_date = |text: &str| {
        let parts: Vec<u32> = text.split('-').filter_map(|part| part.parse().ok()).collect();
        let [year, month, day] = parts[..] else { return false };
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        text.len() == 10 && (1..=12).contains(&month) && (1..=days[month as usize - 1]).contains(&day)
    };
    let is_time = |text: &str| {
        let parts: Vec<u32> = text.trim_end_matches('Z').split(':').filter_map(|part| part.parse().ok()).collect();
        text.len() == 9 && text.ends_with('Z') && matches!(parts[..], [0..24, 0..60, 0..60])
    };
    let matches = |expression: &str| regex::Regex::new(expression).unwrap().is_match(text);
    match format {
        "date" => is_date(text),
        "time" => is_time(text),
        "date-time" => text.split_once('T').is_some_and(|(date, time)| is_date(date) && is_time(time)),
        "uuid" => matches("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
        "uuid4" => matches("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"),
        "email" => matches(r"^[^@\s]+@[^@\s.][^@\s]*\.[a-z]+$"),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "regex" => regex::Regex::new(text).is_ok(),
        "uri" => matches(r"^https?://[a-z0-9-]+(\.[a-z0-9-]+)+(/[A-Za-z0-9_-]*)*$"),
        "hostname" => matches(r"^[a-z0-9-]+(\.[a-z0-9-]+)+$"),
        "duration" => is_match("(?!.*W)", text),
        "base64" => text.len().is_multiple_of(4) && matches("^[A-Za-z0-9+/]*=*$"),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        _ => true,
    }
}
