//! The seam between the algorithm and whatever computes: a canvas goes in, a reading comes out. Tensors stay
//! behind it. Refuses to know policies, requests and time.

mod backend;
mod config;
mod denoiser;
mod device;
mod error;
mod families;
mod load;
mod network;
mod toy;
mod weights;

pub(crate) use backend::cpu::sampling::Noise;
pub(crate) use backend::cpu::summary::{Vocabulary, summarise};
pub use config::llada::Config;
pub use device::{Device, Precision, Threads, settle_threads, threads};
pub use error::LoadError;
pub(crate) use families::head::tensors as head_tensors;
pub use load::{Source, load, load_in};
pub(crate) use load::{Tensors, tensors};
pub use toy::Toy;
pub(crate) use weights::convert::{COMPANIONS, save_adapter};
pub use weights::convert::{ConvertError, put_together, take_apart};
pub use weights::gguf::vocabulary::{Lexicon, Tokens};
pub use weights::gguf::write::{Format, quantise};
pub(crate) use weights::registry::BASE;
pub use weights::save::SaveError;
pub(crate) use weights::save::{save, save_tensors};

use crate::diffusion::{Canvas, Position, Proofreading, Reading, Seed, TokenId};
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

/// What a model can take and what it offers; everything admission needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The architecture, as `config.json` names it: `llada`, or `toy`.
    pub family: String,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Cells of a canvas at most, prompt included.
    pub canvas_max: usize,
    /// The id that stands for a blank in the model's input. Never proposed, never accepted in a prompt.
    pub mask: TokenId,
    /// Ids that end a text; generation stops after the block in which one appears.
    pub ends: Vec<TokenId>,
    /// Whether a PRISM quality head is loaded.
    pub has_quality: bool,
    /// Whether low-rank adapters were folded into the weights, which changes the base model's logits.
    pub adapters_folded: bool,
    /// Numbers the forward pass is computed in, as `f32`.
    pub dtype: String,
    /// Numbers most weights are held in, as `f32` or `q4_k`.
    pub weights: String,
    /// Where it is computed, as `cpu` or `cuda:0`.
    pub device: String,
    /// Parameters, head included.
    pub parameters: u64,
    /// What a request that does not say gets.
    pub defaults: Defaults,
}

/// What a model's `generation_config.json`, else its family, proposes for requests that do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Cells per block; `None` is the whole canvas.
    pub block_length: Option<NonZeroU32>,
    /// Steps for the whole run; `None` is one per blank.
    pub steps: Option<NonZeroU32>,
    /// New tokens of a continuation; `None` is what the canvas has room for.
    pub new_tokens: Option<NonZeroU32>,
    /// How a model with a quality head reads through what it wrote; `None` is not at all.
    pub proofreading: Option<Proofreading>,
}

/// How a token is drawn from the model's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token; above it, `argmax(logit + temperature * gumbel)`. Finite, not negative.
    pub temperature: f32,
    /// Key of the noise, together with `step` and the position.
    pub seed: Seed,
    /// The sequence's forward passes so far, so that a refill draws afresh.
    pub step: u32,
    /// Which tokens may be drawn.
    pub filter: Filter,
}

/// Which tokens may be drawn: those left by both limits, of the tempered distribution. What is said of a token (confidence,
/// margin, entropy) is said of the whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// The likeliest ones, as many as this.
    pub top_k: Option<NonZeroU32>,
    /// The likeliest ones whose probabilities together reach this, that of the crossing one included; above 0 and at most 1.
    pub top_p: Option<f32>,
}

impl Filter {
    /// Every token.
    pub const ALL: Self = Self { top_k: None, top_p: None };
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
    /// The whole canvas; every cell is seen by attention.
    pub canvas: &'a Canvas,
    /// The cells to report on: proposals for its blanks, reviews for its filled cells.
    pub window: Range<usize>,
    /// How proposals are drawn.
    pub sampling: Sampling,
    /// Classifier-free guidance weight w: `l = l_u + (1 + w) (l - l_u)`, `l_u` read with every fixed cell
    /// masked, as a second row of the same pass (LLaDA, arXiv 2502.09992, appendix A.2). `None` costs nothing.
    pub guidance: Option<f32>,
    /// Added to the logits of these tokens before anything is made of them; minus infinity bans a token.
    pub biases: &'a [(TokenId, f32)],
    /// Cells in which only some tokens may be written; of several that name a cell the first one holds. What is said of a token
    /// is said of the whole distribution, as with a filter, which does not apply there.
    pub only: &'a [Restriction],
    /// Whether filled cells are reviewed. Needs a model with a quality head.
    pub review: bool,
}

impl Row<'_> {
    /// Tokens the forward pass sees for this row.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.canvas.len() * if self.guidance.is_some() { 2 } else { 1 }
    }

    /// The tokens that may be written at `at`; `None` is all.
    pub(crate) fn allowed(&self, at: Position) -> Option<&[TokenId]> {
        self.only.iter().find(|only| only.cells.contains(&at.index())).map(|only| &*only.tokens)
    }
}

/// Rows that share a forward pass, concatenated without padding.
pub type Batch<'a> = [Row<'a>];

/// Every number of one pass over one row of ids: for parity checks, far too much for serving.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// (positions, vocabulary): scores before the softmax, the mask's own included.
    pub logits: Vec<Vec<f32>>,
    /// (positions, hidden): states after the final norm; empty where a model has none.
    pub hidden: Vec<Vec<f32>>,
    /// (positions): quality before the sigmoid; `None` without a head.
    pub quality_logits: Option<Vec<f32>>,
}

/// Why a pass gave no readings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The forward pass produced a NaN or an infinity.
    #[error("the model produced a number that is not finite ({what}); the weights are damaged or overflow in {dtype}")]
    NotFinite {
        /// What was not finite.
        what: &'static str,
        /// What it was computed in.
        dtype: String,
    },
    /// A row asked for what this model does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The device has no room for a pass of this size.
    #[error("the device ran out of memory: {0}")]
    OutOfMemory(String),
    /// The tensor library failed, or the device did.
    #[error("the forward pass failed: {0}")]
    Failed(String),
    /// A bug of the model's; what it holds can no longer be trusted.
    #[error("the model panicked; the server's log says more")]
    Panicked,
}

/// A masked diffusion model, its quality head included. The only seam with tensors behind it.
pub trait Denoiser: Send {
    /// What it can take and what it offers. Never changes.
    fn spec(&self) -> &ModelSpec;

    /// One forward pass over all rows; one reading per row, in order. A row's reading depends on that row
    /// alone (up to what ARCHITECTURE.md says about arithmetic).
    ///
    /// # Errors
    /// When the pass fails; then no row has a reading.
    fn read(&mut self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError>;

    /// Every number of one pass over `ids`; ids equal to the mask count as blanks here.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the row is longer than the canvas limit, or the pass fails.
    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError>;
}

impl fmt::Debug for dyn Denoiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denoiser").field("spec", self.spec()).finish()
    }
}
