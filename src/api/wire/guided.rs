//! The fields in which clients of vLLM, SGLang and llama.cpp give the format of an answer, beside
//! OpenAI's `response_format`: JSON Schemas, and lists of texts.

use super::field::shown;
use super::response_format;
use crate::api::error::{ApiError, ApiResult};
use crate::engine::Format;
use serde_json::{Map, Value};

const RESPONSE_FORMAT: &str = "response_format";
/// The members of `structured_outputs`, as errors name them.
const JSON: &str = "structured_outputs.json";
const CHOICE: &str = "structured_outputs.choice";
const OBJECT: &str = "structured_outputs.json_object";

/// What to do in place of a regular expression or a grammar.
pub(super) const NO_REGEX: &str =
    "in its place give response_format with a JSON Schema: a pattern is kept in a string of JSON";
pub(super) const NO_GRAMMAR: &str =
    "in its place give response_format with a JSON Schema, or the allowed texts as guided_choice";

/// The fields as they are given.
#[derive(Debug, Default)]
pub(super) struct FormatFields {
    pub(super) response_format: Option<Value>,
    pub(super) guided_json: Option<Value>,
    pub(super) guided_choice: Option<Value>,
    pub(super) structured_outputs: Option<Value>,
    pub(super) json_schema: Option<Value>,
}

/// The format of an answer, and the field that gives it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) format: Format,
    /// `None`: `response_format`, or none at all.
    pub(super) field: Option<&'static str>,
}

impl FormatFields {
    pub(super) fn read(self) -> ApiResult<Given> {
        let members = match self.structured_outputs.filter(asks_for_something) {
            None => [None, None, None],
            Some(Value::Object(given)) => members(given)?,
            Some(given) => {
                let message = "give an object with one of json, choice and json_object";
                return Err(refused("structured_outputs", &given, message));
            }
        };
        let [json, choice, object] = members;
        let object = object.filter(|object| *object != Value::Bool(false));
        type Reader = fn(&Value, &'static str) -> ApiResult<Format>;
        let fields: [(&'static str, Option<Value>, Reader); 6] = [
            ("guided_json", self.guided_json, schema),
            ("json_schema", self.json_schema, schema),
            ("guided_choice", self.guided_choice, choices),
            (JSON, json, schema),
            (CHOICE, choice, choices),
            (OBJECT, object, any_object),
        ];
        let mut given = Given { format: response_format::read(self.response_format.as_ref())?, field: None };
        let mut first = (given.format != Format::Text).then_some(RESPONSE_FORMAT);
        for (field, value, read) in fields {
            let Some(value) = value.filter(asks_for_something) else { continue };
            if let Some(other) = first {
                return Err(invalid(field, &format!("given beside {other}; give one of the two")));
            }
            first = Some(field);
            given = Given { format: read(&value, field)?, field: Some(field) };
        }
        Ok(given)
    }
}

/// Null and what is empty are none.
fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// `json`, `choice` and `json_object` of `structured_outputs`.
fn members(mut given: Map<String, Value>) -> ApiResult<[Option<Value>; 3]> {
    let own = ["json", "choice", "json_object"].map(|name| given.remove(name));
    for (name, value) in given.iter().filter(|(_, value)| asks_for_something(value)) {
        let field = format!("structured_outputs.{}", crate::text::shown(name));
        let message = match name.as_str() {
            // how vLLM keeps a format, not what it allows
            "disable_fallback" | "disable_any_whitespace" | "disable_additional_properties" => continue,
            "regex" => format!("this is not supported; {NO_REGEX}"),
            "grammar" | "structural_tag" => format!("this is not supported; {NO_GRAMMAR}"),
            "whitespace_pattern" => "the spaces of an answer are fixed; leave it out".to_owned(),
            _ => "unknown here; give one of json, choice and json_object".to_owned(),
        };
        return Err(refused(&field, value, &message));
    }
    Ok(own)
}

/// A JSON Schema, or a text of one.
fn schema(given: &Value, field: &'static str) -> ApiResult<Format> {
    let Value::String(text) = given else { return response_format::of_schema(given, field) };
    let wrong = |error| invalid(field, &format!("this text is no JSON Schema: {error}"));
    response_format::of_schema(&serde_json::from_str(text).map_err(wrong)?, field)
}

/// The texts of which the answer is one.
fn choices(given: &Value, field: &'static str) -> ApiResult<Format> {
    const ALLOWED: &str = "give an array of texts that are not empty";
    let Value::Array(items) = given else { return Err(refused(field, given, ALLOWED)) };
    let text = |item: &Value| match item.as_str().filter(|text| !text.is_empty()) {
        Some(text) => Ok(text.to_owned()),
        None => Err(refused(field, item, ALLOWED)),
    };
    response_format::of_texts(items.iter().map(text).collect::<ApiResult<_>>()?, field)
}

fn any_object(given: &Value, field: &'static str) -> ApiResult<Format> {
    match given {
        Value::Bool(true) => Ok(Format::Json),
        given => Err(refused(field, given, "give true or false")),
    }
}

fn refused(field: &str, given: &Value, message: &str) -> ApiError {
    invalid(field, &format!("given {}; {message}", shown(given)))
}

fn invalid(field: &str, message: &str) -> ApiError {
    ApiError::invalid(field, format!("{field}: {message}"))
}
