//! What a user may ask for, as it was asked: every option optional, nothing looked up yet. `admission` turns it into
//! a job. Knows neither wire formats nor tensors.

use super::shape::Shape;
use crate::diffusion::{Order, TokenId};
use crate::text::Message;
use std::ops::Range;
use std::time::Duration;

/// Default threshold of quality (or confidence) below which a token counts as doubtful: it is more
/// likely wrong than right.
pub const DOUBTFUL: f32 = 0.5;

/// Text, or the ids it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// To be encoded by the model's tokenizer; special tokens in it stay text.
    Text(String),
    /// Ids as they are.
    Tokens(Vec<TokenId>),
    /// A conversation, to be written down with the model's own template, the assistant's turn opened.
    Chat(Vec<Message>),
}

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// The model's default, or what is left of its canvas if that is less.
    Default,
    /// This many new tokens at most.
    New(usize),
    /// A canvas of this many cells, prompt included.
    Total(usize),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Write on from a prompt.
    Continue {
        /// What stands before.
        prompt: Prompt,
        /// How much follows.
        length: Length,
    },
    /// Fill the blanks of a text and leave the rest as it is.
    Infill {
        /// A text with blanks.
        template: String,
        /// What stands for one blank cell; `<blank>` also comes as `<blank:12>`, twelve cells.
        blank: String,
    },
    /// Write what stands between two texts.
    Between {
        /// The text before.
        before: String,
        /// Tokens between them.
        cells: usize,
        /// The text after.
        after: String,
    },
    /// Judge every token of a given text; needs a head unless only likelihoods are asked for.
    Score {
        /// The text.
        text: Prompt,
        /// Also tell each token's probability given all others; one more forward pass for each.
        likelihood: bool,
    },
    /// Read a given text through, erase what is doubted and write it again, as [`Request::proofreading`] says; needs a head.
    Repair {
        /// The text.
        text: Prompt,
        /// Characters (of a text) or tokens (of ids) that stay as they are.
        pinned: Vec<Range<usize>>,
    },
    /// Fill the blanks among some tokens and leave the rest as it is.
    InfillTokens {
        /// `None` is a blank.
        cells: Vec<Option<TokenId>>,
    },
}

/// Which filled cells may be erased, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Remasking {
    /// None.
    Off,
    /// Those of low quality.
    Quality {
        /// Erasures per block at most; by default one per blank of the block.
        budget: Option<u32>,
        /// Only below this quality. Default: 0.5 without a budget, else the worst whatever their quality.
        below: Option<f32>,
        /// Part of each block's steps in which erasing is allowed, as two fractions. Default: all of it.
        window: Option<[f32; 2]>,
    },
    /// Those filled with low confidence; needs no head.
    Confidence {
        /// As above.
        budget: Option<u32>,
        /// Only those filled with a confidence below this. Default: 0.5 without a budget, else the worst whatever it was.
        below: Option<f32>,
        /// As above.
        window: Option<[f32; 2]>,
    },
    /// Some at random, sooner those filled with low confidence (ReMDM-conf, arXiv 2503.00307); needs no head.
    ReMdm {
        /// As above.
        budget: Option<u32>,
        /// As above.
        window: Option<[f32; 2]>,
    },
    /// Some at random.
    Random {
        /// Erasures per block at most; by default one per blank of the block.
        budget: Option<u32>,
        /// As above.
        window: Option<[f32; 2]>,
    },
}

/// Reading a block through once it is full, as asked for; needs a head.
#[derive(Clone, Debug, PartialEq)]
pub struct Proofreading {
    /// Steps per block at most, beyond the others; 0 is off, else at least 2. Default: one for each cell, 128 at
    /// most.
    pub steps: Option<u32>,
    /// Tokens of lower quality are erased and written again. Default: 0.5.
    pub below: Option<f32>,
    /// Erasures of a round at most, the worst first. Default: all that are doubted.
    pub most: Option<u32>,
    /// Temperature at which they are written. Default: the request's.
    pub temperature: Option<f32>,
}

/// What becomes of the tokens that end a text (LLaDA, arXiv 2502.09992, appendix B.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndOfText {
    /// They are tokens like others.
    #[default]
    Free,
    /// They are filled in after all else of their block.
    Last,
    /// They are never proposed.
    Never,
}

/// What a continuation is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Any text.
    #[default]
    Text,
    /// A JSON object of whatever members; one that is cut short or goes wrong is closed there.
    Json,
    /// JSON of this shape.
    Shaped(Shape),
}

/// One thing to do, with the user's wishes about how.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is to be done.
    pub task: Task,
    /// Which blank is filled first.
    pub order: Order,
    /// Confidence from which blanks are filled, however many; `None` fills an even share per step.
    pub threshold: Option<f32>,
    /// Steps for the whole run; default: the model's, else one per blank (no bound with a threshold).
    pub steps: Option<u32>,
    /// Cells per block; default: the model's, else the whole canvas.
    pub block_length: Option<u32>,
    /// Default: by quality if the model has a head, else off.
    pub remasking: Option<Remasking>,
    /// Default: the model's where remasking is by quality, else off.
    pub proofreading: Option<Proofreading>,
    /// When the tokens that end a text may be filled in.
    pub end_of_text: EndOfText,
    /// Classifier-free guidance weight; 0 is off and costs nothing, anything else doubles the cost.
    pub cfg_scale: f32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Only this many of the likeliest tokens are drawn; `None` is all.
    pub top_k: Option<u32>,
    /// Only the likeliest tokens are drawn whose probabilities together reach this; `None` is all.
    pub top_p: Option<f32>,
    /// Added to the logits of these tokens, -100 to 100.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Default: a fresh one.
    pub seed: Option<u64>,
    /// What a continuation is to be.
    pub format: Format,
    /// Who waits with a lower number is served first; among equals who came first.
    pub priority: i32,
    /// Texts that end a continuation; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end a continuation, like the model's own; they are not part of it.
    pub stop_tokens: Vec<TokenId>,
    /// The answer is there after this time, counted from its submission, as good as it can be by then. Default: it takes its time.
    pub deadline: Option<Duration>,
    /// Judge every generated token at the end; costs one more forward pass.
    pub return_quality: bool,
}

impl Request {
    /// `task` with every option at its default.
    #[must_use]
    pub const fn new(task: Task) -> Self {
        Self {
            task,
            order: Order::Confidence,
            threshold: None,
            steps: None,
            block_length: None,
            remasking: None,
            proofreading: None,
            end_of_text: EndOfText::Free,
            cfg_scale: 0.0,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            logit_bias: Vec::new(),
            seed: None,
            format: Format::Text,
            priority: 0,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            deadline: None,
            return_quality: false,
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The request is at fault.
    #[error("{message}")]
    Invalid {
        /// The field at fault, as the HTTP API spells it.
        param: &'static str,
        /// What was given, what is allowed.
        message: String,
    },
    /// Too many wait already.
    #[error("{waiting} requests are being served or waiting, which is the limit; try again in {retry_after} s")]
    Full {
        /// Requests admitted and unfinished.
        waiting: usize,
        /// Seconds until a place is likely to be free, from measured step time; at least 1.
        retry_after: u64,
    },
    /// The server is shutting down.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// The model broke down and could not be loaded anew.
    #[error("the model broke down and could not be loaded anew; the server stops, and its log says why")]
    GivenUp,
}
