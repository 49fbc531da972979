//! `response_format`: a JSON Schema, or a skeleton with typed blanks, as a shape of answers.
//! Constraints that cannot be kept are errors. Out of scope: how many cells a shape takes.

mod alternatives;
mod budget;
mod combine;
mod decimal;
mod exclusive;
mod keywords;
mod numbers;
mod options;
mod path;
mod references;
mod schema;
mod skeleton;
mod strings;
#[cfg(test)]
mod tests;
mod union;

use crate::api::error::{ApiError, ApiResult};
use crate::engine::{Format, Shape};
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
        let message = "give an object, as {\"type\": \"json_schema\", \"json_schema\": {..}}";
        return Err(PARAM.refused(given, message));
    };
    budget::check_size(given, &PARAM)?;
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
            schema::format(schema, &PARAM.at("schema"), &mut budget)
        }
        Some("json_schema") => {
            only(&["json_schema"])?;
            let (wrapper, path) = (field("json_schema")?, PARAM.at("json_schema"));
            let wrapper = wrapper.as_object().ok_or_else(|| path.invalid("give an object with a schema"))?;
            check_known(wrapper, &["name", "description", "schema", "strict"], &path)?;
            let schema =
                wrapper.get("schema").ok_or_else(|| path.at("schema").invalid("missing; give a JSON Schema"))?;
            schema::format(schema, &path.at("schema"), &mut budget)
        }
        Some("json_skeleton") => {
            only(&["skeleton"])?;
            Ok(Format::Shaped(skeleton::shape(field("skeleton")?, &PARAM.at("skeleton"), &mut budget)?))
        }
        Some(_) | None => {
            const MESSAGE: &str = "give \"text\", \"json_object\", \"json_schema\" or \"json_skeleton\"";
            Err(match format.get("type") {
                Some(given) => PARAM.at("type").refused(given, MESSAGE),
                None => PARAM.at("type").invalid(&format!("missing; {MESSAGE}")),
            })
        }
    }
}

/// Reads a JSON Schema that is given as the field `field`.
pub(crate) fn of_schema(schema: &Value, field: &str) -> ApiResult<Format> {
    let path = Path::root(field);
    budget::check_size(schema, &path)?;
    schema::format(schema, &path, &mut Budget::default())
}

/// One of some texts, as they are, which are given as the field `field`.
pub(crate) fn of_texts(texts: Vec<String>, field: &str) -> ApiResult<Format> {
    Budget::default().options(&Path::root(field), &texts)?;
    Ok(Format::Shaped(Shape::OneOf(texts)))
}

/// Refuses a key that is not known here, unless its value is null.
fn check_known(given: &Map<String, Value>, known: &[&str], path: &Path<'_>) -> Result<(), ApiError> {
    match given.iter().find(|(key, value)| !value.is_null() && !known.contains(&key.as_str())) {
        Some((unknown, _)) => Err(path.at(unknown).invalid(&format!("unknown here; known are {}", known.join(", ")))),
        None => Ok(()),
    }
}
