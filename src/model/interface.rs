//! The interface between the algorithm and a model: a batch of canvases goes in, readings come out.
//! Out of scope: policies, requests and time.

use super::backend::cost::{Cost, Speed};
use super::backend::counts::Counts;
use super::error::{ModelError, RowError};
use crate::diffusion::{
    Canvas, Credits, Draws, Position, Probability, Proofreading, Purpose, Reading, Seed, TokenId, TokenSet,
};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fmt, num::NonZeroU32, ops::Range, sync::Arc};

/// A masked diffusion model, its quality head included. Tensors stay behind this trait.
pub trait Denoiser: Send {
    /// What it can take and what it offers. Never changes.
    fn spec(&self) -> &ModelSpec;

    /// One forward pass over all rows; one reading or error per row, in order. Either depends on
    /// that row alone (as far as docs/models.md promises this of arithmetic).
    ///
    /// # Errors
    /// When the pass fails; then no row has a reading.
    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError>;

    /// What its device was asked to do so far; all zero where nothing is counted.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// What a pass over these rows computes and reads; `None` of a model without weights.
    fn cost(&self, _batch: &Batch<'_>) -> Option<Cost> {
        None
    }

    /// Measures its device with its own operations, which takes a second or two and at most a
    /// gigabyte there; `None` of a model without weights.
    ///
    /// # Errors
    /// When an operation fails, also for lack of memory.
    fn speed(&self) -> Result<Option<Speed>, ModelError> {
        Ok(None)
    }

    /// Every number of one pass over `ids`; ids equal to the mask count as blanks here, and those
    /// before the first blank are the prompt.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the row is too long, or the pass fails.
    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError>;

    /// The same where the first `prompt` ids are the prompt. It matters to block-causal models
    /// only: the others attend to all cells alike.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    fn inspect_prompted(&mut self, ids: &[TokenId], _prompt: usize) -> Result<Inspection, ModelError> {
        self.inspect(ids)
    }
}

impl fmt::Debug for dyn Denoiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denoiser").field("spec", self.spec()).finish()
    }
}

/// Every number of one forward pass over one row of ids, for parity checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// (positions, vocabulary): scores before the softmax, that of the mask included.
    pub logits: Vec<Vec<f32>>,
    /// (positions, hidden): states after the final norm; empty where a model has none.
    pub hidden: Vec<Vec<f32>>,
    /// (positions): quality before the sigmoid; `None` without a head.
    pub quality_logits: Option<Vec<f32>>,
}

/// What a model can take and what it offers.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family of networks: `llada`, `remedi` or `mdlm`, or `toy`.
    pub family: String,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Cells of a canvas at most, prompt included.
    pub canvas_max: usize,
    /// The id of a blank in the model's input. Never proposed, never accepted in a prompt.
    pub mask: TokenId,
    /// Ids that end a text; generation stops after the block in which one appears.
    pub ends: Vec<TokenId>,
    /// Whether there are qualities: a PRISM head is loaded, or the weights judge themselves.
    pub has_quality: bool,
    /// Tokens that the quality head was trained to judge, those that its training masked; `None`
    /// where the head's file does not say.
    pub judged: Option<TokenSet>,
    /// Whether low-rank adapters were folded into the weights, which changes the logits.
    pub adapters_folded: bool,
    /// Number format of the forward pass, as `f32`.
    pub dtype: String,
    /// Number format of most weights, as `f32` or `q4_k`.
    pub weights: String,
    /// Where the model is computed, as `cpu` or `cuda:0`.
    pub device: String,
    /// Parameters, head included.
    pub parameters: u64,
    /// Options of a request that does not set them.
    pub defaults: Defaults,
    /// Presets of the model's own; `None` where its files have none.
    pub presets: Option<PresetsText>,
}

/// [`ModelSpec::presets`]: options of requests under a name, as `generation_config.json` has them.
/// They are not checked here: [`crate::api::with_presets`] reads them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PresetsText {
    /// The name of the file in errors.
    pub file: String,
    /// An object of fields of a request's `diffusion` object for each name.
    pub presets: Map<String, Value>,
}

/// [`ModelSpec::defaults`]: from the model's `generation_config.json`, else from its family.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Cells per block; `None` is the whole canvas.
    pub block_length: Option<NonZeroU32>,
    /// Steps for the whole run; `None` is one per blank.
    pub steps: Option<NonZeroU32>,
    /// New tokens of a continuation; `None` is what the canvas has room for.
    pub new_tokens: Option<NonZeroU32>,
    /// Proofreading by a model with a quality head; `None` is no proofreading.
    pub proofreading: Option<Proofreading>,
    /// What a repair erases that sets neither `below` nor `worst`; `None` is all that is doubtful.
    pub repair: Option<Repair>,
}

/// [`Defaults::repair`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repair {
    /// A token whose quality is below this is doubted.
    pub below: Probability,
    /// Erasures of a round at most, the lowest quality first; `None` is all that are doubted.
    pub worst: Option<NonZeroU32>,
}

/// How a token is drawn from the model's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token; finite above, `argmax(logit + temperature * gumbel)`.
    pub temperature: f32,
    /// Key of the noise, together with `step` and the position.
    pub seed: Seed,
    /// Forward passes of the sequence so far, so that a cell filled again gets a fresh draw.
    pub step: u32,
    /// Which tokens may be drawn.
    pub filter: Filter,
}

impl Sampling {
    /// How the token of one blank is drawn; `None` at temperature 0.
    pub(crate) fn noise(&self, at: Position) -> Option<Noise> {
        (self.temperature > 0.0).then(|| Noise {
            temperature: f64::from(self.temperature),
            draws: Draws::new(self.seed, Purpose::Token, self.step, at),
            filter: self.filter,
        })
    }
}

/// How the token of one blank is drawn, with noise keyed by the token's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    /// Above zero.
    pub(crate) temperature: f64,
    pub(crate) draws: Draws,
    pub(crate) filter: Filter,
}

/// Which tokens may be drawn: those that all limits leave of the tempered distribution.
/// Confidence, margin and entropy of a token still refer to the whole distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// This many of the most probable tokens.
    pub top_k: Option<NonZeroU32>,
    /// The smallest set of most probable tokens whose probabilities sum to at least this; above 0
    /// and at most 1.
    pub top_p: Option<f32>,
    /// Tokens whose probability is at least this share of the largest one; above 0 and at most 1.
    pub min_p: Option<f32>,
}

impl Filter {
    /// Every token.
    pub const ALL: Self = Self { top_k: None, top_p: None, min_p: None };
}

/// What is done to a logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// This is added: a finite number, or minus infinity, which bans the token and is its last
    /// change.
    Add(f32),
    /// A logit above 0 is divided by this, another one multiplied (arXiv 1909.05858, section 4.1):
    /// a finite number above 0.
    Scale(f32),
}

impl Change {
    /// The logit of a token that is banned: the lowest finite one. It has no weight and is not
    /// proposed, and a logit that is not finite still means a broken model.
    const BANNED: f32 = f32::MIN;

    /// The logit after the change.
    pub(crate) fn of(self, logit: f32) -> f32 {
        match self {
            Self::Add(f32::NEG_INFINITY) => Self::BANNED,
            Self::Add(bias) => logit + bias,
            Self::Scale(penalty) if logit > 0.0 => logit / penalty,
            Self::Scale(penalty) => logit * penalty,
        }
    }

    /// Whether it is one of those that a row may have.
    fn is_valid(self) -> bool {
        match self {
            Self::Add(bias) => !bias.is_nan() && bias != f32::INFINITY,
            Self::Scale(penalty) => penalty > 0.0 && penalty.is_finite(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(bias) => write!(f, "a bias of {bias}"),
            Self::Scale(penalty) => write!(f, "a repetition penalty of {penalty}"),
        }
    }
}

/// Cells in which only some tokens may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// The cells.
    pub cells: Range<usize>,
    /// The tokens; at least one, none of them the mask.
    pub tokens: Arc<[TokenId]>,
}

/// One canvas to read.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// The whole canvas; attention covers every cell.
    pub canvas: &'a Canvas,
    /// What the network reads in place of `canvas`: the same with its blanks filled. Proposals are
    /// for the blanks of `canvas` all the same, and what is asked about filled cells is asked about
    /// those of `shown`.
    pub shown: Option<&'a Canvas>,
    /// The cells to report on: proposals for its blanks, reviews for its filled cells.
    pub window: Range<usize>,
    /// How proposals are drawn.
    pub sampling: Sampling,
    /// Classifier-free guidance weight w: `l = l_u + (1 + w) (l - l_u)`, where `l_u` is read in the
    /// same pass with every fixed cell masked (LLaDA, arXiv 2502.09992, appendix A.2).
    pub guidance: Option<f32>,
    /// What is done to the logits of these tokens before the softmax, and after guidance; several
    /// changes of a token in their order.
    pub biases: &'a [(TokenId, Change)],
    /// In place of `biases` in the blanks; `None` is the same there.
    pub blank_biases: Option<&'a [(TokenId, Change)]>,
    /// Credits of the blanks, which change their logits after biases, and before all that is drawn
    /// and measured. With them, the most probable token of each blank without credit is reported.
    pub credit: Option<&'a Credits>,
    /// Entries from left to right, no cell in two of them. The entry that contains a cell applies
    /// there, instead of the filter. Confidence, margin and entropy still refer to the whole
    /// distribution.
    pub only: &'a [Restriction],
    /// Whether filled cells are reviewed. Needs a model with a quality head.
    pub review: bool,
    /// Whether the reviews of filled cells are exact: the probability of each token with its own
    /// cell masked, instead of what a head says. Adds a sequence to the pass for each of them.
    /// Guidance does not apply to it.
    pub exact: bool,
    /// Whether the present confidence of filled cells is reported. Guidance does not apply to it.
    pub present: bool,
    /// Whether the most probable token of filled cells is reported, of those that may be written
    /// there. Guidance applies to it as to proposals, the temperature does not.
    pub best: bool,
    /// Whether the whole distribution of each blank is reported: `vocabulary` numbers.
    pub distributions: bool,
}

/// Rows that share a forward pass, concatenated without padding.
pub type Batch<'a> = [Row<'a>];

/// What a forward pass says about each of its rows.
pub type Readings = Vec<Result<Reading, RowError>>;

impl<'a> Row<'a> {
    /// `window` of a canvas without any option: the most probable tokens, and no reviews.
    pub const fn plain(canvas: &'a Canvas, window: Range<usize>) -> Self {
        let sampling = Sampling { temperature: 0.0, seed: Seed(0), step: 0, filter: Filter::ALL };
        Self {
            canvas,
            shown: None,
            window,
            sampling,
            guidance: None,
            biases: &[],
            blank_biases: None,
            credit: None,
            only: &[],
            review: false,
            present: false,
            best: false,
            exact: false,
            distributions: false,
        }
    }

    /// What the network reads.
    pub const fn seen(&self) -> &'a Canvas {
        if let Some(shown) = self.shown { shown } else { self.canvas }
    }

    /// Tokens that this row adds to a forward pass.
    pub fn tokens(&self) -> usize {
        let exact = if self.exact { self.seen().filled(self.window.clone()).count() } else { 0 };
        self.canvas.len() * (exact + if self.guidance.is_some() { 2 } else { 1 })
    }

    /// The tokens that may be written at `at`; `None` is all.
    pub(crate) fn allowed(&self, at: Position) -> Option<&[TokenId]> {
        let next = self.only.partition_point(|only| only.cells.end <= at.index());
        self.only.get(next).filter(|only| only.cells.contains(&at.index())).map(|only| &*only.tokens)
    }

    /// Checks that the model can read the row. Admission makes the same checks; these keep ids
    /// without an embedding out of the network in any case.
    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<(), RowError> {
        let refuse = |problem: String| Err(RowError::Unsupported(problem));
        let (cells, size, allowed) = (self.canvas.len(), spec.vocabulary, spec.canvas_max);
        if cells > allowed {
            return refuse(format!("a canvas of {cells} cells; this model reads up to {allowed}"));
        }
        let shown = self.seen().len();
        if shown != cells {
            return refuse(format!("{shown} cells shown in place of a canvas of {cells}"));
        }
        let mut tokens = self.seen().cells().iter().filter_map(|cell| cell.token());
        if let Some(TokenId(id)) = tokens.find(|token| token.0 >= size) {
            return refuse(format!("token id {id}; this model's ids are below {size}"));
        }
        let is_wrong = |(token, change): &&(TokenId, Change)| token.0 >= size || !change.is_valid();
        let of_blanks = self.blank_biases.unwrap_or_default();
        if let Some((TokenId(id), change)) = self.biases.iter().chain(of_blanks).find(is_wrong) {
            return refuse(format!(
                "{change} for token {id}; ids are below {size}, a bias is finite or minus infinity, and a penalty is \
                 finite and above 0"
            ));
        }
        let is_writable = |token: &TokenId| token.0 < size && *token != spec.mask;
        let mut seen = BTreeSet::new(); // lists are shared by cells
        let is_wrong = |only: &&Restriction| {
            seen.insert(only.tokens.as_ptr()) && (only.tokens.is_empty() || !only.tokens.iter().all(is_writable))
        };
        if let Some(Restriction { cells, tokens }) = self.only.iter().find(is_wrong) {
            return refuse(format!(
                "only {tokens:?} in the cells {cells:?}; give at least one id below {size} that is not the mask"
            ));
        }
        if self.review && !self.exact && !spec.has_quality {
            return refuse("reviews need a model with a quality head".to_owned());
        }
        match self.guidance {
            Some(weight) if !weight.is_finite() => refuse(format!("a guidance weight of {weight}; it must be finite")),
            Some(_) | None => Ok(()),
        }
    }
}
