//! The bodies of `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use super::conversation::Rendering;
use super::field::Id;
use super::message::MessageField;
use super::neutral::{self, Neutral, Screened, Tables};
use super::params::missing;
use super::tools;
use crate::api::error::{ApiError, ApiResult};
use crate::api::schema;
use crate::text::Conversation;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub(crate) type TokenizeRequest = Screened<TokenizeFields>;

/// A text or a conversation to tokenize: `prompt` or `messages`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
#[schema(as = TokenizeRequest)]
pub(crate) struct TokenizeFields {
    /// A name listed by `/v1/models`; default, also where it is empty: the first one there.
    pub(crate) model: Option<String>,
    /// A text.
    prompt: Option<String>,
    /// llama.cpp's name for `prompt`.
    content: Option<String>,
    /// A conversation, rendered with the model's own chat template.
    #[schema(min_items = 1)]
    messages: Option<Vec<MessageField>>,
    /// With `messages`: the functions that the template shows.
    #[schema(schema_with = schema::tools)]
    tools: Option<Value>,
    /// With `messages`: end with the start of the assistant's turn; default true.
    add_generation_prompt: Option<bool>,
    /// With `messages`: end with the last message's text, without its end; default false.
    continue_final_message: Option<bool>,
    /// With `messages`: variables of the chat template.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Also return the text of each token; default false.
    pub(crate) return_token_strs: Option<bool>,
}

impl Tables for TokenizeFields {
    const TABLES: &'static [&'static [Neutral]] = &[neutral::TOKENIZE];
}

/// What is to be tokenized.
pub(crate) enum Given {
    Text { text: String, field: &'static str },
    Chat(Conversation),
}

fn beside(field: &'static str, other: &str) -> ApiError {
    ApiError::invalid(field, format!("{field}: given beside {other}; give one of the two"))
}

impl TokenizeFields {
    pub(crate) fn read(self) -> ApiResult<Given> {
        let Self { add_generation_prompt, continue_final_message, chat_template_kwargs, .. } = self;
        let rendering = Rendering { add_generation_prompt, continue_final_message, chat_template_kwargs };
        let tools = tools::read(self.tools, None)?.shown;
        let prompt = match (self.prompt, self.content) {
            (Some(_), Some(_)) => return Err(beside("content", "prompt")),
            (prompt, None) => prompt.map(|text| ("prompt", text)),
            (None, content) => content.map(|text| ("content", text)),
        };
        match (prompt, self.messages) {
            (Some((field, _)), Some(_)) => Err(beside(field, "messages")),
            (None, None) => Err(missing("prompt", "a string, or messages in its place")),
            (Some((own, text)), None) => match rendering.asked().or((!tools.is_empty()).then_some("tools")) {
                None => Ok(Given::Text { text, field: own }),
                Some(field) => {
                    let message = format!("{field} goes with messages, not with {own}; give messages, or leave it out");
                    Err(ApiError::invalid(field, message))
                }
            },
            (None, Some(messages)) => {
                // a call that must be made needs no template that shows it
                let conversation = rendering.conversation(messages)?;
                Ok(Given::Chat(Conversation { tools, tools_may_be_hidden: true, ..conversation }))
            }
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct DetokenizeRequest {
    /// A name listed by `/v1/models`; default, also where it is empty: the first one there.
    pub(crate) model: Option<String>,
    /// Token ids.
    #[schema(schema_with = schema::tokens, required)]
    pub(crate) tokens: Option<Vec<Id>>,
}
