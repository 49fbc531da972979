//! The body of `POST /v1/chat/completions`.

use super::common::{self, body};
use super::diffusion::Diffusion;
use super::field;
use super::params::{CompletionParams, missing};
use crate::api::error::ApiError;
use crate::api::schema::{self, SchemaRef};
use crate::diffusion::TokenId;
use crate::engine::{Length, Prompt, Request, Task};
use crate::text::Message;
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::{PartialSchema, ToSchema};

body! {
    /// OpenAI's chat completion request, with `diffusion`.
    ChatRequest {
        /// The conversation, rendered with the model's own chat template.
        #[schema(required, nullable = false, min_items = 1)]
        messages: Option<Vec<MessageField>>,
        /// Default: the model's own, else the room on its canvas.
        #[serde(default, deserialize_with = "field::count")]
        #[schema(minimum = 1, maximum = 4294967295_u32)]
        max_completion_tokens: Option<u32>,
        /// OpenAI's older name for the same.
        #[serde(default, deserialize_with = "field::count")]
        #[schema(minimum = 1, maximum = 4294967295_u32)]
        max_tokens: Option<u32>,
        /// Return the log-probability of each generated token.
        logprobs: Option<bool>,
        #[serde(default, rename = "top_logprobs", deserialize_with = "field::zero")]
        #[schema(schema_with = schema::zero)]
        _top_logprobs: (),
        #[serde(default, rename = "modalities", deserialize_with = "field::text_only")]
        #[schema(schema_with = schema::text_only)]
        _modalities: (),
        #[serde(rename = "reasoning_effort")]
        #[schema(schema_with = schema::ignored)]
        _reasoning_effort: Option<IgnoredAny>,
        #[serde(rename = "verbosity")]
        #[schema(schema_with = schema::ignored)]
        _verbosity: Option<IgnoredAny>,
    }
}

/// One message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with role and content")]
#[schema(as = Message)]
struct MessageField {
    /// A role that the model's template knows: `system`, `user`, `assistant`.
    role: String,
    content: Option<Content>,
    #[serde(rename = "name")]
    #[schema(schema_with = schema::ignored)]
    _name: Option<IgnoredAny>,
    #[serde(default, rename = "refusal", deserialize_with = "field::unsupported")]
    #[schema(schema_with = schema::unsupported)]
    _refusal: (),
    #[serde(default, rename = "tool_calls", deserialize_with = "field::nothing")]
    #[schema(schema_with = schema::nothing)]
    _tool_calls: (),
    #[serde(default, rename = "tool_call_id", deserialize_with = "field::unsupported")]
    #[schema(schema_with = schema::unsupported)]
    _tool_call_id: (),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "give a text, or an array of {\"type\": \"text\", \"text\": ..}")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

impl ToSchema for Content {}

impl PartialSchema for Content {
    fn schema() -> SchemaRef {
        schema::either([schema::text(0), schema::list(ContentPart::schema(), 0, None)])
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ContentPart {
    Text { text: String },
}

impl ChatRequest {
    pub(crate) fn read(mut self) -> Result<CompletionParams, ApiError> {
        let common = self.common();
        let messages = self.messages.ok_or_else(|| missing("messages", "an array of {\"role\", \"content\"}"))?;
        let length = match (self.max_completion_tokens, self.max_tokens) {
            (Some(one), Some(other)) if one != other => {
                let given = format!("given {other}, and {one} as max_completion_tokens");
                return Err(ApiError::invalid("max_tokens", format!("max_tokens: {given}; give one of the two")));
            }
            (one, other) => one.or(other).map_or(Length::Default, |max| Length::New(max as usize)),
        };
        let messages: Vec<Message> = messages.into_iter().map(MessageField::read).collect();
        let task = Task::Continue { prompt: Prompt::Chat(messages.into()), length };
        common.params(vec![task], self.logprobs == Some(true), Vec::new())
    }
}

impl MessageField {
    fn read(self) -> Message {
        let content = match self.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().map(|ContentPart::Text { text }| text).collect(),
        };
        Message::new(self.role, content)
    }
}
