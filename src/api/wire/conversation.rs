//! How a conversation is written by the model's chat template: the fields that vLLM has for it in
//! chat completions and in `/tokenize`.

use super::message::{self, MessageField};
use crate::api::error::{ApiError, ApiResult};
use crate::text::{Conversation, Ending, shown};
use serde_json::{Map, Value};

/// Variables of a template that have fields of their own.
const FIELDS: [&str; 5] = ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"];

/// What is given beside the messages.
#[derive(Debug, Default)]
pub(super) struct Rendering {
    pub(super) add_generation_prompt: Option<bool>,
    pub(super) continue_final_message: Option<bool>,
    pub(super) chat_template_kwargs: Option<Map<String, Value>>,
}

impl Rendering {
    /// The field that asks for something, if one does.
    pub(super) fn asked(&self) -> Option<&'static str> {
        let fields = [
            (self.add_generation_prompt == Some(false), "add_generation_prompt"),
            (self.continue_final_message == Some(true), "continue_final_message"),
            (self.chat_template_kwargs.as_ref().is_some_and(|given| !given.is_empty()), "chat_template_kwargs"),
        ];
        fields.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, field)| field)
    }

    /// The conversation of these messages, without tools.
    pub(super) fn conversation(self, messages: Vec<MessageField>) -> ApiResult<Conversation> {
        let ending = match (self.add_generation_prompt, self.continue_final_message) {
            (Some(true), Some(true)) => {
                const MESSAGE: &str = "continue_final_message: given true beside add_generation_prompt, which would \
                                       begin another message; leave one of the two out";
                return Err(ApiError::invalid("continue_final_message", MESSAGE));
            }
            (_, Some(true)) => Ending::Open,
            (Some(false), _) => Ending::Closed,
            (Some(true) | None, Some(false) | None) => Ending::Answer,
        };
        let variables = self.chat_template_kwargs.unwrap_or_default();
        if let Some(name) = variables.keys().find(|name| FIELDS.contains(&name.as_str())) {
            let param = format!("chat_template_kwargs.{}", shown(name));
            let message = format!("{param}: this is no argument of the template; give the field {name} of the request");
            return Err(ApiError::invalid(param, message));
        }
        let messages = messages.into_iter().map(message::read).collect();
        Ok(Conversation { messages, ending, variables, ..Conversation::default() })
    }
}
