//! A request as the user made it: options may be absent, and nothing is checked yet. Out of scope:
//! wire formats, defaults that depend on the model, and tensors.

use super::occupancy::Shortage;
use super::origin::Origin;
use crate::diffusion::TokenId;
use crate::diffusion::policy::{Choice, Settings};
use crate::text::{Conversation, Pattern};
use std::{borrow::Cow, ops::Range, sync::Arc, time::Duration};

/// What an answer continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text for the model's tokenizer. Names of special tokens in it are ordinary text.
    Text(String),
    /// Token ids.
    Tokens(Vec<TokenId>),
    /// A conversation for the model's chat template, which also opens the assistant's turn.
    Chat(Conversation),
}

/// How many tokens a continuation may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// The model's default, or the rest of its canvas if that is less.
    Default,
    /// At most this many new tokens.
    New(usize),
    /// A canvas of this many cells, prompt included.
    Total(usize),
}

/// What a request asks the model to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Continue a prompt.
    Continue {
        /// The text or tokens to continue.
        prompt: Prompt,
        /// How many tokens may follow.
        length: Length,
    },
    /// Fill the blanks of a text; everything else is fixed.
    Infill {
        /// A text with blanks.
        template: String,
        /// The mark of one blank cell. If it is `<blank>`, `<blank:12>` stands for twelve cells.
        blank: String,
    },
    /// Write the text between two others.
    Between {
        /// The text before.
        before: String,
        /// Blank cells between them.
        cells: usize,
        /// The text after.
        after: Arc<str>,
    },
    /// Measure the quality of every token of a text. Needs a quality head, or `likelihood`.
    Score {
        /// The text.
        text: Prompt,
        /// Also measure each token's probability given all others: one forward pass per token.
        likelihood: bool,
    },
    /// Rewrite the doubtful tokens of a text, by [`Request::proofreading`]. Needs a quality head.
    Repair {
        /// The text.
        text: Prompt,
        /// Ranges of characters (of a text) or of tokens (of ids) that must not change.
        pinned: Vec<Range<usize>>,
    },
    /// Fill the blanks among tokens; everything else is fixed.
    InfillTokens {
        /// `None` is a blank.
        cells: Vec<Option<TokenId>>,
    },
}

/// Erases and rewrites the doubtful tokens of a full block. Needs a quality head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proofreading {
    /// Most additional steps per block: 0, or at least 2. Default: the model's, else one per cell
    /// of a block, from 2 to 128.
    pub steps: Option<u32>,
    /// Tokens of lower quality are erased and rewritten. Default: 0.5, and without `steps` the
    /// model's if it has one.
    pub below: Option<f32>,
    /// Most erasures per round, the lowest quality first. Default: all doubtful ones.
    pub most: Option<u32>,
    /// Sampling temperature of the rewritten tokens. Default: that of the request.
    pub temperature: Option<f32>,
}

/// When end-of-text tokens may be filled in (LLaDA, arXiv 2502.09992, appendix B.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndOfText {
    /// Like any other token.
    #[default]
    Free,
    /// After all other blanks of their block.
    Last,
    /// Never.
    Never,
}

impl EndOfText {
    /// Every choice: its name in JSON and on the command line, and one line of help.
    pub const ALL: [(&'static str, Self, &'static str); 3] = [
        ("free", Self::Free, "Like any other"),
        ("last", Self::Last, "After all else of their block"),
        ("never", Self::Never, "Never"),
    ];
}

/// The format of a continuation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Any text.
    #[default]
    Text,
    /// A JSON object with any members. It is closed where the text ends early or is not valid JSON.
    Json,
    /// JSON of this shape.
    Shaped(Shape),
}

/// The shape of an answer in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// This JSON text.
    Constant(String),
    /// A string.
    Text {
        /// Most tokens.
        cells: Option<usize>,
        /// Fewest characters.
        least: usize,
        /// Most characters.
        characters: Option<usize>,
    },
    /// A string that matches a pattern, written character by character.
    Pattern {
        /// Its characters.
        pattern: Arc<Pattern>,
        /// Most tokens, each of which is one character.
        cells: Option<usize>,
        /// Fewest characters.
        least: usize,
        /// Most characters.
        characters: Option<usize>,
    },
    /// A number.
    Number {
        /// Most tokens, sign included.
        cells: Option<usize>,
        /// Whether it must be an integer.
        is_whole: bool,
        /// Whether it may be negative.
        is_signed: bool,
        /// Most digits before the point, of which a token may have several; further ones are cut.
        digits: Option<usize>,
    },
    /// A number of a range: a pattern made by [`Pattern::numbers`].
    Range(Arc<Pattern>),
    /// One of several JSON texts.
    OneOf(Vec<String>),
    /// An array of the first elements of these: at least `least`, at most all of them.
    List {
        /// The elements.
        items: Vec<Shape>,
        /// Fewest elements.
        least: usize,
        /// Whether an element that occurred before is left out; then `least` is at most 1.
        is_distinct: bool,
    },
    /// An object whose names are written, too: the first members of these, at least `least`. A
    /// member whose name occurred before is left out, so that `least` is at most 1.
    Map {
        /// The shapes of the name, which is a string, and of the value of each member.
        members: Vec<(Shape, Shape)>,
        /// Fewest members.
        least: usize,
    },
    /// One of several shapes. They must begin differently; of those that begin alike, the first is
    /// written.
    Either(Vec<Shape>),
    /// An object of exactly these members, in this order.
    Object(Vec<(String, Shape)>),
}

/// A task and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to do.
    pub task: Task,
    /// The name of a preset, which gives the options from `order` to `end_of_text` that are not set
    /// here. `order` and `pace` count as one option.
    pub preset: Option<String>,
    /// The order in which blanks are filled: a rule of
    /// [`Kind::Order`](crate::diffusion::policy::Kind). Default: by confidence.
    pub order: Option<Choice>,
    /// Knobs of the rule that decides how many blanks a step fills; empty fills an even share.
    pub pace: Settings,
    /// Steps of the run. Default: one per blank, or the model's if less (no bound with a `pace`).
    pub steps: Option<u32>,
    /// Cells per block. Default: the model's, else the whole canvas.
    pub block_length: Option<u32>,
    /// Default: by quality if the model has a quality head, else off.
    pub remasking: Option<Choice>,
    /// Default: the model's where remasking is by quality, else off.
    pub proofreading: Option<Proofreading>,
    /// When end-of-text tokens may be filled in. Default: like any other token.
    pub end_of_text: Option<EndOfText>,
    /// Which keys and values of earlier passes a pass uses. Default: none, or those of finished
    /// blocks where the model's are exact.
    pub cache: Option<Choice>,
    /// Weight of classifier-free guidance, 0 to 100. 0 is off; any other weight doubles the cost.
    pub cfg_scale: f32,
    /// Sampling temperature, at least 0; 0 takes the most probable token.
    pub temperature: f32,
    /// Samples from this many of the most probable tokens; `None` is all.
    pub top_k: Option<u32>,
    /// Samples from the most probable tokens whose probabilities add up to this, 0 to 1; `None` is
    /// all, 0 the most probable one.
    pub top_p: Option<f32>,
    /// Samples from the tokens with at least this share of the largest probability, 0 to 1; `None`
    /// and 0 are all.
    pub min_p: Option<f32>,
    /// Taken off the logit of each token that stands in the answer, in blanks; -2 to 2.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each cell of the answer that it stands in, in blanks; -2
    /// to 2.
    pub frequency_penalty: f32,
    /// In blanks, the logit of each token that stands on the canvas, prompt included, is divided by
    /// this where it is above 0, and multiplied where it is not; 0.01 to 100.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens, -100 to 100.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Default: a random one.
    pub seed: Option<u64>,
    /// The format of a continuation.
    pub format: Format,
    /// Requests with a lower number start first, within the bounds of the rotation between callers.
    pub priority: i32,
    /// Where it comes from, for the rotation; `None`: a caller of its own.
    pub origin: Option<Origin>,
    /// Texts that end a continuation and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end a continuation, in addition to the model's own, and are not part of it.
    pub stop_tokens: Vec<TokenId>,
    /// Time from submission to answer; steps that do not fit are dropped. Default: no limit.
    pub deadline: Option<Duration>,
    /// Measure the quality of every generated token at the end; takes one more forward pass.
    pub return_quality: bool,
}

impl Request {
    /// `task` with every option at its default.
    pub const fn new(task: Task) -> Self {
        Self {
            task,
            preset: None,
            order: None,
            pace: Settings::EMPTY,
            steps: None,
            block_length: None,
            remasking: None,
            proofreading: None,
            end_of_text: None,
            cache: None,
            cfg_scale: 0.0,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: None,
            format: Format::Text,
            priority: 0,
            origin: None,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            deadline: None,
            return_quality: false,
        }
    }
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The request is invalid.
    #[error("{message}")]
    Invalid {
        /// The invalid field, by its name in the HTTP API.
        param: Cow<'static, str>,
        /// What was given, what is allowed.
        message: String,
    },
    /// The prompt, or the prompt and what is to be written, takes more cells than a canvas has.
    #[error("{message}")]
    TooLong {
        /// The field that is too long, by its name in the HTTP API.
        param: Cow<'static, str>,
        /// What was given, what is allowed.
        message: String,
    },
    /// The queue is full, or the caller's share of it.
    #[error("{shortage}; try again in {retry_after} s")]
    Full {
        /// What there is too little of.
        shortage: Shortage,
        /// Expected seconds until a place is free, from the measured step time; 1 to 60.
        retry_after: u64,
    },
    /// The server is shutting down.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// The model failed and could not be reloaded.
    #[error("the model broke down and could not be loaded anew; the server stops, and its log says why")]
    GivenUp,
}

/// A rejection for the field `param`; `message` says what was given and what is allowed.
pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> Rejected {
    Rejected::Invalid { param: param.into(), message: message.into() }
}

/// A rejection for the field `param`, which takes more cells than a canvas has.
pub(super) fn too_long(param: &'static str, message: impl Into<String>) -> Rejected {
    Rejected::TooLong { param: param.into(), message: message.into() }
}
