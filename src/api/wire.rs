//! What callers may write, as serde reads it, and what the engine is asked for in their name. Unknown fields are
//! refused with the list of known ones; refuses to judge values, which `engine::admission` does once for everybody.

use super::error::ApiError;
use super::field::{all, count, nothing, number, object, off, off_word, one, seed, unsupported, word_or_object, zero};
use crate::diffusion::{Order, TokenId};
use crate::engine::{DEFAULT_BLANK, EndOfText, Length, Prompt, Proofreading, Remasking, Request, Task};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// As one JSON object.
    Whole,
    /// As server-sent events.
    Stream {
        /// Every step's edits are sent too.
        with_edits: bool,
        /// One more chunk tells the usage.
        with_usage: bool,
    },
}

/// The body of `POST /v1/completions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct CompletionRequest {
    pub(super) model: Option<String>,
    prompt: Option<PromptField>,
    /// Default: the model's own, else what its canvas has room for.
    #[serde(default, deserialize_with = "count")]
    max_tokens: Option<u32>,
    /// Default 0, greedy, where OpenAI's is 1.
    #[serde(default, deserialize_with = "number")]
    temperature: Option<f32>,
    #[serde(default, deserialize_with = "seed")]
    seed: Option<u64>,
    stop: Option<Stop>,
    stream: Option<bool>,
    #[serde(default, deserialize_with = "object")]
    stream_options: Option<StreamOptions>,
    #[serde(default, deserialize_with = "object")]
    diffusion: Option<Diffusion>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,

    // Fields of OpenAI's (and vLLM's `top_k`), taken where they ask for nothing.
    #[serde(default, rename = "n", deserialize_with = "one")]
    _n: (),
    #[serde(default, rename = "best_of", deserialize_with = "one")]
    _best_of: (),
    #[serde(default, rename = "top_p", deserialize_with = "one")]
    _top_p: (),
    #[serde(default, rename = "top_k", deserialize_with = "all")]
    _top_k: (),
    #[serde(default, rename = "presence_penalty", deserialize_with = "zero")]
    _presence_penalty: (),
    #[serde(default, rename = "frequency_penalty", deserialize_with = "zero")]
    _frequency_penalty: (),
    #[serde(default, rename = "logprobs", deserialize_with = "unsupported")]
    _logprobs: (),
    #[serde(default, rename = "suffix", deserialize_with = "unsupported")]
    _suffix: (),
    #[serde(default, rename = "echo", deserialize_with = "off")]
    _echo: (),
    #[serde(default, rename = "logit_bias", deserialize_with = "nothing")]
    _logit_bias: (),
    #[serde(default, rename = "tools", deserialize_with = "nothing")]
    _tools: (),
}

/// The body of `POST /v1/infill`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct InfillRequest {
    pub(super) model: Option<String>,
    template: Option<String>,
    /// What stands for one blank cell.
    blank: Option<String>,
    /// Default 0, greedy.
    #[serde(default, deserialize_with = "number")]
    temperature: Option<f32>,
    #[serde(default, deserialize_with = "seed")]
    seed: Option<u64>,
    stream: Option<bool>,
    #[serde(default, deserialize_with = "object")]
    diffusion: Option<Diffusion>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "give a string, an array of token ids, or an array with exactly one string or one array of token ids"
)]
enum PromptField {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "give a string or an array of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
    /// Padding against eavesdroppers who measure chunks.
    #[serde(default, rename = "include_obfuscation", deserialize_with = "off")]
    _include_obfuscation: (),
}

/// What only a diffusion model can do.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Diffusion {
    #[serde(default, deserialize_with = "count")]
    steps: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    block_length: Option<u32>,
    #[serde(default, deserialize_with = "word_or_object::<_, OrderWord, _>")]
    unmasking: Option<Unmasking>,
    #[serde(default, deserialize_with = "word_or_object::<_, PolicyWord, _>")]
    remasking: Option<RemaskingField>,
    #[serde(default, deserialize_with = "word_or_object::<_, OffWord, _>")]
    proofreading: Option<ProofreadingField>,
    end_of_text: Option<EndOfTextWord>,
    #[serde(default, deserialize_with = "number")]
    cfg_scale: Option<f32>,
    stream_edits: Option<bool>,
    return_quality: Option<bool>,
    #[serde(default, rename = "cache", deserialize_with = "off_word")]
    _cache: (),
    #[serde(default, rename = "deadline_ms", deserialize_with = "unsupported")]
    _deadline_ms: (),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderWord {
    Confidence,
    Margin,
    Entropy,
    Random,
    Leftmost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unmasking {
    order: Option<OrderWord>,
    #[serde(default, deserialize_with = "number")]
    threshold: Option<f32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PolicyWord {
    Off,
    Quality,
    Confidence,
    ReMdm,
    Random,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemaskingField {
    policy: PolicyWord,
    #[serde(default, deserialize_with = "count")]
    budget: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    below: Option<f32>,
    window: Option<[f32; 2]>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EndOfTextWord {
    Free,
    Last,
    Never,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OffWord {
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofreadingField {
    #[serde(default, deserialize_with = "count")]
    steps: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    below: Option<f32>,
    #[serde(default, deserialize_with = "number")]
    temperature: Option<f32>,
}

impl From<OffWord> for ProofreadingField {
    fn from(word: OffWord) -> Self {
        match word {
            OffWord::Off => Self { steps: Some(0), below: None, temperature: None },
        }
    }
}

impl ProofreadingField {
    fn read(self) -> Result<Proofreading, ApiError> {
        let Self { steps, below, temperature } = self;
        let steps =
            steps.ok_or_else(|| missing("diffusion.proofreading.steps", "the most steps a full block may take"))?;
        Ok(Proofreading { steps, below, temperature })
    }
}

impl From<OrderWord> for Order {
    fn from(word: OrderWord) -> Self {
        match word {
            OrderWord::Confidence => Self::Confidence,
            OrderWord::Margin => Self::Margin,
            OrderWord::Entropy => Self::Entropy,
            OrderWord::Random => Self::Random,
            OrderWord::Leftmost => Self::Leftmost,
        }
    }
}

impl From<EndOfTextWord> for EndOfText {
    fn from(word: EndOfTextWord) -> Self {
        match word {
            EndOfTextWord::Free => Self::Free,
            EndOfTextWord::Last => Self::Last,
            EndOfTextWord::Never => Self::Never,
        }
    }
}

impl From<OrderWord> for Unmasking {
    fn from(word: OrderWord) -> Self {
        Self { order: Some(word), threshold: None }
    }
}

impl From<PolicyWord> for RemaskingField {
    fn from(policy: PolicyWord) -> Self {
        Self { policy, budget: None, below: None, window: None }
    }
}

impl CompletionRequest {
    /// What the engine is asked for, and how the answer is wanted.
    ///
    /// # Errors
    /// When a field is missing, or asks for what goes only with another one.
    pub(super) fn read(self) -> Result<(Request, Delivery), ApiError> {
        let prompt = self.prompt.ok_or_else(|| missing("prompt", "a string, or an array of token ids"))?.read()?;
        let length = self.max_tokens.map_or(Length::Default, |max| Length::New(max as usize));
        let diffusion = self.diffusion.unwrap_or_default();
        let delivery = if self.stream == Some(true) {
            let with_usage = self.stream_options.is_some_and(|options| options.include_usage == Some(true));
            Delivery::Stream { with_edits: diffusion.stream_edits == Some(true), with_usage }
        } else if self.stream_options.is_some() {
            return Err(needs_stream("stream_options"));
        } else {
            diffusion.check_whole()?;
            Delivery::Whole
        };
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        let request = Request {
            temperature: self.temperature.unwrap_or(0.0),
            seed: self.seed,
            stop,
            ..Request::new(Task::Continue { prompt, length })
        };
        Ok((diffusion.read(request)?, delivery))
    }
}

impl InfillRequest {
    /// What the engine is asked for, and how the answer is wanted; a streamed infill always tells its edits.
    ///
    /// # Errors
    /// As [`CompletionRequest::read`].
    pub(super) fn read(self) -> Result<(Request, Delivery), ApiError> {
        let blank = self.blank.unwrap_or_else(|| DEFAULT_BLANK.to_owned());
        let template = self
            .template
            .ok_or_else(|| missing("template", &format!("a text with {blank:?} for each cell to fill")))?;
        let diffusion = self.diffusion.unwrap_or_default();
        let delivery = if self.stream == Some(true) {
            Delivery::Stream { with_edits: true, with_usage: true }
        } else {
            diffusion.check_whole()?;
            Delivery::Whole
        };
        let request = Request {
            temperature: self.temperature.unwrap_or(0.0),
            seed: self.seed,
            ..Request::new(Task::Infill { template, blank })
        };
        Ok((diffusion.read(request)?, delivery))
    }
}

impl PromptField {
    fn read(self) -> Result<Prompt, ApiError> {
        match self {
            Self::Text(text) => Ok(Prompt::Text(text)),
            Self::Tokens(tokens) => Ok(tokens_prompt(tokens)),
            Self::Texts(texts) => only_one(texts).map(Prompt::Text),
            Self::TokenLists(lists) => only_one(lists).map(tokens_prompt),
        }
    }
}

fn tokens_prompt(tokens: Vec<u32>) -> Prompt {
    Prompt::Tokens(tokens.into_iter().map(TokenId).collect())
}

fn only_one<T>(prompts: Vec<T>) -> Result<T, ApiError> {
    let given = prompts.len();
    let mut prompts = prompts.into_iter();
    match (prompts.next(), prompts.next()) {
        (Some(prompt), None) => Ok(prompt),
        (Some(_) | None, _) => Err(ApiError::invalid(
            "prompt",
            format!("prompt: given {given} prompts; not yet supported: one prompt per request"),
        )),
    }
}

impl Diffusion {
    /// Checks what has no meaning for an answer in one piece.
    fn check_whole(&self) -> Result<(), ApiError> {
        if self.stream_edits == Some(true) { Err(needs_stream("diffusion.stream_edits")) } else { Ok(()) }
    }

    fn read(self, request: Request) -> Result<Request, ApiError> {
        let unmasking = self.unmasking.unwrap_or(Unmasking { order: None, threshold: None });
        Ok(Request {
            order: unmasking.order.map_or(request.order, Order::from),
            threshold: unmasking.threshold,
            steps: self.steps,
            block_length: self.block_length,
            remasking: self.remasking.map(RemaskingField::read).transpose()?,
            proofreading: self.proofreading.map(ProofreadingField::read).transpose()?,
            end_of_text: self.end_of_text.map(Into::into).unwrap_or_default(),
            cfg_scale: self.cfg_scale.unwrap_or(0.0),
            return_quality: self.return_quality == Some(true),
            ..request
        })
    }
}

impl RemaskingField {
    fn read(self) -> Result<Remasking, ApiError> {
        let Self { policy, budget, below, window } = self;
        match (policy, budget, below, window) {
            (PolicyWord::Quality, ..) => Ok(Remasking::Quality { budget, below, window }),
            (PolicyWord::Confidence, ..) => Ok(Remasking::Confidence { budget, below, window }),
            (PolicyWord::ReMdm, _, None, _) => Ok(Remasking::ReMdm { budget, window }),
            (PolicyWord::Random, _, None, _) => Ok(Remasking::Random { budget, window }),
            (PolicyWord::ReMdm | PolicyWord::Random, _, Some(_), _) => Err(ApiError::invalid(
                "diffusion.remasking.below",
                "below goes with the policies \"quality\" and \"confidence\"; with \"remdm\" and \"random\" give budget and window",
            )),
            (PolicyWord::Off, None, None, None) => Ok(Remasking::Off),
            (PolicyWord::Off, ..) => Err(ApiError::invalid(
                "diffusion.remasking",
                "policy \"off\" takes no budget, below or window; choose another policy, as \"quality\"",
            )),
        }
    }
}

fn missing(param: &'static str, wanted: &str) -> ApiError {
    ApiError::invalid(param, format!("{param} is missing; give {wanted}"))
}

fn needs_stream(param: &'static str) -> ApiError {
    ApiError::invalid(param, format!("{param} goes only with \"stream\": true"))
}
