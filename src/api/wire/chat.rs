//! The body of `POST /v1/chat/completions`.

use super::common::{self, body};
use super::conversation::Rendering;
use super::diffusion::Diffusion;
use super::field;
use super::message::MessageField;
use super::neutral;
use super::params::{CompletionParams, missing};
use super::tools::{self, ToolUse};
use crate::api::error::ApiError;
use crate::api::schema;
use crate::diffusion::TokenId;
use crate::engine::{Length, Prompt, Request, Task};
use crate::text::Conversation;
use serde_json::{Map, Value};

body! {
    /// OpenAI's chat completion request, with `diffusion`.
    ChatRequest, ChatFields, CHAT {
        /// The conversation, rendered with the model's own chat template.
        #[schema(required, nullable = false, min_items = 1)]
        messages: Option<Vec<MessageField>>,
        /// Default: the model's own, else the room on its canvas.
        #[serde(default, deserialize_with = "field::new_tokens")]
        #[schema(schema_with = schema::new_tokens)]
        max_completion_tokens: Option<u32>,
        /// OpenAI's older name for the same.
        #[serde(default, deserialize_with = "field::new_tokens")]
        #[schema(schema_with = schema::new_tokens)]
        max_tokens: Option<u32>,
        /// Return the log-probability of each generated token.
        logprobs: Option<bool>,
        /// Functions that the model may call.
        #[schema(schema_with = schema::tools)]
        tools: Option<Value>,
        /// Whether it calls one: `none`, `auto` (the default), `required`, or the function's name.
        #[schema(schema_with = schema::tool_choice)]
        tool_choice: Option<Value>,
        /// vLLM's: begin the assistant's turn; default true.
        add_generation_prompt: Option<bool>,
        /// vLLM's: go on with the last message in place of answering it; default false.
        continue_final_message: Option<bool>,
        /// vLLM's: variables of the model's chat template.
        #[schema(value_type = Option<Object>)]
        chat_template_kwargs: Option<Map<String, Value>>,
    }
}

impl ChatFields {
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
        let Self { add_generation_prompt, continue_final_message, chat_template_kwargs, .. } = self;
        let rendering = Rendering { add_generation_prompt, continue_final_message, chat_template_kwargs };
        let conversation = rendering.conversation(messages)?;
        let ToolUse { shown, call } = tools::read(self.tools, self.tool_choice.as_ref())?;
        if call.is_some() && !common.request.stop.is_empty() {
            const MESSAGE: &str = "stop does not go with a call of a tool, which ends where its arguments do";
            return Err(ApiError::invalid("stop", MESSAGE));
        }
        // the name and the keys of a call that must be made stand on the canvas
        let conversation = Conversation { tools: shown, tools_may_be_hidden: call.is_some(), ..conversation };
        let task = Task::Continue { prompt: Prompt::Chat(conversation), length };
        let params = common.params(vec![task], self.logprobs == Some(true), Vec::new())?;
        let length_field = self.max_completion_tokens.map(|_| "max_completion_tokens");
        Ok(CompletionParams { call, length_field, ..params })
    }
}
