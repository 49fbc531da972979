//! A conversation as chat templates see it: messages, calls of tools and their results, and the
//! tools that the model may call.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

/// The messages that an answer follows, and what the model may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// In order.
    pub messages: Vec<Message>,
    /// Tools in OpenAI's form, `{"type": "function", "function": {..}}`; empty offers none.
    pub tools: Vec<Value>,
    /// Whether a template that shows no tools will do all the same. Otherwise it is an error.
    pub tools_may_be_hidden: bool,
    /// What stands behind the last message.
    pub ending: Ending,
    /// Further variables of the template, by name.
    pub variables: Map<String, Value>,
}

/// What a chat template writes behind the text of the last message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The end of the message, and the start of the assistant's turn.
    #[default]
    Answer,
    /// The end of the message.
    Closed,
    /// Nothing, so that what follows goes on with the message.
    Open,
}

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize), serde(default))]
pub struct Message {
    /// `system`, `user`, `assistant`, or another role that the template knows. `developer` becomes
    /// `system` for a template that does not mention it.
    pub role: String,
    /// The text of the message.
    pub content: String,
    /// The name of who speaks, if it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The calls that the assistant made in this turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, serde(skip_deserializing))]
    pub tool_calls: Vec<ToolCall>,
    /// The call whose result this message is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message with a text alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// A call of a tool that the assistant made. Templates see OpenAI's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// The id that the result's message names.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments: an object, or the text that was given if that is no JSON.
    pub arguments: Value,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let function = json!({"name": self.name, "arguments": self.arguments});
        json!({"id": self.id, "type": "function", "function": function}).serialize(serializer)
    }
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}

impl Conversation {
    /// Bytes of the messages' texts.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.content.len()).sum()
    }

    /// Bytes of memory, about, that a chat template takes to write it: all its words, and what
    /// stands around each message.
    pub fn weight(&self) -> usize {
        const MESSAGE: usize = 1024;
        let of_call = |call: &ToolCall| MESSAGE + call.id.len() + call.name.len();
        let of_message = |message: &Message| {
            let names =
                message.name.as_ref().map_or(0, String::len) + message.tool_call_id.as_ref().map_or(0, String::len);
            let calls: usize = message.tool_calls.iter().map(of_call).sum();
            MESSAGE + message.role.len() + message.content.len() + names + calls
        };
        let variables: usize = self.variables.values().map(|value| value.to_string().len()).sum();
        self.messages.iter().map(of_message).sum::<usize>() + MESSAGE * self.tools.len() + variables
    }

    /// Whether a text of the conversation contains `part`.
    pub(super) fn says(&self, part: &str) -> bool {
        let in_call =
            |call: &ToolCall| call.id.contains(part) || call.name.contains(part) || value_says(&call.arguments, part);
        let in_message = |message: &Message| {
            let texts =
                [Some(&message.role), Some(&message.content), message.name.as_ref(), message.tool_call_id.as_ref()];
            texts.into_iter().flatten().any(|text| text.contains(part)) || message.tool_calls.iter().any(in_call)
        };
        let mut values = self.tools.iter().chain(self.variables.values());
        self.messages.iter().any(in_message) || values.any(|value| value_says(value, part))
    }

    /// A character that is in none of its texts; one of 65,534 for private use.
    pub(super) fn unused(&self) -> Option<char> {
        ('\u{f0000}'..='\u{ffffd}').find(|c| !self.says(c.encode_utf8(&mut [0; 4])))
    }

    /// The conversation with `from` replaced by `to` in each of its texts.
    pub(super) fn replace(&mut self, from: &str, to: &str) {
        for message in &mut self.messages {
            let Message { role, content, name, tool_calls, tool_call_id } = message;
            let calls = tool_calls.iter_mut().flat_map(|call| [&mut call.id, &mut call.name]);
            let texts = [Some(role), Some(content), name.as_mut(), tool_call_id.as_mut()];
            for text in texts.into_iter().flatten().chain(calls).filter(|text| text.contains(from)) {
                *text = text.replace(from, to);
            }
            tool_calls.iter_mut().for_each(|call| replace_in(&mut call.arguments, from, to));
        }
        let values = self.tools.iter_mut().chain(self.variables.values_mut());
        values.for_each(|value| replace_in(value, from, to));
    }
}

// the depth of values is bounded by their parser
fn value_says(value: &Value, part: &str) -> bool {
    match value {
        Value::String(text) => text.contains(part),
        Value::Array(values) => values.iter().any(|value| value_says(value, part)),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains(part) || value_says(value, part)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn replace_in(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => *text = text.replace(from, to),
        Value::Array(values) => values.iter_mut().for_each(|value| replace_in(value, from, to)),
        Value::Object(members) => {
            let all = std::mem::take(members).into_iter().map(|(name, mut value)| {
                replace_in(&mut value, from, to);
                (name.replace(from, to), value)
            });
            *members = all.collect::<Map<_, _>>();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
