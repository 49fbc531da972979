//! The part of JSON Schema that the server's document uses. An unknown keyword is a failure.

use serde_json::Value;

/// All faults of `value` by `schema`, whose references lead into `root`.
pub fn faults(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for (keyword, bound) in schema.as_object().unwrap_or_else(|| panic!("{schema} is no schema")) {
        let number = || bound.as_f64().unwrap();
        let size = || usize::try_from(bound.as_u64().unwrap()).unwrap();
        let holds = match (keyword.as_str(), value) {
            ("$ref", _) => {
                let pointer = bound.as_str().unwrap().strip_prefix('#').unwrap();
                let schema = root.pointer(pointer).unwrap_or_else(|| panic!("{bound} leads nowhere"));
                faults.extend(self::faults(root, schema, value));
                true
            }
            ("type", _) => match bound {
                Value::Array(types) => types.iter().any(|one| is_a(one, value)),
                one => is_a(one, value),
            },
            ("enum", _) => bound.as_array().unwrap().contains(value),
            ("oneOf", _) => {
                let fits = |schema: &&Value| self::faults(root, schema, value).is_empty();
                bound.as_array().unwrap().iter().filter(fits).count() == 1
            }
            ("anyOf", _) => bound.as_array().unwrap().iter().any(|schema| self::faults(root, schema, value).is_empty()),
            ("minimum", Value::Number(given)) => given.as_f64().unwrap() >= number(),
            ("maximum", Value::Number(given)) => given.as_f64().unwrap() <= number(),
            ("exclusiveMinimum", Value::Number(given)) => given.as_f64().unwrap() > number(),
            ("minLength", Value::String(given)) => given.chars().count() >= size(),
            ("minItems", Value::Array(items)) => items.len() >= size(),
            ("maxItems", Value::Array(items)) => items.len() <= size(),
            ("items", Value::Array(items)) => {
                faults.extend(items.iter().flat_map(|item| self::faults(root, bound, item)));
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
            ("minimum" | "maximum" | "exclusiveMinimum" | "minLength" | "minItems" | "maxItems" | "items", _) => true,
            ("required" | "properties" | "additionalProperties", _) => true,
            ("description" | "format" | "contentMediaType" | "contentSchema", _) => true,
            // these are in schemas of requests only, which the server checks
            ("propertyNames" | "pattern", _) => true,
            _ => panic!("{keyword} is not checked"),
        };
        if !holds {
            faults.push(format!("{value} breaks {keyword} {bound}"));
        }
    }
    faults
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
