//! PRISM: training of a quality head, which predicts how likely a token is to be right, on tokens
//! that the model filled itself (arXiv 2510.01384, algorithm 1). The paper trains on canvases after
//! one step of fills; here a row may also be a rollout. Out of scope: files.

use super::masking::{Denoised, Masked, Masking, denoise};
use super::run::{Objective, Scored};
use super::{data::Data, error::TrainError, net::Net, rollout::Rollout};
use crate::diffusion::policy::Choice;
use crate::diffusion::{Canvas, Cell, DrawKey, Position, Probability, Proposal, Reading, Review, Seed, TokenId, fills};
use crate::model::{Config, Filter, Sampling, SummaryOptions, Vocabulary, sigmoid, summarise};
use candle_core::Tensor;
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

#[derive(Debug)]
pub(super) struct Prism {
    pub(super) config: Config,
    pub(super) data: Data,
    pub(super) batch: usize,
    pub(super) recipe: Recipe,
    pub(super) seed: u64,
    /// Whether the backbone is trained, too.
    pub(super) learns_backbone: bool,
    /// The first rows of every step; `None` where a row is to be fresh.
    rollouts: Vec<Option<Rollout>>,
    /// Tokens judged in this step, the denominator of the judgement's mean.
    pub(super) judged: usize,
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

impl Prism {
    pub(super) fn new(
        config: Config,
        data: Data,
        batch: usize,
        recipe: Recipe,
        seed: u64,
        learns_backbone: bool,
    ) -> Self {
        let carried =
            if recipe.rounds == NonZeroU32::MIN { 0 } else { (recipe.carried * batch as f64).round() as usize };
        let rollouts = vec![None; carried];
        Self { config, data, batch, recipe, seed, learns_backbone, rollouts, judged: 0 }
    }

    fn fresh(&self, step: u32, index: usize) -> Sample {
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
        let (canvas, truth) = (Canvas::new(cells), example.tokens);
        Sample { canvas, masked, truth, temperature, seed, step: 0, is_fresh: true }
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
    fn ids<'a>(&self, canvas: &'a Canvas) -> impl Iterator<Item = u32> + use<'a> {
        let mask = self.config.mask;
        canvas.cells().iter().map(move |cell| cell.token().unwrap_or(mask).0)
    }

    /// The proposals for every blank, row by row, from `logits` (all blanks, `embedding_size`).
    fn proposals(&self, rows: &[Sample], logits: Option<&Tensor>) -> candle_core::Result<Vec<Vec<Proposal>>> {
        let logits = logits.map(|logits| logits.detach().to_vec2::<f32>()).transpose()?.unwrap_or_default();
        let mut logits = logits.iter();
        let vocabulary = Vocabulary { size: self.config.vocab_size, mask: self.config.mask.0 as usize };
        let propose = |row: &Sample| {
            let blank = |(at, logits): (&(u32, u32), &Vec<f32>)| {
                let at = Position(at.0);
                let Sample { temperature, seed, step, .. } = *row;
                let noise = Sampling { temperature, seed, step, filter: Filter::ALL }.noise(at);
                let options = SummaryOptions { noise, ..SummaryOptions::default() };
                Some(summarise(logits.into(), vocabulary, &options)?.proposal(at))
            };
            let blanks = row.masked.hidden.iter().zip(logits.by_ref());
            blanks.map(blank).collect::<Option<Vec<_>>>()
        };
        let proposals = rows.iter().map(propose).collect::<Option<_>>();
        proposals.ok_or_else(|| candle_core::Error::Msg("a logit is not finite".to_owned()))
    }

    /// A fresh row's canvas with the first fills.
    fn filled(&self, row: &Sample, proposals: &[Proposal]) -> candle_core::Result<Canvas> {
        let mut canvas = row.canvas.clone();
        let key = DrawKey { seed: row.seed, step: row.step };
        for edit in fills(&self.recipe.order, proposals, |_| (), self.recipe.fills, key) {
            canvas.apply(&edit).map_err(candle_core::Error::wrap)?;
        }
        Ok(canvas)
    }

    /// These rows' share of the loss: the mean judgement plus lambda times the cross-entropy.
    fn loss(&self, denoised: Option<Denoised>, judgement: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
        let judgement = judgement.map(|sum| sum.affine(1.0 / self.judged.max(1) as f64, 0.0)).transpose()?;
        let denoised = denoised.filter(|_| self.learns_backbone && self.recipe.lambda > 0.0);
        let denoised = denoised.map(|denoised| denoised.loss.affine(self.recipe.lambda, 0.0)).transpose()?;
        match (judgement, denoised) {
            (Some(judgement), Some(denoised)) => Ok(Some((judgement + denoised)?)),
            (one, other) => Ok(one.or(other)),
        }
    }
}

impl Objective for Prism {
    type Sample = Sample;
    type Feedback = Feedback;

    fn rows(&mut self, step: u32) -> Result<Vec<Sample>, TrainError> {
        if self.is_between_rounds(step) {
            self.rollouts.fill(None);
        }
        let rows: Vec<Sample> =
            (0..self.batch).map(|index| self.continued(index).unwrap_or_else(|| self.fresh(step, index))).collect();
        let judged = |row: &Sample| match row.is_fresh {
            true => row.masked.hidden.len().min(self.recipe.fills as usize),
            false => row.canvas.filled(0..row.canvas.len()).count(),
        };
        self.judged = rows.iter().map(judged).sum();
        Ok(rows)
    }

    fn data(&self) -> &Data {
        &self.data
    }

    fn score(&self, net: &Net<'_>, rows: &[Sample]) -> candle_core::Result<Scored<Feedback>> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.masked.ids.iter().copied()).collect();
        let hidden = net.hidden(&ids, rows.len())?; // (rows x length, d_model)
        let denoised = denoise(net, &hidden, &rows.iter().map(|row| &row.masked).collect::<Vec<_>>())?;
        let proposals = self.proposals(rows, denoised.as_ref().map(|denoised| &denoised.logits))?;

        let length = self.length();
        let mut judged = JudgedTokens::default();
        for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_fresh) {
            judged.add(&hidden.narrow(0, index * length, length)?, &row.canvas, &row.truth)?;
        }
        // the paper's second pass: the head judges what the model filled into fresh rows
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
            let count = judged.labels.len() as f64;
            (sums.judged, sums.judged_right) = (count, judged.labels.iter().map(|label| f64::from(*label)).sum());
        }
        let logits = quality.map(|quality| quality.detach().to_vec1::<f32>()).transpose()?.unwrap_or_default();
        let loss = self.loss(denoised, judgement)?;
        Ok(Scored { loss, sums, feedback: feedback(rows, proposals, filled, &logits) })
    }

    fn absorb(&mut self, feedback: Vec<Feedback>) -> Result<(), TrainError> {
        for (slot, feedback) in self.rollouts.iter_mut().zip(feedback) {
            *slot = match (feedback, slot.take()) {
                (Feedback::Read(reading), Some(rollout)) => rollout.advance(&reading)?,
                (Feedback::Filled { canvas, truth, seed }, None) => Some(Rollout::begin(canvas, truth, seed)?),
                (Feedback::Read(_) | Feedback::Filled { .. }, _) => None,
            };
        }
        Ok(())
    }

    fn is_between_rounds(&self, step: u32) -> bool {
        step.is_multiple_of(self.recipe.rounds.get())
    }
}

/// Tokens the model filled, which its head judges.
#[derive(Default)]
struct JudgedTokens {
    /// Final states, each (filled cells of a row, `d_model`).
    states: Vec<Tensor>,
    /// 1 where the token is right.
    labels: Vec<f32>,
}

impl JudgedTokens {
    /// Adds the filled cells of a canvas; `hidden` (length, `d_model`) are its final states.
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

    fn states(&self) -> candle_core::Result<Option<Tensor>> {
        if self.states.is_empty() { Ok(None) } else { Tensor::cat(&self.states, 0).map(Some) }
    }
}

/// The sum over `logits` x of -ln sigmoid(x) if the label is 1, -ln(1 - sigmoid(x)) if it is 0.
fn binary_cross_entropy(logits: &Tensor, labels: &[f32]) -> candle_core::Result<Tensor> {
    let labels = Tensor::new(labels, logits.device())?;
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?; // ln(1 + e^-|x|), which cannot overflow
    ((logits.relu()? - (logits * labels)?)? + softplus)?.sum_all()
}

/// The feedback on each row. The head's `logits` are first those of rollouts, then of fresh rows.
fn feedback(rows: &[Sample], proposals: Vec<Vec<Proposal>>, filled: Vec<Canvas>, logits: &[f32]) -> Vec<Feedback> {
    let (mut filled, mut logits) = (filled.into_iter(), logits.iter());
    let feedback = |(row, proposals): (&Sample, Vec<Proposal>)| match row.is_fresh {
        true => {
            let canvas = filled.next().unwrap_or_else(|| row.canvas.clone());
            Feedback::Filled { canvas, truth: row.truth.clone(), seed: row.seed }
        }
        false => {
            let quality = |logit: f32| Probability::rounded(sigmoid(logit)).unwrap_or(Probability::ZERO);
            let cells = row.canvas.filled(0..row.canvas.len()).zip(logits.by_ref());
            let reviews = cells.map(|((at, _), logit)| Review { at, quality: quality(*logit) }).collect();
            Feedback::Read(Reading { proposals, reviews, ..Reading::default() })
        }
    };
    rows.iter().zip(proposals).map(feedback).collect()
}
