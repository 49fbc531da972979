//! Formats that are read, and those that are not.

use super::decimal::is_same;
use super::read;
use crate::engine::{Format, Shape};
use serde_json::{Value, json};

fn refusal(schema: &Value) -> String {
    let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
    read(Some(&format)).unwrap_err().to_string()
}

#[test]
fn keys_that_are_null_ask_for_nothing() {
    for format in [
        json!({"type": "text", "json_schema": null}),
        json!({"type": "json_object", "json_schema": null, "schema": null}),
        json!({"type": "json_schema", "json_schema": {"schema": {"type": "boolean"}, "name": "a", "x": null}}),
    ] {
        assert!(read(Some(&format)).is_ok(), "{format}");
    }
    let unknown = json!({"type": "json_object", "json_schema": {}});
    let message = read(Some(&unknown)).unwrap_err().to_string();
    assert!(message.contains("json_schema: unknown here; known are type, schema"), "{message}");
}

#[test]
fn a_format_has_budgets_for_its_bytes_names_and_options() {
    let large = json!({"type": "string", "description": "x".repeat(200_000)});
    assert!(refusal(&large).contains("bytes; give at most 131072"), "{}", refusal(&large));

    // a long name behind many references: its text is counted each time
    let reference = json!({"$ref": "#/$defs/a"});
    let members: serde_json::Map<String, Value> = (0..1300).map(|at| (at.to_string(), reference.clone())).collect();
    let named = json!({"type": "object", "properties": {"x".repeat(1000): {"type": "boolean"}}});
    let message = refusal(&json!({"type": "object", "properties": members, "$defs": {"a": named}}));
    assert!(message.contains("at least 66122 bytes") && message.contains("give at most 65536"), "{message}");

    let long = json!({"type": "object", "properties": {"x".repeat(2000): {"type": "boolean"}}});
    assert!(refusal(&long).contains("a name of 2000 bytes; give at most 1024"));

    let options: Vec<usize> = (0..1001).collect();
    assert!(refusal(&json!({"enum": options})).contains("has 1001 options; give at most 1000"));
    let half = json!({"enum": (0..600).collect::<Vec<usize>>()});
    let message = refusal(&json!({"type": "array", "prefixItems": [half, half]}));
    assert!(message.contains("1200 options"), "{message}");
}

/// Whether an answer of this format can be `value`.
fn can_be(format: &Format, value: &Value) -> bool {
    match format {
        Format::Shaped(shape) => spells(shape, value),
        Format::Json => value.is_object(),
        Format::Text => false,
    }
}

fn spells(shape: &Shape, value: &Value) -> bool {
    let is_value = |json: &String| is_same(&serde_json::from_str(json).unwrap(), value);
    let length = |least: usize, most: Option<usize>| {
        let has_length = |text: &str| (least..=most.unwrap_or(usize::MAX)).contains(&text.chars().count());
        value.as_str().is_some_and(has_length)
    };
    match shape {
        Shape::Constant(json) => is_value(json),
        Shape::OneOf(options) => options.iter().any(is_value),
        Shape::Text { least, characters, .. } => length(*least, *characters),
        Shape::Pattern { pattern, least, characters, .. } => {
            length(*least, *characters) && pattern.holds(value.as_str().unwrap())
        }
        Shape::Number { is_whole, is_signed, digits, .. } => {
            let is_short = |number: f64| digits.is_none_or(|digits| number.abs() < 10_f64.powi(digits as i32));
            let is_allowed =
                |number: f64| (!is_whole || number.fract() == 0.0) && (*is_signed || number >= 0.0) && is_short(number);
            value.as_f64().is_some_and(is_allowed)
        }
        // with any number of decimals, and spaces before it
        Shape::Range(pattern) => (0..=14).any(|decimals| {
            let text = match value.as_number().filter(|number| number.is_f64()) {
                Some(number) => format!("{:.decimals$}", number.as_f64().unwrap()),
                None if decimals == 0 => value.to_string(),
                None => format!("{value}.{:0decimals$}", 0),
            };
            let is_exact = text.parse::<f64>().ok() == value.as_f64();
            is_exact && pattern.holds(&format!("{text:>width$}", width = pattern.lengths().1))
        }),
        Shape::List { items, least, .. } => value.as_array().is_some_and(|values| {
            let all_spelled = items.iter().zip(values).all(|(item, value)| spells(item, value));
            (*least..=items.len()).contains(&values.len()) && all_spelled
        }),
        Shape::Map { members, least } => value.as_object().is_some_and(|values| {
            let is_member = |((name, value), (own, found)): (&(Shape, Shape), (&String, &Value))| {
                spells(name, &json!(own)) && spells(value, found)
            };
            (*least..=members.len()).contains(&values.len()) && members.iter().zip(values).all(is_member)
        }),
        Shape::Either(shapes) => shapes.iter().any(|shape| spells(shape, value)),
        Shape::Object(members) => value.as_object().is_some_and(|values| {
            let is_member = |((name, shape), (own, value)): (&(String, Shape), (&String, &Value))| {
                name == own && spells(shape, value)
            };
            values.len() == members.len() && members.iter().zip(values).all(is_member)
        }),
    }
}

/// `tests/schemas.rs` checks that what is written keeps the same schemas.
#[test]
fn the_schemas_of_generators_are_read_as_they_are_meant() {
    let mut wrong = Vec::new();
    for row in include_str!("../../../../tests/data/schemas.jsonl").lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        let format = json!({"type": "json_schema", "json_schema": {"schema": row["schema"]}});
        let name = &row["name"];
        match (read(Some(&format)), row.get("answer"), row["because"].as_str()) {
            (Ok(format), Some(answer), _) if !can_be(&format, answer) => {
                wrong.push(format!("{name}: {answer} cannot be written: {format:?}"));
            }
            (Err(error), Some(_), _) => wrong.push(format!("{name}: refused: {error}")),
            (Err(error), _, Some(because)) if !error.message.contains(because) => {
                wrong.push(format!("{name}: {error} lacks {because}"));
            }
            (Ok(_), _, Some(_)) => wrong.push(format!("{name}: not refused")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_alternatives_of_one_of_are_compared_within_a_budget() {
    let tagged = |count: usize| -> Value {
        let one = |at: usize| json!({"type": "object", "properties": {"k": {"const": at}}, "required": ["k"]});
        json!({"oneOf": (0..count).map(one).collect::<Vec<_>>()})
    };
    let format = |schema: Value| json!({"type": "json_schema", "json_schema": {"schema": schema}});
    assert!(read(Some(&format(tagged(100)))).is_ok());
    assert!(refusal(&tagged(400)).contains("oneOf: too many alternatives to compare each with each; give fewer"));
    let described: Vec<Value> = (0..1000).map(|at| json!({"const": at, "title": "one"})).collect();
    assert!(read(Some(&format(json!({"oneOf": described})))).is_ok());
}
