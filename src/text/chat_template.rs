//! Renders conversations with the model's Jinja template, exactly as Hugging Face transformers.

use super::conversation::Conversation;
use super::error::TextError;
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Deserialize;

/// Most instructions that a template may execute: enough for thousands of messages.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat_template";

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

    /// Whether the template shows the model the tools that it may call.
    #[must_use]
    pub fn shows_tools(&self) -> bool {
        let variables = |template: minijinja::Template<'_, '_>| template.undeclared_variables(false);
        self.environment.get_template(NAME).is_ok_and(|template| variables(template).contains("tools"))
    }

    /// Whether the template has a place for the calls of tools in the assistant's messages.
    #[must_use]
    pub fn shows_tool_calls(&self) -> bool {
        self.mentions("tool_calls")
    }

    /// Whether the template knows a role by its name, unlike one that writes any role's name.
    #[must_use]
    pub fn names_role(&self, role: &str) -> bool {
        self.mentions(&format!("'{role}'")) || self.mentions(&format!("\"{role}\""))
    }

    fn mentions(&self, part: &str) -> bool {
        self.environment.get_template(NAME).is_ok_and(|template| template.source().contains(part))
    }

    /// The conversation as text, with the names of special tokens. `add_generation_prompt` adds the
    /// start of the assistant's turn.
    ///
    /// # Errors
    /// When the template rejects the conversation or executes too many instructions.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String, TextError> {
        let Self { environment, bos_token, eos_token } = self;
        let messages = Serde(&conversation.messages);
        let tools = Some(&conversation.tools).filter(|tools| !tools.is_empty()).map(Serde);
        let failed = |error: minijinja::Error| TextError::Template(error.to_string());
        let template = environment.get_template(NAME).map_err(failed)?;
        template.render(context! { messages, tools, add_generation_prompt, bos_token, eos_token }).map_err(failed)
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
    use crate::text::{Message, ToolCall};
    use serde_json::json;

    const LLADA_INSTRUCT: &[u8] = include_bytes!("../../tests/data/llada-hub/instruct/tokenizer_config.json");

    fn template(source: &str) -> Result<ChatTemplate, TextError> {
        let config = json!({ "chat_template": source, "eos_token": { "content": "</s>" } });
        Ok(ChatTemplate::from_config(config.to_string().as_bytes())?.unwrap())
    }

    #[test]
    fn lladas_own_template_writes_its_headers() {
        let chat = ChatTemplate::from_config(LLADA_INSTRUCT).unwrap().unwrap();
        let conversation = vec![Message::new("system", " Be brief. "), Message::new("user", "Hi\nthere")];
        assert_eq!(
            chat.render(&conversation.into(), true).unwrap(),
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
            assert_eq!(chat.render(&messages.clone().into(), add_generation_prompt).unwrap(), text, "{messages:?}");
        }
    }

    #[test]
    fn templates_may_call_pythons_string_methods_and_see_the_special_tokens() {
        let source = "{% for m in messages %}\n  {% if m.role.startswith('u') %}\n{{ m['content'].strip() + eos_token }}\
                      {% endif %}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let chat = template(source).unwrap();
        assert_eq!(chat.render(&vec![Message::new("user", " x ")].into(), true).unwrap(), "x</s>>");
    }

    /// The part of Qwen's template that concerns tools.
    const WITH_TOOLS: &str = "{% if tools %}T:{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% endif %}\
        {% for m in messages %}[{{ m.role }}{% if m.name is defined %}={{ m.name }}{% endif %}] {{ m.content }}\
        {% if m.tool_calls %}{% for call in m.tool_calls %}{{ call.function.name }}({{ call.function.arguments.city }})\
        {% endfor %}{% endif %}{% if m.role == 'tool' %}<{{ m.tool_call_id }}{% endif %}{% endfor %}";

    #[test]
    fn tools_and_their_calls_are_written_by_a_template_that_has_a_place_for_them() {
        let chat = template(WITH_TOOLS).unwrap();
        assert!(chat.shows_tools() && chat.shows_tool_calls() && chat.names_role("tool"));
        let call = ToolCall { id: "c1".into(), name: "weather".into(), arguments: json!({"city": "Oslo"}) };
        let messages = vec![
            Message { name: Some("Ann".into()), ..Message::new("user", "Hi") },
            Message { tool_calls: vec![call], ..Message::new("assistant", "") },
            Message { tool_call_id: Some("c1".into()), ..Message::new("tool", "rain") },
        ];
        let tools = vec![json!({"type": "function", "function": {"name": "weather"}})];
        let conversation = Conversation { tools, ..messages.into() };
        assert_eq!(
            chat.render(&conversation, true).unwrap(),
            "T:weather;[user=Ann] Hi[assistant] weather(Oslo)[tool] rain<c1"
        );
        let hello: Conversation = vec![Message::new("user", "Hi")].into();
        assert_eq!(chat.render(&hello, true).unwrap(), "[user] Hi");
        let plain = template("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}").unwrap();
        assert!(!plain.shows_tools() && !plain.shows_tool_calls() && !plain.names_role("tool"));
    }

    #[test]
    fn a_template_that_refuses_or_never_ends_is_an_error() {
        let refusing = template("{{ raise_exception('roles must alternate') }}").unwrap();
        assert!(
            refusing.render(&Conversation::default(), false).unwrap_err().to_string().contains("roles must alternate")
        );
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(
            template(endless)
                .unwrap()
                .render(&Conversation::default(), false)
                .unwrap_err()
                .to_string()
                .contains("fuel")
        );
        assert!(matches!(template("{% if %}"), Err(TextError::Template(_))));
        assert!(ChatTemplate::from_config(b"{}").unwrap().is_none());
    }
}
