//! A row: one canvas to read, and what is asked about it. Out of scope: the rest of its pass.

use super::error::RowError;
use super::sampling::{Change, Filter, Sampling};
use super::spec::ModelSpec;
use crate::diffusion::policy::Scoring;
use crate::diffusion::{Canvas, Credits, Position, Reuse, Seed, TokenId};
use std::{collections::BTreeSet, num::NonZeroUsize, ops::Range, sync::Arc};

/// The name of a sequence, under which a model keeps keys and values for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceName(pub u64);

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
    /// Which keys and values of an earlier pass it uses, under the name of its sequence; `None` is
    /// none. Has no effect on rows for exact reviews.
    pub reuse: Option<(SequenceName, Reuse<'a>)>,
    /// Cells of a block, of a block-causal model: counted from the end of the prompt (the fixed
    /// cells at the start). A cell attends to its own block and those before it. `None` is the
    /// length that the model was trained with; other models attend to all cells in any case.
    pub block_length: Option<NonZeroUsize>,
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
    /// What each blank and filled cell is scored by, if anything. Scores by quality need a model
    /// that judges blanks.
    pub scores: Option<Scoring>,
}

impl<'a> Row<'a> {
    /// `window` of a canvas without any option: the most probable tokens, and no reviews.
    pub const fn plain(canvas: &'a Canvas, window: Range<usize>) -> Self {
        let sampling = Sampling { temperature: 0.0, seed: Seed(0), step: 0, filter: Filter::ALL };
        Self {
            canvas,
            shown: None,
            reuse: None,
            block_length: None,
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
            scores: None,
        }
    }

    /// What the network reads.
    pub const fn seen(&self) -> &'a Canvas {
        if let Some(shown) = self.shown { shown } else { self.canvas }
    }

    /// Tokens that this row adds to a forward pass, if all that it reuses is kept.
    pub fn tokens(&self) -> usize {
        let exact = if self.exact { self.seen().filled(self.window.clone()).count() } else { 0 };
        let own = self.reuse.as_ref().map_or(self.canvas.len(), |(_, reuse)| reuse.tokens());
        self.canvas.len() * exact + own * if self.guidance.is_some() { 2 } else { 1 }
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
        if let Some((_, Reuse { base, run, seen })) = &self.reuse {
            let outside = run.iter().chain(seen).find(|range| range.end > cells);
            if base.len() != cells || outside.is_some() {
                let based = base.len();
                return refuse(format!(
                    "a pass reused for {cells} cells: of {based} cells, run {run:?}, seen {seen:?}"
                ));
            }
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
        if self.scores == Some(Scoring::Quality) && !spec.judges_blanks {
            return refuse("scores by quality need a model that judges blanks as well".to_owned());
        }
        match self.guidance {
            Some(weight) if !weight.is_finite() => refuse(format!("a guidance weight of {weight}; it must be finite")),
            Some(_) | None => Ok(()),
        }
    }
}
