//! What a model can take and what it offers: all that admission needs to know of it.

use crate::diffusion::{Proofreading, TokenId};
use std::num::NonZeroU32;

/// What a model can take and what it offers.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The architecture, as `config.json` names it: `llada`, or `toy`.
    pub family: String,
    /// Token ids are below this.
    pub vocabulary: u32,
    /// Cells of a canvas at most, prompt included.
    pub canvas_max: usize,
    /// The id that stands for a blank in the model's input. Never proposed, never accepted in a
    /// prompt.
    pub mask: TokenId,
    /// Ids that end a text; generation stops after the block in which one appears.
    pub ends: Vec<TokenId>,
    /// Whether a PRISM quality head is loaded.
    pub has_quality: bool,
    /// Whether low-rank adapters were folded into the weights, which changes the base model's
    /// logits.
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
}

/// Options of a request that does not set them: from the model's `generation_config.json`, else
/// from its family.
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
}
