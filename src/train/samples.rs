//! The rows of PRISM's training steps: fresh ones, which are masked and filled once, and rollouts.
//! Out of scope: the model and the loss.

use super::data::{Data, HELD_OUT};
use super::error::TrainError;
use super::masking::{Masked, Masking};
use super::rollout::Rollout;
use crate::diffusion::policy::Choice;
use crate::diffusion::{
    Canvas, Cell, DrawKey, EditError, Probability, Proposal, Reading, Review, Seed, TokenId, fills,
};
use crate::model::sigmoid;
use std::num::NonZeroU32;

/// How a head is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Blanks the model fills in a fresh row (the paper's k).
    pub fills: u32,
    /// Their order: random in the paper's Sudoku experiments, by confidence with LLaDA.
    pub order: Choice,
    /// Sampling temperature of the fills: 1 in the paper's Sudoku experiments, 0 with LLaDA.
    pub temperature: f32,
    /// Weight of the cross-entropy (the paper's lambda); the weight of the head's loss is 1.
    pub lambda: f64,
    /// Share of a step's rows that are rollouts, 0 to 1; 0 in the paper. Each has a policy of its
    /// own, and they start anew every `rounds` steps.
    pub carried: f64,
    /// Training steps of a rollout.
    pub rounds: NonZeroU32,
    /// Smallest masking ratio of a fresh row.
    pub ratio_min: f64,
    /// Largest masking ratio of a fresh row.
    pub ratio_max: f64,
}

/// Makes rows, and takes what the model says about them.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) mask: TokenId,
    pub(super) data: Data,
    held_out: Data,
    pub(super) batch: usize,
    pub(super) recipe: Recipe,
    pub(super) seed: u64,
    /// The first rows of every step; `None` where a row is to be fresh.
    rollouts: Vec<Option<Rollout>>,
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) canvas: Canvas,
    pub(super) masked: Masked,
    pub(super) truth: Vec<u32>,
    pub(super) temperature: f32,
    pub(super) seed: Seed,
    pub(super) step: u32,
    /// Whether the model has not filled anything yet.
    pub(super) is_fresh: bool,
}

/// What a row's scoring returns.
#[derive(Debug)]
pub(super) enum Feedback {
    /// A fresh row with its first fills: all that a rollout starts from.
    Filled { canvas: Canvas, truth: Vec<u32>, seed: Seed },
    /// The model's reading of a rollout's canvas.
    Read(Reading),
}

impl Feedback {
    /// On a fresh row, with its first fills.
    pub(super) fn of_fresh(row: &Sample, canvas: Canvas) -> Self {
        Self::Filled { canvas, truth: row.truth.clone(), seed: row.seed }
    }

    /// On a rollout; `logits` are the head's of its filled cells.
    pub(super) fn of_rollout(row: &Sample, proposals: Vec<Proposal>, logits: impl Iterator<Item = f32>) -> Self {
        let quality = |logit: f32| Probability::rounded(sigmoid(logit)).unwrap_or(Probability::ZERO);
        let cells = row.canvas.filled(0..row.canvas.len()).zip(logits);
        let reviews = cells.map(|((at, _), logit)| Review { at, quality: quality(logit) }).collect();
        Self::Read(Reading { proposals, reviews, ..Reading::default() })
    }
}

impl Rows {
    /// `data` are those to learn from and those that are only measured on.
    pub(super) fn new(mask: TokenId, data: [Data; 2], batch: usize, recipe: Recipe, seed: u64) -> Self {
        let carried =
            if recipe.rounds == NonZeroU32::MIN { 0 } else { (recipe.carried * batch as f64).round() as usize };
        let rollouts = vec![None; carried];
        let [data, held_out] = data;
        Self { mask, data, held_out, batch, recipe, seed, rollouts }
    }

    /// The rows of `step`.
    ///
    /// # Errors
    /// When the data can no longer be read.
    pub(super) fn of_step(&mut self, step: u32) -> Result<Vec<Sample>, TrainError> {
        if self.is_between_rounds(step) {
            self.rollouts.fill(None);
        }
        (0..self.batch).map(|index| self.continued(index).map_or_else(|| self.fresh(step, index), Ok)).collect()
    }

    /// Rows that are never learned from, all fresh; always the same ones.
    ///
    /// # Errors
    /// When the data can no longer be read.
    pub(super) fn held_out(&self) -> Result<Vec<Sample>, TrainError> {
        let count = self.held_out.most(HELD_OUT);
        (0..count).map(|index| self.fresh_of(&self.held_out, count, 0, index)).collect()
    }

    fn fresh(&self, step: u32, index: usize) -> Result<Sample, TrainError> {
        self.fresh_of(&self.data, self.batch, step, index)
    }

    fn fresh_of(&self, data: &Data, batch: usize, step: u32, index: usize) -> Result<Sample, TrainError> {
        let Recipe { ratio_min, ratio_max, temperature, .. } = self.recipe;
        let number = u64::from(step) * batch as u64 + index as u64;
        let example = data.row(number)?;
        let (seed, mask) = (self.seed, self.mask.0);
        let masked = Masking { seed, batch, ratio_min, ratio_max, mask }.apply(&example, step, index);
        let mut cells: Vec<Cell> = example.tokens.iter().map(|token| Cell::Fixed(TokenId(*token))).collect();
        for (at, _) in &masked.hidden {
            cells[*at as usize] = Cell::Blank;
        }
        let seed = Seed(rand_philox::splitmix64(self.seed ^ rand_philox::splitmix64(number)));
        let (canvas, truth) = (Canvas::new(cells), example.tokens);
        Ok(Sample { canvas, masked, truth, temperature, seed, step: 0, is_fresh: true })
    }

    /// The row of the rollout at `index`; `None` where there is none.
    fn continued(&self, index: usize) -> Option<Sample> {
        let Rollout { sequence, truth, temperature } = self.rollouts.get(index)?.as_ref()?;
        let canvas = sequence.canvas().clone();
        let ids = self.ids(&canvas).collect();
        let hidden: Vec<(u32, u32)> = canvas.blanks(0..canvas.len()).map(|at| (at.0, truth[at.index()])).collect();
        Some(Sample {
            canvas,
            // weight 0: to predict next to its own mistakes would teach a model to distrust clues
            masked: Masked { ids, hidden, weight: 0.0 },
            truth: truth.clone(),
            temperature: *temperature,
            seed: sequence.seed(),
            step: sequence.step() + 1, // the first fills were drawn with step 0
            is_fresh: false,
        })
    }

    /// A canvas as input ids of the model.
    pub(super) fn ids<'a>(&self, canvas: &'a Canvas) -> impl Iterator<Item = u32> + use<'a> {
        let mask = self.mask;
        canvas.cells().iter().map(move |cell| cell.token().unwrap_or(mask).0)
    }

    /// A fresh row's canvas with the first fills.
    pub(super) fn filled(&self, row: &Sample, proposals: &[Proposal]) -> Result<Canvas, EditError> {
        let mut canvas = row.canvas.clone();
        let key = DrawKey { seed: row.seed, step: row.step };
        for edit in fills(&self.recipe.order, proposals, |_| (), self.recipe.fills, key) {
            canvas.apply(&edit)?;
        }
        Ok(canvas)
    }

    /// Takes the feedback on all rows of a step, in their order.
    pub(super) fn absorb(&mut self, feedback: Vec<Feedback>) -> Result<(), TrainError> {
        for (slot, feedback) in self.rollouts.iter_mut().zip(feedback) {
            *slot = match (feedback, slot.take()) {
                (Feedback::Read(reading), Some(rollout)) => rollout.advance(&reading)?,
                (Feedback::Filled { canvas, truth, seed }, None) => Some(Rollout::begin(canvas, truth, seed)?),
                (Feedback::Read(_) | Feedback::Filled { .. }, _) => None,
            };
        }
        Ok(())
    }

    /// Whether every row of `step` is fresh.
    pub(super) fn is_between_rounds(&self, step: u32) -> bool {
        step.is_multiple_of(self.recipe.rounds.get())
    }
}

/// Of each filled cell, 1 where its token is that of `truth`, else 0.
pub(super) fn labels<'a>(canvas: &'a Canvas, truth: &'a [u32]) -> impl Iterator<Item = f32> + 'a {
    canvas.filled(0..canvas.len()).map(|(at, token)| f32::from(u8::from(truth[at.index()] == token.0)))
}
