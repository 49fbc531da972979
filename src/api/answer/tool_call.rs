//! Calls of tools in the assistant's messages, whole and in chunks.

use serde::Serialize;
use std::ops::Range;
use utoipa::ToSchema;

/// A call of a function. In a stream, the first piece has id and name, the last the arguments.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ToolCallAnswer)]
pub(crate) struct ToolCall<'a> {
    /// Only in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Always `function`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[schema(inline)]
    function: Called<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Called<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// An object in JSON.
    arguments: &'a str,
}

impl<'a> ToolCall<'a> {
    pub(crate) fn whole(id: String, name: &'a str, json: &'a str) -> Self {
        let function = Called { name: Some(name), arguments: arguments(json) };
        Self { index: None, id: Some(id), kind: Some("function"), function }
    }

    pub(crate) fn opening(id: String, name: &'a str) -> Self {
        let function = Called { name: Some(name), arguments: "" };
        Self { index: Some(0), id: Some(id), kind: Some("function"), function }
    }

    pub(crate) fn last(json: &'a str) -> Self {
        Self { index: Some(0), id: None, kind: None, function: Called { name: None, arguments: arguments(json) } }
    }
}

fn arguments(json: &str) -> &str {
    json.get(arguments_in(json)).filter(|arguments| !arguments.is_empty()).unwrap_or("{}")
}

/// The bytes of the arguments in a call as the engine writes it: `{"name": .., "arguments": ..}`.
pub(crate) fn arguments_in(json: &str) -> Range<usize> {
    let mut names =
        serde_json::Deserializer::from_str(json.strip_prefix("{\"name\":").unwrap_or(json)).into_iter::<String>();
    let after = names.next().and_then(Result::ok).map_or(0, |_| names.byte_offset());
    let rest = json.strip_prefix("{\"name\":").and_then(|rest| rest.get(after..));
    let arguments = rest.and_then(|rest| rest.split_once(':')).and_then(|(_, rest)| rest.strip_suffix('}'));
    arguments.map_or(0..0, |arguments| {
        let start = json.len() - 1 - arguments.trim_start().len();
        start..start + arguments.trim().len()
    })
}

/// The name in an object `{"name": ..}`.
pub(crate) fn chosen(json: &str) -> Option<String> {
    let object: serde_json::Value = serde_json::from_str(json).ok()?;
    object.get("name")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_call_are_taken_as_they_are_written() {
        for (json, expected) in [
            (
                r#"{"name": "f", "arguments": {"a": 12345678901234567890123, "b": "}"}}"#,
                r#"{"a": 12345678901234567890123, "b": "}"}"#,
            ),
            (r#"{"name": "\"arguments\": {", "arguments": {}}"#, "{}"),
            (r#"{"name": "arguments", "arguments": {"name": "x"}}"#, r#"{"name": "x"}"#),
        ] {
            assert_eq!(arguments(json), expected, "{json}");
        }
        assert_eq!(chosen(r#"{"name": "f"}"#).as_deref(), Some("f"));
    }
}
