//! The rows of one forward pass: a canvas each, the cells to report on and how tokens are drawn.

use super::error::ModelError;
use super::spec::ModelSpec;
use crate::diffusion::{Canvas, Draws, Position, Purpose, Seed, TokenId};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

/// How a token is drawn from the model's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token; above it, `argmax(logit + temperature * gumbel)`. Finite,
    /// not negative.
    pub temperature: f32,
    /// Key of the noise, together with `step` and the position.
    pub seed: Seed,
    /// Forward passes of the sequence so far, so that a cell filled again gets a fresh draw.
    pub step: u32,
    /// Which tokens may be drawn.
    pub filter: Filter,
}

impl Sampling {
    /// How the token of one blank is drawn; `None` at temperature 0, which takes the most probable
    /// one.
    pub(crate) fn noise(&self, at: Position) -> Option<Noise> {
        (self.temperature > 0.0).then(|| Noise {
            temperature: f64::from(self.temperature),
            draws: Draws::new(self.seed, Purpose::Token, self.step, at),
            filter: self.filter,
        })
    }
}

/// How the token of one blank is drawn: `argmax(logit + temperature * gumbel)`, with noise keyed by
/// the token's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    /// Above zero.
    pub(crate) temperature: f64,
    pub(crate) draws: Draws,
    pub(crate) filter: Filter,
}

/// Which tokens may be drawn: those that both limits leave of the tempered distribution.
/// Confidence, margin and entropy of a token still refer to the whole distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// This many of the most probable tokens.
    pub top_k: Option<NonZeroU32>,
    /// The smallest set of most probable tokens whose probabilities sum to at least this; above 0
    /// and at most 1.
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
    /// The whole canvas; attention covers every cell.
    pub canvas: &'a Canvas,
    /// The cells to report on: proposals for its blanks, reviews for its filled cells.
    pub window: Range<usize>,
    /// How proposals are drawn.
    pub sampling: Sampling,
    /// Classifier-free guidance weight w: `l = l_u + (1 + w) (l - l_u)`, where `l_u` is computed
    /// with every fixed cell masked, as a second row of the same pass (LLaDA, arXiv 2502.09992,
    /// appendix A.2). `None` adds no row.
    pub guidance: Option<f32>,
    /// Added to the logits of these tokens before the softmax; minus infinity bans a token.
    pub biases: &'a [(TokenId, f32)],
    /// Cells in which only some tokens may be written. The first entry that contains a cell
    /// applies, and the filter does not apply there. Confidence, margin and entropy still refer to
    /// the whole distribution.
    pub only: &'a [Restriction],
    /// Whether filled cells are reviewed. Needs a model with a quality head.
    pub review: bool,
    /// Whether the present confidence of filled cells is reported. Guidance does not apply to it.
    pub present: bool,
}

/// Rows that share a forward pass, concatenated without padding.
pub type Batch<'a> = [Row<'a>];

impl Row<'_> {
    /// Tokens that this row adds to a forward pass.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.canvas.len() * if self.guidance.is_some() { 2 } else { 1 }
    }

    /// The tokens that may be written at `at`; `None` is all.
    pub(crate) fn allowed(&self, at: Position) -> Option<&[TokenId]> {
        self.only.iter().find(|only| only.cells.contains(&at.index())).map(|only| &*only.tokens)
    }

    /// Checks the row against what a model can take. Admission makes the same checks; these keep
    /// ids without an embedding out of the network in any case.
    ///
    /// # Errors
    /// When the model cannot read the row.
    pub(crate) fn check(&self, spec: &ModelSpec) -> Result<(), ModelError> {
        let refuse = |problem: String| Err(ModelError::Unsupported(problem));
        let size = spec.vocabulary;
        if self.canvas.len() > spec.canvas_max {
            let (given, allowed) = (self.canvas.len(), spec.canvas_max);
            return refuse(format!("a canvas of {given} cells; this model reads up to {allowed}"));
        }
        let mut tokens = self.canvas.cells().iter().filter_map(|cell| cell.token());
        if let Some(TokenId(id)) = tokens.find(|token| token.0 >= size) {
            return refuse(format!("token id {id}; this model's ids are below {size}"));
        }
        let is_wrong = |(token, bias): &&(TokenId, f32)| token.0 >= size || bias.is_nan() || *bias == f32::INFINITY;
        if let Some((TokenId(id), bias)) = self.biases.iter().find(is_wrong) {
            return refuse(format!(
                "a bias of {bias} for token {id}; ids are below {size}, and a bias is finite or minus infinity"
            ));
        }
        let is_writable = |token: &TokenId| token.0 < size && *token != spec.mask;
        let is_wrong = |only: &&Restriction| only.tokens.is_empty() || !only.tokens.iter().all(is_writable);
        if let Some(Restriction { cells, tokens }) = self.only.iter().find(is_wrong) {
            return refuse(format!(
                "only {tokens:?} in the cells {cells:?}; give at least one id below {size} that is not the mask"
            ));
        }
        if self.review && !spec.has_quality {
            return refuse("reviews need a model with a quality head".to_owned());
        }
        match self.guidance {
            Some(weight) if !weight.is_finite() => refuse(format!("a guidance weight of {weight}; it must be finite")),
            Some(_) | None => Ok(()),
        }
    }
}
