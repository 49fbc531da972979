//! What is known of a model: sizes, special tokens, defaults. Out of scope: passes.

use crate::diffusion::{Probability, Proofreading, TokenId, TokenSet};
use serde_json::{Map, Value};
use std::num::{NonZeroU32, NonZeroUsize};

/// What a model can take and what it offers.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family of networks: `llada`, `remedi`, `dream` or `mdlm`, or `toy`.
    pub family: String,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Cells of a canvas at most, prompt included.
    pub canvas_max: usize,
    /// The id of a blank in the model's input. Never proposed, never accepted in a prompt.
    pub mask: TokenId,
    /// Ids that end a text; generation stops after the block in which one appears.
    pub ends: Vec<TokenId>,
    /// Whether, and how exactly, it can keep keys and values from pass to pass.
    pub keeping: Keeping,
    /// Whether there are qualities: a PRISM head is loaded, or the weights judge themselves.
    pub has_quality: bool,
    /// Whether there is a quality of blanks, too: how likely the model finds that what it would
    /// write there is right.
    pub judges_blanks: bool,
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
    /// Presets that are published for the model, and not in its files; `None` where this program
    /// does not know it.
    pub card: Option<PresetsText>,
}

/// [`ModelSpec::keeping`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    /// It keeps none.
    #[default]
    No,
    /// Every cell attends to every other, so that what is kept is what an earlier canvas made of
    /// it: an approximation.
    Approximate,
    /// Blocks of so many cells, counted from the end of the prompt, attend only to themselves and
    /// to what lies before them, so that what is kept of finished blocks is exact.
    Exact(NonZeroUsize),
}

impl Keeping {
    /// Its name in `/v1/models`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "none",
            Self::Approximate => "approximate",
            Self::Exact(_) => "exact",
        }
    }
}

/// [`ModelSpec::presets`] and [`ModelSpec::card`]: options of requests under a name, as
/// `generation_config.json` has them. They are not checked here: [`crate::api::with_presets`] reads
/// them.
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
    /// Steps for the whole run, if it has as many blanks; else, and for `None`, one per blank.
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
