//! Renders conversations with the model's Jinja template, exactly as Hugging Face transformers.

mod dialect;
mod environment;
mod filters;
mod format;
mod json;
mod python;
mod source;
#[cfg(test)]
mod tests;

use super::conversation::{Conversation, Ending};
use super::error::TextError;
use super::shown::beginning;
use environment::{add, environment};
use minijinja::{Environment, Template, Value, value::Serde};
use serde::Serialize;
use serde_json::Map;
use source::{DEFAULT, Source, TOOL_USE};
use std::collections::BTreeMap;
use time::OffsetDateTime;

pub(super) use source::TemplateFiles;

/// Characters of the error of a template that are repeated.
const REASON_MAX: usize = 300;

/// A model's chat templates, of which a conversation chooses one.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// All names of templates, for errors.
    names: Vec<String>,
    /// Special tokens by the names that templates have for them, as `bos_token`.
    special: BTreeMap<String, Value>,
}

impl ChatTemplate {
    /// The template of a `tokenizer_config.json`; `None` if it has none.
    ///
    /// # Errors
    /// When the file is not valid JSON, or the template is not valid Jinja.
    pub fn from_config(json: &[u8]) -> Result<Option<Self>, TextError> {
        Self::from_files(&TemplateFiles { tokenizer_config: Some(json.to_vec()), ..TemplateFiles::default() })
    }

    /// The templates of a model's files; `None` if they have none.
    ///
    /// # Errors
    /// When a file is not of the expected shape, or the template is not Jinja.
    pub(super) fn from_files(files: &TemplateFiles) -> Result<Option<Self>, TextError> {
        let Source { templates, special } = files.source()?;
        if templates.is_empty() {
            return Ok(None);
        }
        Self::new(&templates, special, OffsetDateTime::now_utc).map(Some)
    }

    fn new(
        templates: &BTreeMap<String, String>,
        special: BTreeMap<String, Value>,
        now: fn() -> OffsetDateTime,
    ) -> Result<Self, TextError> {
        let mut environment = environment(now).map_err(failed)?;
        // the others cannot be asked for
        for name in [DEFAULT, TOOL_USE] {
            if let Some(template) = templates.get(name) {
                add(&mut environment, name.to_owned(), template).map_err(failed)?;
            }
        }
        Ok(Self { environment, names: templates.keys().cloned().collect(), special })
    }

    /// Whether the template shows the model the tools that it may call.
    pub fn shows_tools(&self) -> bool {
        let variables = |template: Template<'_, '_>| template.undeclared_variables(false);
        self.template(true).is_some_and(|template| variables(template).contains("tools"))
    }

    /// Whether the template has a place for the calls of tools in the assistant's messages.
    pub fn shows_tool_calls(&self) -> bool {
        self.mentions("tool_calls")
    }

    /// Whether the template knows a role by its name, unlike one that writes any role's name.
    pub fn names_role(&self, role: &str) -> bool {
        self.mentions(&format!("'{role}'")) || self.mentions(&format!("\"{role}\""))
    }

    fn mentions(&self, part: &str) -> bool {
        [false, true].iter().any(|tools| self.template(*tools).is_some_and(|template| template.source().contains(part)))
    }

    /// The template for conversations with or without tools, as transformers chooses it.
    fn template(&self, has_tools: bool) -> Option<Template<'_, '_>> {
        let names = if has_tools { &[TOOL_USE, DEFAULT][..] } else { &[DEFAULT] };
        names.iter().find_map(|name| self.environment.get_template(name).ok())
    }

    /// The conversation as text, with the names of special tokens. `add_generation_prompt` adds the
    /// start of the assistant's turn. As in transformers, the template `tool_use` is taken if there
    /// are tools, else `default`.
    ///
    /// # Errors
    /// When the template rejects the conversation or executes too many instructions, or when the
    /// model has several templates and none of these two.
    pub fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String, TextError> {
        let tools = Some(&conversation.tools).filter(|tools| !tools.is_empty());
        self.render_values(&conversation.messages, tools, add_generation_prompt, &conversation.variables)
    }

    /// The conversation as text, up to its [`Ending`].
    ///
    /// # Errors
    /// As [`Self::render`].
    pub(super) fn write(&self, conversation: &Conversation) -> Result<String, TextError> {
        match conversation.ending {
            Ending::Answer => self.render(conversation, true),
            Ending::Closed => self.render(conversation, false),
            Ending::Open => self.render_open(conversation),
        }
    }

    /// The conversation up to the end of its last message. As in transformers, a mark and a space
    /// behind the message show where it ends, and whether the template trims it.
    fn render_open(&self, conversation: &Conversation) -> Result<String, TextError> {
        let hidden = || TextError::Template("it does not write the last message, which is to be continued".to_owned());
        let mut marked = conversation.clone();
        let mark = marked.unused().ok_or_else(hidden)?;
        marked.messages.last_mut().ok_or_else(hidden)?.content.extend([mark, ' ']);
        let text = self.render(&marked, false)?;
        let (text, behind) = text.rsplit_once(mark).ok_or_else(hidden)?;
        Ok(if behind.starts_with(' ') { text } else { text.trim_end() }.to_owned())
    }

    /// Tools that are not given are none.
    fn render_values(
        &self,
        messages: &impl Serialize,
        tools: Option<&impl Serialize>,
        add_generation_prompt: bool,
        variables: &Map<String, serde_json::Value>,
    ) -> Result<String, TextError> {
        let Some(template) = self.template(tools.is_some()) else {
            let names = self.names.join(", ");
            return Err(TextError::Template(format!("the model has templates named {names}, but none named default")));
        };
        let given = [
            ("messages", Value::from(Serde(messages))),
            ("tools", tools.map_or(Value::from(()), |tools| Value::from(Serde(tools)))),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        let mut context = self.special.clone();
        context.extend(variables.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))));
        context.extend(given.map(|(name, value)| (name.to_owned(), value)));
        template.render(context).map_err(failed)
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn failed(error: minijinja::Error) -> TextError {
    // `raise_exception` may repeat a message of the conversation
    TextError::Template(beginning(&error.to_string(), REASON_MAX).into_owned())
}
