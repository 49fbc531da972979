//! One message of a chat, as clients write it and as they send an answer back.

use super::forms::{self, Fault};
use super::neutral::{self, Neutral, Screened, Tables};
use crate::api::schema::{self, SchemaRef};
use crate::text::{Message, ToolCall};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::{PartialSchema, ToSchema};

pub(super) type MessageField = Screened<MessageFields>;

/// One message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with role and content")]
#[schema(as = Message)]
pub(super) struct MessageFields {
    /// `system`, `user`, `assistant`, `tool`, or another role of the model's template. `developer`
    /// is `system` unless the template knows it. Others are refused.
    role: String,
    content: Option<Content>,
    /// Who speaks; for templates that show it.
    name: Option<String>,
    /// In an answer that is sent back: what the assistant refused with.
    refusal: Option<String>,
    /// The calls that the assistant made. The model's template must have a place for them.
    tool_calls: Option<Vec<ToolCallField>>,
    /// The call whose result this message is.
    tool_call_id: Option<String>,
}

impl Tables for MessageFields {
    const TABLES: &'static [&'static [Neutral]] = &[neutral::MESSAGE];
}

type ToolCallField = Screened<ToolCallFields>;

/// A call of a tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with id, type and function")]
#[schema(as = ToolCall)]
pub(super) struct ToolCallFields {
    id: Option<String>,
    #[serde(rename = "type")]
    _kind: Option<CallKind>,
    function: CalledFunction,
}

impl Tables for ToolCallFields {
    const TABLES: &'static [&'static [Neutral]] = &[neutral::TOOL_CALL];
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CallKind {
    Function,
}

type CalledFunction = Screened<CalledFunctionFields>;

/// The function of a call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with name and arguments")]
#[schema(as = CalledFunction)]
pub(super) struct CalledFunctionFields {
    name: String,
    /// An object in JSON, as a text.
    #[schema(value_type = Option<String>)]
    arguments: Option<Value>,
}

impl Tables for CalledFunctionFields {
    const TABLES: &'static [&'static [Neutral]] = &[neutral::CALLED_FUNCTION];
}

#[derive(Debug)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let part = |part: Value| ContentPart::deserialize(&part).map_err(|_| Fault::of(&part));
        forms::field(input, "give a text, or an array of {\"type\": \"text\", \"text\": ..}", |value| match value {
            Value::Array(parts) => forms::list(parts, part).map(Self::Parts),
            one => forms::text(one).map(Self::Text),
        })
    }
}

impl ToSchema for Content {}

impl PartialSchema for Content {
    fn schema() -> SchemaRef {
        schema::either([schema::text(0), schema::list(ContentPart::schema(), 0, None)])
    }
}

/// A part of a content; the Responses API has other names for a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentPart {
    #[serde(alias = "input_text", alias = "output_text")]
    Text {
        text: String,
    },
    Refusal {
        refusal: String,
    },
}

/// The message for the model's template.
pub(super) fn read(Screened(message): MessageField) -> Message {
    let part = |part| match part {
        ContentPart::Text { text } | ContentPart::Refusal { refusal: text } => text,
    };
    let content = match message.content {
        None => message.refusal.unwrap_or_default(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => parts.into_iter().map(part).collect(),
    };
    let call = |(index, Screened(call)): (usize, ToolCallField)| {
        let Screened(function) = call.function;
        let arguments = match function.arguments.unwrap_or(Value::Null) {
            // templates expect an object, as transformers gives them
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(Value::Object(arguments)) => Value::Object(arguments),
                Ok(_) | Err(_) => Value::String(text),
            },
            given => given,
        };
        ToolCall { id: call.id.unwrap_or_else(|| format!("call_{index}")), name: function.name, arguments }
    };
    Message {
        role: message.role,
        content,
        name: message.name,
        tool_calls: message.tool_calls.into_iter().flatten().enumerate().map(call).collect(),
        tool_call_id: message.tool_call_id,
    }
}
