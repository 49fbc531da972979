//! The names that errors have for fields: those of the protocol, where JSON has others.

use crate::api::error::ApiError;

/// Names in JSON, and those of the same in the protocol's messages. A longer name stands before a
/// part of it.
const NAMES: [(&str, &str); 5] = [
    ("response_format.json_schema.schema", "json_schema"),
    ("response_format.skeleton", "json_skeleton"),
    ("response_format", "format"),
    ("messages", "chat.messages"),
    ("/v1/infill", "Infill"),
];

/// The error in the protocol's names.
pub(super) fn renamed(mut error: ApiError) -> ApiError {
    error.message = in_protocol(&error.message);
    error.param = error.param.as_deref().map(in_protocol);
    error
}

/// A text with the names of fields replaced where they are whole words.
fn in_protocol(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_start = !words.ends_with(|before: char| before.is_alphanumeric() || "._\"".contains(before));
        let named = NAMES.iter().filter(|_| is_start).find_map(|(json, own)| {
            let behind = rest.strip_prefix(json)?;
            let is_end = !behind.starts_with(|next: char| next.is_alphanumeric() || "_\"".contains(next));
            is_end.then_some((own, behind))
        });
        rest = match named {
            Some((own, behind)) => {
                words.push_str(own);
                behind
            }
            None => {
                words.push(first);
                &rest[first.len_utf8()..]
            }
        };
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_are_those_of_the_protocol() {
        for (json, own) in [
            ("response_format.json_schema.schema.properties.a: missing", "json_schema.properties.a: missing"),
            ("response_format.skeleton.a: <x> is none", "json_skeleton.a: <x> is none"),
            ("stop does not go with a response_format: it", "stop does not go with a format: it"),
            ("messages[3].role: \"messages\" is no role", "chat.messages[3].role: \"messages\" is no role"),
            ("messages", "chat.messages"),
            ("diffusion.steps: my_messages and messages_2 é", "diffusion.steps: my_messages and messages_2 é"),
        ] {
            assert_eq!(in_protocol(json), own);
        }
    }
}
