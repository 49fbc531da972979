//! Renders conversations with the model's Jinja template, exactly as Hugging Face transformers.

use super::error::TextError;
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};

/// Most instructions that a template may execute: enough for thousands of messages.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat_template";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
pub struct Message {
    /// `system`, `user`, `assistant`, or another role that the template knows.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// The keys of `tokenizer_config.json` that a template may use.
#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<String>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

/// A special token, as a string or as an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Described { content: String },
}

impl ChatTemplate {
    /// The template of a `tokenizer_config.json`; `None` if it has none.
    ///
    /// # Errors
    /// When the file is not JSON of the expected shape, or the template is not Jinja.
    pub fn from_config(json: &[u8]) -> Result<Option<Self>, TextError> {
        let failed = |error: &dyn std::fmt::Display| TextError::Template(error.to_string());
        let config: TokenizerConfig = serde_json::from_slice(json).map_err(|error| failed(&error))?;
        let Some(template) = config.chat_template else { return Ok(None) };
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|error| failed(&error))?,
        );
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("trim", trim);
        environment.add_template_owned(NAME, template).map_err(|error| failed(&error))?;
        let text = |token: Option<SpecialToken>| match token {
            Some(SpecialToken::Text(content) | SpecialToken::Described { content }) => content,
            None => String::new(),
        };
        let (bos_token, eos_token) = (text(config.bos_token), text(config.eos_token));
        Ok(Some(Self { environment, bos_token, eos_token }))
    }

    /// The conversation as text, with the names of special tokens. `add_generation_prompt` adds the
    /// start of the assistant's turn.
    ///
    /// # Errors
    /// When the template rejects the conversation or executes too many instructions.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TextError> {
        let Self { environment, bos_token, eos_token } = self;
        let failed = |error: minijinja::Error| TextError::Template(error.to_string());
        let template = environment.get_template(NAME).map_err(failed)?;
        template
            .render(context! { messages => Serde(messages), add_generation_prompt, bos_token, eos_token })
            .map_err(failed)
    }
}

/// Jinja's `trim` with Python's definition of white space: Unicode's, and U+001C to U+001F.
#[allow(clippy::needless_pass_by_value)] // minijinja's calling convention
fn trim(text: String, characters: Option<String>) -> String {
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let trimmed = match characters {
        None => text.trim_matches(is_space),
        Some(characters) => text.trim_matches(|c| characters.contains(c)),
    };
    trimmed.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLADA_INSTRUCT: &[u8] = include_bytes!("../../tests/data/llada-hub/instruct/tokenizer_config.json");

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    fn template(source: &str) -> Result<ChatTemplate, TextError> {
        let config = serde_json::json!({ "chat_template": source, "eos_token": { "content": "</s>" } });
        Ok(ChatTemplate::from_config(config.to_string().as_bytes())?.unwrap())
    }

    #[test]
    fn lladas_own_template_writes_its_headers() {
        let chat = ChatTemplate::from_config(LLADA_INSTRUCT).unwrap().unwrap();
        let conversation = [message("system", " Be brief. "), message("user", "Hi\nthere")];
        assert_eq!(
            chat.render(&conversation, true).unwrap(),
            "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi\nthere<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        );
    }

    /// Expected texts come from transformers (`tests/data/export_chat.py`).
    #[test]
    fn conversations_are_written_as_transformers_writes_them() {
        #[derive(Deserialize)]
        struct Case {
            messages: Vec<Message>,
            add_generation_prompt: bool,
            text: String,
        }
        let cases: Vec<Case> = serde_json::from_slice(include_bytes!("../../tests/data/chat.json")).unwrap();
        let chat = ChatTemplate::from_config(LLADA_INSTRUCT).unwrap().unwrap();
        assert_eq!(cases.len(), 22);
        for Case { messages, add_generation_prompt, text } in cases {
            assert_eq!(chat.render(&messages, add_generation_prompt).unwrap(), text, "{messages:?}");
        }
    }

    #[test]
    fn templates_may_call_pythons_string_methods_and_see_the_special_tokens() {
        let source = "{% for m in messages %}\n  {% if m.role.startswith('u') %}\n{{ m['content'].strip() + eos_token }}\
                      {% endif %}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let chat = template(source).unwrap();
        assert_eq!(chat.render(&[message("user", " x ")], true).unwrap(), "x</s>>");
    }

    #[test]
    fn a_template_that_refuses_or_never_ends_is_an_error() {
        let refusing = template("{{ raise_exception('roles must alternate') }}").unwrap();
        assert!(refusing.render(&[], false).unwrap_err().to_string().contains("roles must alternate"));
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(template(endless).unwrap().render(&[], false).unwrap_err().to_string().contains("fuel"));
        assert!(matches!(template("{% if %}"), Err(TextError::Template(_))));
        assert!(ChatTemplate::from_config(b"{}").unwrap().is_none());
    }
}
