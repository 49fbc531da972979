//! PRISM's training of the head alone (arXiv 2510.01384, algorithm 1, without the denoising loss):
//! the model reads rows as in serving, in its number format, and keeps no graph; only the head has
//! gradients. Out of scope: files.

use super::data::Data;
use super::error::TrainError;
use super::net::Net;
use super::prism::binary_cross_entropy;
use super::progress::Sums;
use super::run::{Objective, Scored};
use super::samples::{Feedback, Rows, Sample, labels};
use crate::diffusion::{Canvas, Proposal};
use crate::model::{Denoiser, Filter, NetworkDenoiser, Row, Sampling, sigmoid};
use candle_core::Tensor;
use std::fmt;

pub(super) struct HeadAlone {
    pub(super) rows: Rows,
    pub(super) model: NetworkDenoiser,
    /// Rows of a pass.
    pub(super) piece: usize,
    /// Tokens judged in this step, the denominator of the judgement's mean.
    judged: usize,
}

impl fmt::Debug for HeadAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadAlone").field("rows", &self.rows).field("model", self.model.spec()).finish()
    }
}

/// A row that the model has read.
pub(super) struct ReadRow {
    sample: Sample,
    /// For the blanks of the sample.
    proposals: Vec<Proposal>,
    /// A fresh sample's canvas with its first fills.
    filled: Option<Canvas>,
    /// What the head reads: (filled cells, `d_model`); `None` where there are none.
    states: Option<Tensor>,
    /// 1 where the token of a filled cell is right.
    labels: Vec<f32>,
}

impl HeadAlone {
    pub(super) const fn new(rows: Rows, model: NetworkDenoiser) -> Self {
        Self { rows, model, piece: 1, judged: 0 }
    }

    fn read_all(&mut self, samples: Vec<Sample>) -> Result<Vec<ReadRow>, TrainError> {
        let (mut samples, mut read) = (samples.into_iter().peekable(), Vec::new());
        while samples.peek().is_some() {
            let piece = samples.by_ref().take(self.piece).collect();
            read.extend(self.read(piece)?);
        }
        Ok(read)
    }

    /// Reads samples twice: their proposals, then the states of what is filled in.
    fn read(&mut self, samples: Vec<Sample>) -> Result<Vec<ReadRow>, TrainError> {
        let sampling = |sample: &Sample| {
            let Sample { temperature, seed, step, .. } = *sample;
            Sampling { temperature, seed, step, filter: Filter::ALL }
        };
        let batch: Vec<Row<'_>> = samples
            .iter()
            .map(|sample| Row { sampling: sampling(sample), ..Row::plain(&sample.canvas, 0..sample.canvas.len()) })
            .collect();
        let readings = self.model.read(&batch)?;
        let mut read = Vec::new();
        for (sample, reading) in samples.into_iter().zip(readings) {
            let proposals = reading.map_err(failed)?.proposals;
            let filled =
                if sample.is_fresh { Some(self.rows.filled(&sample, &proposals).map_err(failed)?) } else { None };
            read.push(ReadRow { sample, proposals, filled, states: None, labels: Vec::new() });
        }
        let canvases: Vec<&Canvas> = read.iter().map(ReadRow::canvas).collect();
        let states = self.model.judged_states(&canvases)?;
        let mut first = 0;
        for row in &mut read {
            row.labels = labels(row.canvas(), &row.sample.truth).collect();
            let count = row.labels.len();
            row.states = states.as_ref().filter(|_| count > 0).map(|all| all.narrow(0, first, count)).transpose()?;
            first += count;
        }
        Ok(read)
    }
}

impl ReadRow {
    /// The canvas that the head judges.
    fn canvas(&self) -> &Canvas {
        self.filled.as_ref().unwrap_or(&self.sample.canvas)
    }
}

impl Objective for HeadAlone {
    type Sample = ReadRow;
    type Feedback = Feedback;

    fn rows(&mut self, step: u32) -> Result<Vec<ReadRow>, TrainError> {
        let samples = self.rows.of_step(step)?;
        let read = self.read_all(samples)?;
        self.judged = read.iter().map(|row| row.labels.len()).sum();
        Ok(read)
    }

    fn held_out(&mut self) -> Result<Vec<ReadRow>, TrainError> {
        let samples = self.rows.held_out()?;
        self.read_all(samples)
    }

    fn data(&self) -> &Data {
        &self.rows.data
    }

    fn score(&self, net: &Net<'_>, rows: &[ReadRow]) -> candle_core::Result<Scored<Feedback>> {
        let states: Vec<&Tensor> = rows.iter().filter_map(|row| row.states.as_ref()).collect();
        let labels: Vec<f32> = rows.iter().flat_map(|row| row.labels.iter().copied()).collect();
        let (mut loss, mut sums, mut logits) = (None, Sums::default(), Vec::<f32>::new());
        if !states.is_empty() {
            let quality = net.quality(&Tensor::cat(&states, 0)?)?; // (judged)
            let judgement = binary_cross_entropy(&quality, &labels)?;
            sums.judgement = f64::from(judgement.to_scalar::<f32>()?);
            sums.judged = labels.len() as f64;
            sums.judged_right = labels.iter().map(|label| f64::from(*label)).sum();
            logits = quality.detach().to_vec1()?;
            sums.quality = logits.iter().map(|logit| f64::from(sigmoid(*logit))).sum();
            loss = Some(judgement.affine(1.0 / self.judged.max(1) as f64, 0.0)?);
        }
        let mut logits = logits.into_iter();
        let feedback = rows.iter().map(|row| {
            let own: Vec<f32> = logits.by_ref().take(row.labels.len()).collect();
            match &row.filled {
                Some(canvas) => Feedback::of_fresh(&row.sample, canvas.clone()),
                None => Feedback::of_rollout(&row.sample, row.proposals.clone(), own.into_iter()),
            }
        });
        Ok(Scored { loss, sums, feedback: feedback.collect(), tapes: Vec::new() })
    }

    fn absorb(&mut self, feedback: Vec<Feedback>) -> Result<(), TrainError> {
        self.rows.absorb(feedback)
    }

    fn is_between_rounds(&self, step: u32) -> bool {
        self.rows.is_between_rounds(step)
    }
}

fn failed(error: impl fmt::Display) -> TrainError {
    TrainError::Failed(error.to_string())
}
