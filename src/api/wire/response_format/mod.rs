//! `response_format`: a JSON Schema, or a skeleton with typed blanks, as a shape of answers.
//! Constraints that cannot be kept are errors. Out of scope: how many cells a shape takes.

mod budget;
mod combine;
mod keywords;
mod numbers;
mod path;
mod schema;
mod skeleton;
mod strings;
mod union;

use crate::api::error::ApiError;
use crate::engine::Format;
use budget::Budget;
use path::{PARAM, Path};
use serde_json::{Map, Value};

/// Reads OpenAI's `response_format`, or `{"type": "json_skeleton", "skeleton": ..}`.
pub(crate) fn read(format: Option<&Value>) -> Result<Format, ApiError> {
    let given = match format {
        None | Some(Value::Null) => return Ok(Format::Text),
        Some(given) => given,
    };
    let Value::Object(format) = given else {
        return Err(PARAM.invalid("give an object, as {\"type\": \"json_schema\", \"json_schema\": {..}}"));
    };
    budget::check_size(given)?;
    let only = |known: &[&str]| check_known(format, &[&["type"], known].concat(), &PARAM);
    let field = |name: &'static str| format.get(name).ok_or_else(|| PARAM.at(name).invalid("missing"));
    let mut budget = Budget::default();
    match format.get("type").and_then(Value::as_str) {
        Some("text") => {
            only(&[])?;
            Ok(Format::Text)
        }
        Some("json_object") => {
            only(&["schema"])?;
            let schema = format.get("schema").filter(|schema| !schema.is_null());
            let Some(schema) = schema else { return Ok(Format::Json) };
            Ok(Format::Shaped(schema::shape(schema, &PARAM.at("schema"), &mut budget)?))
        }
        Some("json_schema") => {
            only(&["json_schema"])?;
            let (wrapper, path) = (field("json_schema")?, PARAM.at("json_schema"));
            let wrapper = wrapper.as_object().ok_or_else(|| path.invalid("give an object with a schema"))?;
            check_known(wrapper, &["name", "description", "schema", "strict"], &path)?;
            let schema =
                wrapper.get("schema").ok_or_else(|| path.at("schema").invalid("missing; give a JSON Schema"))?;
            Ok(Format::Shaped(schema::shape(schema, &path.at("schema"), &mut budget)?))
        }
        Some("json_skeleton") => {
            only(&["skeleton"])?;
            Ok(Format::Shaped(skeleton::shape(field("skeleton")?, &PARAM.at("skeleton"), &mut budget)?))
        }
        Some(_) | None => {
            let message = "give \"text\", \"json_object\", \"json_schema\" or \"json_skeleton\"";
            Err(PARAM.at("type").invalid(message))
        }
    }
}

/// Refuses a key that is not known here, unless its value is null.
fn check_known(given: &Map<String, Value>, known: &[&str], path: &Path<'_>) -> Result<(), ApiError> {
    match given.iter().find(|(key, value)| !value.is_null() && !known.contains(&key.as_str())) {
        Some((unknown, _)) => Err(path.at(unknown).invalid(&format!("unknown here; known are {}", known.join(", ")))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}
