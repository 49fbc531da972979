//! OpenAI's completions and chat completions, whole and in chunks, with `diffusion` beside them.

use super::objects::{FinishReason, Quality, Refinement, StepObject, Usage};
use super::tool_call::{ToolCall, arguments_in};
use super::{Detokenizer, Echo, Shape, logprobs::Logprobs};
use crate::api::schema;
use crate::diffusion::TokenId;
use crate::engine::{Answer, Handle, Output};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// The fields that every chunk of an answer has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Head {
    id: String,
    object: &'static str,
    /// In seconds since 1970.
    created: u64,
    model: String,
    system_fingerprint: &'static str,
}

impl Head {
    /// The head of the answer to the request `id`, or of its chunks.
    pub(crate) fn new(id: &str, model: &str, shape: Shape, is_chunk: bool) -> Self {
        let (prefix, object) = match (shape, is_chunk) {
            (Shape::Text, _) => ("cmpl", "text_completion"),
            (Shape::Chat, false) => ("chatcmpl", "chat.completion"),
            (Shape::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
        };
        Self {
            id: format!("{prefix}-{id}"),
            object,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
            system_fingerprint: concat!("remask-", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// An answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) head: &'a Head,
    #[schema(ignore)]
    pub(crate) choices: Vec<Choice<'a>>,
    // outer `None`: not asked for; inner `None`: not known yet
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub(crate) usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub(crate) diffusion: Option<Side>,
}

/// The side object `diffusion`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Side {
    Step(StepObject),
    Refinement(Refinement),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Choice<'a> {
    pub(crate) index: usize,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) content: Content<'a>,
    #[schema(ignore)]
    pub(crate) logprobs: Option<Logprobs>,
    /// Null in a stream until the choice ends.
    #[schema(inline, required)]
    pub(crate) finish_reason: Option<FinishReason>,
    /// Only if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quality: Option<Quality>,
    /// Only if requested: the tokens on the canvas that the text is made of. In a stream, in the
    /// choice's last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
    /// Only if requested: the tokens before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

/// The text of a choice, in one of the shapes, or a piece of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Content<'a> {
    Text(Text<'a>),
    Message(Message<'a>),
    Delta(Delta<'a>),
}

/// A text behind what is echoed, which no choice copies.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    echo: &'a str,
    written: &'a str,
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.echo, self.written))
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatAnswer)]
pub(crate) struct Message<'a> {
    /// Always `assistant`.
    role: &'static str,
    /// Null if the message is a call of a tool.
    #[schema(required)]
    content: Option<&'a str>,
    #[schema(schema_with = schema::null, required)]
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    tool_calls: Vec<ToolCall<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatDelta)]
pub(crate) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    tool_calls: Vec<ToolCall<'a>>,
}

const ASSISTANT: &str = "assistant";

pub(crate) struct ChoiceWriter {
    pub(crate) shape: Shape,
    pub(crate) logprobs: bool,
    /// What is echoed before the choices of each prompt; empty where nothing is.
    pub(crate) echo: Vec<Echo>,
    /// The tokens of each prompt; empty where no ids were asked for.
    pub(crate) prompts: Vec<Arc<[TokenId]>>,
    /// Choices for each prompt.
    pub(crate) choices: usize,
    pub(crate) handle: Handle,
    /// The calls that the choices are; `None` for texts.
    pub(crate) calls: Option<Calls>,
}

/// The functions that the choices of an answer call.
pub(crate) struct Calls {
    /// The id of the request, of which the calls' ids are made.
    pub(crate) id: String,
    /// One for each choice.
    pub(crate) names: Vec<String>,
    /// Whether the request named the function.
    pub(crate) is_named: bool,
}

impl Calls {
    fn id(&self, index: usize) -> String {
        format!("call_{}_{index}", self.id)
    }

    /// As OpenAI does: `stop` for a function that the request named.
    const fn finish(&self) -> FinishReason {
        if self.is_named { FinishReason::Stop } else { FinishReason::ToolCalls }
    }
}

impl ChoiceWriter {
    pub(crate) fn detokenizer(&self) -> Detokenizer<'_> {
        Detokenizer(self.handle.tokenizer())
    }

    /// What is echoed before a choice, which all choices of its prompt share.
    fn echo(&self, index: usize) -> Option<&Echo> {
        self.echo.get(index / self.choices.max(1))
    }

    fn echoed_text(&self, index: usize) -> &str {
        self.echo(index).map_or("", |echo| echo.text.as_str())
    }

    pub(crate) fn whole<'a>(&'a self, index: usize, answer: &'a Answer) -> Choice<'a> {
        let written = written(answer, answer.output.text());
        let content = match self.shape {
            Shape::Text => Content::Text(Text { echo: self.echoed_text(index), written }),
            Shape::Chat => {
                let call = |calls: &'a Calls| ToolCall::whole(calls.id(index), &calls.names[index], written);
                let tool_calls: Vec<_> = self.calls.iter().map(call).collect();
                let content = Some(written).filter(|_| tool_calls.is_empty());
                Content::Message(Message { role: ASSISTANT, content, refusal: None, tool_calls })
            }
        };
        self.finished(index, answer, content)
    }

    pub(crate) fn last<'a>(&self, index: usize, answer: &'a Answer) -> Choice<'a> {
        let text = written(answer, &answer.tail);
        let content = match self.calls {
            None => self.delta(text),
            Some(_) => Content::Delta(Delta { role: None, content: None, tool_calls: vec![ToolCall::last(text)] }),
        };
        self.finished(index, answer, content)
    }

    fn finished<'a>(&self, index: usize, answer: &Answer, content: Content<'a>) -> Choice<'a> {
        let detokenizer = self.detokenizer();
        let prompt = self.prompts.get(index / self.choices.max(1));
        let tokens = answer.parts.iter().flat_map(|part| &part.tokens);
        Choice {
            index,
            content,
            logprobs: self.logprobs.then(|| self.logprobs_of(index, answer)),
            finish_reason: Some(self.calls.as_ref().map_or(answer.finish.into(), Calls::finish)),
            quality: Quality::of(answer, detokenizer),
            token_ids: prompt.map(|_| tokens.map(|(token, _)| token.0).collect()),
            prompt_token_ids: prompt.map(|prompt| prompt.iter().map(|token| token.0).collect()),
        }
    }

    fn logprobs_of(&self, index: usize, answer: &Answer) -> Logprobs {
        let text = written(answer, answer.output.text());
        let range = if self.calls.is_some() { arguments_in(text) } else { 0..text.len() };
        Logprobs::of(answer, (text, range), self.shape, self.handle.shared_tokenizer(), self.echo(index))
    }

    /// What stands before the text of a choice in a stream, if anything does.
    pub(crate) fn opening<'a>(&'a self, index: usize) -> Option<Content<'a>> {
        match (self.shape, self.echoed_text(index)) {
            (Shape::Chat, _) => {
                let call = |calls: &'a Calls| ToolCall::opening(calls.id(index), &calls.names[index]);
                let tool_calls: Vec<_> = self.calls.iter().map(call).collect();
                let content = Some("").filter(|_| tool_calls.is_empty());
                Some(Content::Delta(Delta { role: Some(ASSISTANT), content, tool_calls }))
            }
            (Shape::Text, "") => None,
            (Shape::Text, echo) => Some(Content::Text(Text { echo, written: "" })),
        }
    }

    /// A piece of text, which may be empty.
    pub(crate) fn delta<'a>(&self, text: &'a str) -> Content<'a> {
        match self.shape {
            Shape::Text => Content::Text(Text { echo: "", written: text }),
            Shape::Chat => {
                let content = Some(text).filter(|text| !text.is_empty());
                Content::Delta(Delta { role: None, content, tool_calls: Vec::new() })
            }
        }
    }

    pub(crate) fn usage(&self, answers: &[Answer]) -> Usage {
        Usage::of(answers, self.choices)
    }
}

/// The text that was written: `continuation`, or what stands between a prompt and a suffix.
fn written<'a>(answer: &'a Answer, continuation: &'a str) -> &'a str {
    match &answer.output {
        Output::Continuation(_) | Output::Revision(_) => continuation,
        Output::Infill { gaps, .. } => gaps.first().map_or("", String::as_str),
    }
}
