//! PRISM: training of a quality head, which predicts how likely a token is to be right, on tokens
//! that the model filled itself (arXiv 2510.01384, algorithm 1). The paper trains on canvases after
//! one step of fills; here a row may also be a rollout. Out of scope: files.

use super::data::Data;
use super::error::TrainError;
use super::masking::{Denoised, denoise};
use super::net::Net;
use super::run::{Objective, Scored};
use super::samples::{Feedback, Recipe, Rows, Sample, labels};
use crate::diffusion::{Canvas, Position, Proposal};
use crate::model::{Config, Filter, Sampling, SummaryOptions, Vocabulary, sigmoid, summarise};
use candle_core::Tensor;

#[derive(Debug)]
pub(super) struct Prism {
    config: Config,
    rows: Rows,
    /// Tokens judged in this step, the denominator of the judgement's mean.
    pub(super) judged: usize,
}

impl Prism {
    pub(super) fn new(config: Config, data: [Data; 2], batch: usize, recipe: Recipe, seed: u64) -> Self {
        Self { rows: Rows::new(config.mask, data, batch, recipe, seed), config, judged: 0 }
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

    /// These rows' share of the loss: the mean judgement plus lambda times the cross-entropy.
    fn loss(&self, denoised: Option<Denoised>, judgement: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
        let judgement = judgement.map(|sum| sum.affine(1.0 / self.judged.max(1) as f64, 0.0)).transpose()?;
        let denoised = denoised.filter(|_| self.rows.recipe.lambda > 0.0);
        let denoised = denoised.map(|denoised| denoised.loss.affine(self.rows.recipe.lambda, 0.0)).transpose()?;
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
        let rows = self.rows.of_step(step)?;
        let judged = |row: &Sample| match row.is_fresh {
            true => row.masked.hidden.len().min(self.rows.recipe.fills as usize),
            false => row.canvas.filled(0..row.canvas.len()).count(),
        };
        self.judged = rows.iter().map(judged).sum();
        Ok(rows)
    }

    fn held_out(&mut self) -> Result<Vec<Sample>, TrainError> {
        self.rows.held_out()
    }

    fn data(&self) -> &Data {
        &self.rows.data
    }

    fn score(&self, net: &Net<'_>, rows: &[Sample]) -> candle_core::Result<Scored<Feedback>> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.masked.ids.iter().copied()).collect();
        let mut tapes = Vec::new();
        let hidden = net.hidden(&ids, rows.len(), &mut tapes)?; // (rows x length, d_model)
        let denoised = denoise(net, &hidden, &rows.iter().map(|row| &row.masked).collect::<Vec<_>>())?;
        let proposals = self.proposals(rows, denoised.as_ref().map(|denoised| &denoised.logits))?;

        let length = self.length();
        let mut judged = JudgedTokens::default();
        for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_fresh) {
            judged.add(&hidden.narrow(0, index * length, length)?, &row.canvas, &row.truth)?;
        }
        // the paper's second pass: the head judges what the model filled into fresh rows
        let fresh = rows.iter().zip(&proposals).filter(|(row, _)| row.is_fresh);
        let filled = fresh.map(|(row, proposals)| self.rows.filled(row, proposals)).collect::<Result<Vec<_>, _>>();
        let filled = filled.map_err(candle_core::Error::wrap)?;
        if !filled.is_empty() {
            let ids: Vec<u32> = filled.iter().flat_map(|canvas| self.rows.ids(canvas)).collect();
            let hidden = net.hidden(&ids, filled.len(), &mut tapes)?; // (fresh rows x length, d_model)
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
        sums.quality = logits.iter().map(|logit| f64::from(sigmoid(*logit))).sum();
        let loss = self.loss(denoised, judgement)?;
        // the logits are first those of rollouts, then of fresh rows
        let (mut filled, mut logits) = (filled.into_iter(), logits.into_iter());
        let feedback = rows.iter().zip(proposals).map(|(row, proposals)| match row.is_fresh {
            true => Feedback::of_fresh(row, filled.next().unwrap_or_else(|| row.canvas.clone())),
            false => Feedback::of_rollout(row, proposals, logits.by_ref()),
        });
        Ok(Scored { loss, sums, feedback: feedback.collect(), tapes })
    }

    fn absorb(&mut self, feedback: Vec<Feedback>) -> Result<(), TrainError> {
        self.rows.absorb(feedback)
    }

    fn is_between_rounds(&self, step: u32) -> bool {
        self.rows.is_between_rounds(step)
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
        let index: Vec<u32> = canvas.filled(0..canvas.len()).map(|(at, _)| at.0).collect();
        if index.is_empty() {
            return Ok(());
        }
        self.states.push(hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?); // (filled, d_model)
        self.labels.extend(labels(canvas, truth));
        Ok(())
    }

    fn states(&self) -> candle_core::Result<Option<Tensor>> {
        if self.states.is_empty() { Ok(None) } else { Tensor::cat(&self.states, 0).map(Some) }
    }
}

/// The sum over `logits` x of -ln sigmoid(x) if the label is 1, -ln(1 - sigmoid(x)) if it is 0.
pub(super) fn binary_cross_entropy(logits: &Tensor, labels: &[f32]) -> candle_core::Result<Tensor> {
    let labels = Tensor::new(labels, logits.device())?;
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?; // ln(1 + e^-|x|), which cannot overflow
    ((logits.relu()? - (logits * labels)?)? + softplus)?.sum_all()
}
