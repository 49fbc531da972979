//! The body of `POST /v1/completions`.

use super::common::{self, body, check_choices};
use super::diffusion::Diffusion;
use super::field;
use super::neutral;
use super::params::{CompletionParams, missing};
use super::prompt::PromptField;
use crate::api::error::ApiError;
use crate::api::schema;
use crate::diffusion::TokenId;
use crate::engine::{Length, Prompt, Request, Task};
use std::sync::Arc;

body! {
    /// OpenAI's completion request, with `diffusion`.
    CompletionRequest, CompletionFields, COMPLETION {
        /// Texts or token ids, one or several.
        #[schema(required, nullable = false)]
        prompt: Option<PromptField>,
        /// Default: the model's own, else the room on its canvas.
        #[serde(default, deserialize_with = "field::new_tokens")]
        #[schema(schema_with = schema::new_tokens)]
        max_tokens: Option<u32>,
        /// Text after the completion; the model fills the text in between.
        suffix: Option<String>,
        /// Return the prompt before the answer.
        echo: Option<bool>,
        /// 0 or 1: return the log-probability of each generated token.
        #[serde(default, deserialize_with = "field::logprobs")]
        #[schema(maximum = 1)]
        logprobs: Option<u32>,
    }
}

impl CompletionFields {
    /// The parameters of the completion. `detokenize` gives the text of tokens, for `echo`.
    pub(crate) fn read(mut self, detokenize: impl Fn(&[TokenId]) -> String) -> Result<CompletionParams, ApiError> {
        let common = self.common();
        let prompts = self.prompt.ok_or_else(|| missing("prompt", "a string, or an array of token ids"))?;
        check_choices(prompts.count(), common.choices)?;
        let prompts = prompts.read();
        let text = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => detokenize(tokens),
            Prompt::Chat(_) => String::new(),
        };
        let echo = prompts.iter().filter(|_| self.echo == Some(true)).map(text).collect();
        let logprobs = match self.logprobs {
            None => false,
            Some(0 | 1) => true,
            Some(given) => {
                let known = "0 and 1 are supported: the written token's own, no others are known";
                return Err(ApiError::invalid("logprobs", format!("logprobs: given {given}; {known}")));
            }
        };
        let suffix: Option<Arc<str>> = self.suffix.map(Into::into); // all prompts share it
        let task = |prompt| task(prompt, self.max_tokens, suffix.as_ref());
        let tasks = prompts.into_iter().map(task).collect::<Result<Vec<_>, _>>()?;
        if tasks.is_empty() {
            return Err(ApiError::invalid("prompt", "the prompt is empty; give at least one token"));
        }
        common.params(tasks, logprobs, echo)
    }
}

/// The task of a completion: to continue a prompt, or to write what stands between it and a suffix.
pub(crate) fn task(prompt: Prompt, max_tokens: Option<u32>, suffix: Option<&Arc<str>>) -> Result<Task, ApiError> {
    match (suffix, max_tokens, prompt) {
        (None, max, prompt) => {
            let length = max.map_or(Length::Default, |max| Length::New(max as usize));
            Ok(Task::Continue { prompt, length })
        }
        (Some(_), None, _) => Err(missing("max_tokens", "the number of tokens between prompt and suffix")),
        (Some(suffix), Some(max), Prompt::Text(before)) => {
            Ok(Task::Between { before, cells: max as usize, after: Arc::clone(suffix) })
        }
        (Some(_), Some(_), Prompt::Tokens(_) | Prompt::Chat(_)) => Err(ApiError::invalid(
            "suffix",
            "suffix goes with a prompt that is a text; give the text, or leave suffix out",
        )),
    }
}
