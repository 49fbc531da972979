//! PRISM: a head that learns how likely a token is to be right, from tokens the model filled itself (arXiv 2510.01384,
//! algorithm 1). Beside the paper's single step of fills, a row may be refined further by the sampler itself, so that the
//! head also sees the canvases that many steps lead to. Refuses to know files.

use super::TrainError;
use super::data::Data;
use super::masked::{Denoised, Masked, Masking, denoise};
use super::net::Net;
use super::run::{Scored, Task};
use crate::diffusion::{
    Canvas, Cell, Draws, Order, Pace, Policy, Position, Probability, Proofreading, Proposal, Purpose, Reading, Remask,
    Review, Seed, Sequence, Stretch, TokenId, fills,
};
use crate::model::{Config, Filter, Sampling, SummaryOptions, Vocabulary, sigmoid, summarise};
use candle_core::Tensor;
use std::num::NonZeroU32;

/// How a head is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Blanks the model fills in a fresh row ("k").
    pub fills: u32,
    /// Which blanks these are: random in the paper's Sudoku form, the most confident in its LLaDA form.
    pub order: Order,
    /// Temperature of the fills: 1 in the paper's Sudoku form, 0 in its LLaDA form.
    pub temperature: f32,
    /// Weight of the cross-entropy ("lambda"); the judgement's is 1.
    pub lambda: f64,
    /// Share of a step's rows that the sampler goes on with, by a policy drawn for each: 0 is the paper's. They are fresh every
    /// `rounds` steps.
    pub carried: f64,
    /// Steps that learn from a carried row.
    pub rounds: NonZeroU32,
    /// Smallest masking ratio of a fresh row.
    pub ratio_min: f64,
    /// Largest masking ratio of a fresh row.
    pub ratio_max: f64,
}

/// Rows on their way and the recipe for them.
#[derive(Debug)]
pub(super) struct Prism {
    pub(super) config: Config,
    pub(super) data: Data,
    pub(super) batch: usize,
    pub(super) recipe: Recipe,
    pub(super) seed: u64,
    /// Whether the backbone learns, too.
    pub(super) learns_backbone: bool,
    running: Vec<Option<Running>>,
    /// Tokens that are judged in this step, which the judgement's mean is over.
    judged: usize,
}

/// A row that the sampler refines.
#[derive(Clone, Debug)]
struct Running {
    sequence: Sequence,
    truth: Vec<u32>,
    temperature: f32,
}

/// What a step learns from one row.
#[derive(Debug)]
pub(super) struct Row {
    canvas: Canvas,
    masked: Masked,
    truth: Vec<u32>,
    temperature: f32,
    seed: Seed,
    step: u32,
    /// Whether the model has not filled anything yet.
    is_fresh: bool,
}

/// What came of a row.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The canvas with the first fills, and what a sampler needs to go on with it.
    Filled { canvas: Canvas, truth: Vec<u32>, seed: Seed },
    /// What the model says of the canvas.
    Read(Reading),
}

impl Row {
    /// A row of which the model has filled nothing yet.
    pub(super) const fn fresh(canvas: Canvas, masked: Masked, truth: Vec<u32>, temperature: f32, seed: Seed) -> Self {
        Self { canvas, masked, truth, temperature, seed, step: 0, is_fresh: true }
    }
}

impl Prism {
    pub(super) fn new(
        config: Config,
        data: Data,
        batch: usize,
        recipe: Recipe,
        seed: u64,
        learns_backbone: bool,
    ) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        // a part of the batch
        let carried =
            if recipe.rounds == NonZeroU32::MIN { 0 } else { (recipe.carried * batch as f64).round() as usize };
        let running = vec![None; carried];
        Self { config, data, batch, recipe, seed, learns_backbone, running, judged: 0 }
    }

    fn fresh(&self, step: u32, index: usize) -> Row {
        let Recipe { ratio_min, ratio_max, temperature, .. } = self.recipe;
        let number = u64::from(step) * self.batch as u64 + index as u64;
        let example = self.data.row(number);
        let (seed, batch, mask) = (self.seed, self.batch, self.config.mask.0);
        let masked = Masking { seed, batch, ratio_min, ratio_max, mask }.apply(&example, step, index);
        let mut cells: Vec<Cell> = example.tokens.iter().map(|token| Cell::Fixed(TokenId(*token))).collect();
        for (at, _) in &masked.hidden {
            cells[*at as usize] = Cell::Blank;
        }
        let seed = Seed(rand_philox::splitmix64(self.seed ^ rand_philox::splitmix64(number)));
        Row::fresh(Canvas::new(cells), masked, example.tokens, temperature, seed)
    }

    /// The row as the sampler left it; `None` when it is over, or is one that is always fresh.
    fn continued(&self, index: usize) -> Option<Row> {
        let Running { sequence, truth, temperature } = self.running.get(index)?.as_ref()?;
        let canvas = sequence.canvas().clone();
        let ids = self.ids(&canvas).collect();
        let hidden: Vec<(u32, u32)> = canvas.blanks(0..canvas.len()).map(|at| (at.0, truth[at.index()])).collect();
        Some(Row {
            canvas,
            // to name blanks amid its own mistakes teaches the model to doubt what is given: no part of the loss
            masked: Masked { ids, hidden, weight: 0.0 },
            truth: truth.clone(),
            temperature: *temperature,
            seed: sequence.seed(),
            step: sequence.step() + 1, // the first fills drew with step 0
            is_fresh: false,
        })
    }

    /// A canvas as the model sees it.
    fn ids<'a>(&self, canvas: &'a Canvas) -> impl Iterator<Item = u32> + use<'a> {
        let mask = self.config.mask;
        canvas.cells().iter().map(move |cell| cell.token().unwrap_or(mask).0)
    }

    /// What the model would write into every blank, row by row, from the logits of all blanks.
    fn proposals(&self, rows: &[Row], logits: Option<&Tensor>) -> candle_core::Result<Vec<Vec<Proposal>>> {
        let logits = logits.map(|logits| logits.detach().to_vec2::<f32>()).transpose()?.unwrap_or_default();
        let mut logits = logits.iter();
        let vocabulary = Vocabulary { size: self.config.vocab_size, mask: self.config.mask.0 as usize };
        let propose = |row: &Row| {
            let blank = |(at, logits): (&(u32, u32), &Vec<f32>)| {
                let at = Position(at.0);
                let Row { temperature, seed, step, .. } = *row;
                let noise = Sampling { temperature, seed, step, filter: Filter::ALL }.noise(at);
                let options = SummaryOptions { noise, ..SummaryOptions::default() };
                Some(summarise(logits.into(), vocabulary, &options)?.proposal(at))
            };
            let blanks = row.masked.hidden.iter().zip(logits.by_ref());
            blanks.map(blank).collect::<Option<Vec<_>>>()
        };
        match rows.iter().map(propose).collect() {
            Some(proposals) => Ok(proposals),
            None => candle_core::bail!("a logit is not finite"),
        }
    }

    /// A fresh row's canvas with the first fills.
    fn filled(&self, row: &Row, proposals: &[Proposal]) -> candle_core::Result<Canvas> {
        let mut canvas = row.canvas.clone();
        for edit in fills(self.recipe.order, proposals, |_| 0, self.recipe.fills, (row.seed, row.step)) {
            canvas.apply(&edit).map_err(candle_core::Error::wrap)?;
        }
        Ok(canvas)
    }

    /// The sampler's own go at a row whose first blanks are filled.
    fn begun(canvas: Canvas, truth: Vec<u32>, seed: Seed) -> Result<Running, TrainError> {
        let blanks = canvas.blanks(0..canvas.len()).count();
        #[allow(clippy::cast_possible_truncation)] // rows are short
        let (policy, temperature) = Self::habits(seed, blanks as u32);
        let sequence = Sequence::new(canvas, policy, seed).map_err(|error| TrainError::Failed(error.to_string()))?;
        Ok(Running { sequence, truth, temperature })
    }

    /// The mean judgement and lambda times the cross-entropy of these rows' share of the step.
    fn loss(&self, denoised: Option<Denoised>, judgement: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
        #[allow(clippy::cast_precision_loss)] // a count
        let judgement = judgement.map(|sum| sum.affine(1.0 / self.judged.max(1) as f64, 0.0)).transpose()?;
        let denoised = denoised.filter(|_| self.learns_backbone && self.recipe.lambda > 0.0);
        let denoised = denoised.map(|denoised| denoised.loss.affine(self.recipe.lambda, 0.0)).transpose()?;
        match (judgement, denoised) {
            (Some(judgement), Some(denoised)) => Ok(Some((judgement + denoised)?)),
            (one, other) => Ok(one.or(other)),
        }
    }

    /// A sampler's habits, drawn for one row: mostly the paper's random order at temperature 1, sometimes the default's
    /// confidence order; one to four cells a step, of which as many again are erased at most.
    fn habits(seed: Seed, blanks: u32) -> (Policy, f32) {
        let [order, pace, erasing] = Draws::new(seed, Purpose::Fill, u32::MAX, Position(u32::MAX)).uniforms();
        let (order, temperature) = match order {
            order if order < 0.6 => (Order::Random, 1.0),
            order if order < 0.8 => (Order::Confidence, 1.0),
            _ => (Order::Confidence, 0.0),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small numbers
        let (per_step, erased) = (1 << (pace * 3.0) as u32, (erasing * 5.0) as u32);
        let steps = NonZeroU32::new(blanks.div_ceil(per_step)).unwrap_or(NonZeroU32::MIN);
        let remask = Remask::Quality { budget: erased * steps.get(), below: None, window: Stretch::WHOLE };
        let proofreading = Some(Proofreading { steps: PROOFREADING_STEPS, below: Probability::HALF, most: None });
        (Policy { order, pace: Pace::Steps(steps), remask, block_length: NonZeroU32::MAX, proofreading }, temperature)
    }
}

impl Task for Prism {
    type Row = Row;
    type Outcome = Outcome;

    fn rows(&mut self, step: u32) -> Result<Vec<Row>, TrainError> {
        if self.is_between_rounds(step) {
            self.running.fill(None);
        }
        let rows: Vec<Row> =
            (0..self.batch).map(|index| self.continued(index).unwrap_or_else(|| self.fresh(step, index))).collect();
        let judged = |row: &Row| match row.is_fresh {
            true => row.masked.hidden.len().min(self.recipe.fills as usize),
            false => row.canvas.filled(0..row.canvas.len()).count(),
        };
        self.judged = rows.iter().map(judged).sum();
        Ok(rows)
    }

    fn length(&self) -> usize {
        self.data.length()
    }

    fn score(&self, net: &Net<'_>, rows: &[Row]) -> candle_core::Result<Scored<Outcome>> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.masked.ids.iter().copied()).collect();
        let hidden = net.hidden(&ids, rows.len())?; // (rows x length, d_model)
        let denoised = denoise(net, &hidden, &rows.iter().map(|row| &row.masked).collect::<Vec<_>>())?;
        let proposals = self.proposals(rows, denoised.as_ref().map(|denoised| &denoised.logits))?;

        let length = self.length();
        let mut judged = Judged::default();
        for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_fresh) {
            judged.add(&hidden.narrow(0, index * length, length)?, &row.canvas, &row.truth)?;
        }
        // the paper's second pass: what the model filled into fresh rows, it now judges
        let fresh = rows.iter().zip(&proposals).filter(|(row, _)| row.is_fresh);
        let filled =
            fresh.map(|(row, proposals)| self.filled(row, proposals)).collect::<candle_core::Result<Vec<_>>>()?;
        if !filled.is_empty() {
            let ids: Vec<u32> = filled.iter().flat_map(|canvas| self.ids(canvas)).collect();
            let hidden = net.hidden(&ids, filled.len())?; // (fresh rows x length, d_model)
            let truths = rows.iter().filter(|row| row.is_fresh).map(|row| &row.truth);
            for ((index, canvas), truth) in filled.iter().enumerate().zip(truths) {
                judged.add(&hidden.narrow(0, index * length, length)?, canvas, truth)?;
            }
        }
        let states = judged.states()?; // (judged, d_model)
        let quality = states.as_ref().map(|states| net.quality(states)).transpose()?; // (judged)
        let judgement = quality.as_ref().map(|quality| binary_cross_entropy(quality, &judged.labels)).transpose()?;
        let mut sums = denoised.as_ref().map(|denoised| denoised.sums).unwrap_or_default();
        if let Some(judgement) = &judgement {
            sums.judgement = f64::from(judgement.to_scalar::<f32>()?);
            #[allow(clippy::cast_precision_loss)] // a count, for a mean
            let count = judged.labels.len() as f64;
            (sums.judged, sums.judged_right) = (count, judged.labels.iter().map(|label| f64::from(*label)).sum());
        }
        let logits = quality.map(|quality| quality.detach().to_vec1::<f32>()).transpose()?.unwrap_or_default();
        let loss = self.loss(denoised, judgement)?;
        Ok(Scored { loss, sums, outcomes: outcomes(rows, proposals, filled, &logits) })
    }

    fn absorb(&mut self, outcomes: Vec<Outcome>) -> Result<(), TrainError> {
        for (slot, outcome) in self.running.iter_mut().zip(outcomes) {
            let next = match (outcome, slot.take()) {
                (Outcome::Read(reading), Some(mut running)) if running.sequence.window().is_some() => {
                    running.sequence.advance(&reading).map_err(|error| TrainError::Failed(error.to_string()))?;
                    Some(running)
                }
                (Outcome::Filled { canvas, truth, seed }, None) => Some(Self::begun(canvas, truth, seed)?),
                (Outcome::Read(_) | Outcome::Filled { .. }, _) => None, // the canvas is full and has been judged
            };
            *slot = next;
        }
        Ok(())
    }

    fn is_between_rounds(&self, step: u32) -> bool {
        step.is_multiple_of(self.recipe.rounds.get())
    }
}

#[cfg(test)]
impl Prism {
    /// Says over how many tokens the judgement's mean is, as `rows` does.
    pub(super) fn judge(&mut self, judged: usize) {
        self.judged = judged;
    }
}

#[cfg(test)]
impl Row {
    /// The rows that were filled, as the next step learns from them.
    pub(super) fn continued_from(filled: Vec<Outcome>, mask: u32) -> Vec<Self> {
        let row = |outcome| match outcome {
            Outcome::Read(_) => panic!("was not filled"),
            Outcome::Filled { canvas, truth, seed } => {
                let ids = canvas.cells().iter().map(|cell| cell.token().map_or(mask, |token| token.0)).collect();
                let hidden = canvas.blanks(0..canvas.len()).map(|at| (at.0, truth[at.index()])).collect();
                let masked = Masked { ids, hidden, weight: 0.05 };
                Self { canvas, masked, truth, temperature: 0.0, seed, step: 1, is_fresh: false }
            }
        };
        filled.into_iter().map(row).collect()
    }
}

/// Steps of proofreading that a carried row gets at most.
const PROOFREADING_STEPS: u32 = 12;

/// Tokens the model filled, for its head to judge.
#[derive(Default)]
struct Judged {
    states: Vec<Tensor>,
    /// 1 where the token is right.
    labels: Vec<f32>,
}

impl Judged {
    /// Adds the filled cells of a canvas, whose states are `hidden` (length, `d_model`).
    fn add(&mut self, hidden: &Tensor, canvas: &Canvas, truth: &[u32]) -> candle_core::Result<()> {
        let filled: Vec<(Position, TokenId)> = canvas.filled(0..canvas.len()).collect();
        if filled.is_empty() {
            return Ok(());
        }
        let index: Vec<u32> = filled.iter().map(|(at, _)| at.0).collect();
        self.states.push(hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?); // (filled, d_model)
        let label = |&(at, token): &(Position, TokenId)| f32::from(u8::from(truth[at.index()] == token.0));
        self.labels.extend(filled.iter().map(label));
        Ok(())
    }

    /// Their states: (judged, `d_model`).
    fn states(&self) -> candle_core::Result<Option<Tensor>> {
        if self.states.is_empty() { Ok(None) } else { Tensor::cat(&self.states, 0).map(Some) }
    }
}

/// Sum over tokens of -ln sigmoid(x) where the label is 1, -ln(1 - sigmoid(x)) where it is 0: `logits` (tokens).
fn binary_cross_entropy(logits: &Tensor, labels: &[f32]) -> candle_core::Result<Tensor> {
    let labels = Tensor::new(labels, logits.device())?;
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?; // ln(1 + e^-|x|), which cannot overflow
    ((logits.relu()? - (logits * labels)?)? + softplus)?.sum_all()
}

/// What each row is told. The judged come in the order of the rows, those that were read before those that were filled.
fn outcomes(rows: &[Row], proposals: Vec<Vec<Proposal>>, filled: Vec<Canvas>, logits: &[f32]) -> Vec<Outcome> {
    let (mut filled, mut logits) = (filled.into_iter(), logits.iter());
    let outcome = |(row, proposals): (&Row, Vec<Proposal>)| match row.is_fresh {
        true => {
            let canvas = filled.next().unwrap_or_else(|| row.canvas.clone());
            Outcome::Filled { canvas, truth: row.truth.clone(), seed: row.seed }
        }
        false => {
            let quality = |logit: f32| Probability::rounded(sigmoid(logit)).unwrap_or(Probability::ZERO);
            let cells = row.canvas.filled(0..row.canvas.len()).zip(logits.by_ref());
            let reviews = cells.map(|((at, _), logit)| Review { at, quality: quality(*logit) }).collect();
            Outcome::Read(Reading { proposals, reviews })
        }
    };
    rows.iter().zip(proposals).map(outcome).collect()
}
