//! PRISM's training of the head alone (arXiv 2510.01384, algorithm 1, without the denoising loss):
//! the model reads rows as in serving, in its number format, and keeps no graph; only the head has
//! gradients. Several heads may learn from the same states, each by its own judgement. Out of
//! scope: files.

use super::data::Data;
use super::error::TrainError;
use super::heads::Heads;
use super::net::{Judgement, Net};
use super::parameters::Gradients;
use super::progress::{HeadSums, Sums};
use super::run::{Objective, Scored};
use super::samples::{Feedback, Rows, Sample, labels};
use crate::diffusion::{Canvas, Proposal};
use crate::model::{Denoiser, Filter, Layer, NetworkDenoiser, Row, Sampling};
use candle_core::Tensor;
use std::fmt;

pub(super) struct HeadAlone {
    pub(super) rows: Rows,
    pub(super) model: NetworkDenoiser,
    pub(super) heads: Heads,
    /// The states that they read.
    layers: Vec<Layer>,
    /// Rows of a pass.
    pub(super) piece: usize,
    /// Tokens judged in this step, the denominator of the judgement's mean.
    judged: usize,
}

impl fmt::Debug for HeadAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, model, heads, .. } = self;
        f.debug_struct("HeadAlone").field("rows", rows).field("model", model.spec()).field("heads", heads).finish()
    }
}

/// A row that the model has read.
pub(super) struct ReadRow {
    sample: Sample,
    /// For the blanks of the sample.
    proposals: Vec<Proposal>,
    /// A fresh sample's canvas with its first fills.
    filled: Option<Canvas>,
    /// What heads read of each layer: (filled cells, `d_model`) each; nothing where there are none.
    states: Vec<Tensor>,
    /// 1 where the token of a filled cell is right.
    labels: Vec<f32>,
}

impl HeadAlone {
    pub(super) fn new(rows: Rows, model: NetworkDenoiser, heads: Heads) -> Self {
        Self { rows, model, layers: heads.layers(), heads, piece: 1, judged: 0 }
    }

    /// What the heads read of some rows: of each layer (judged, `d_model`); nothing where no token
    /// is judged.
    fn states(&self, rows: &[ReadRow]) -> candle_core::Result<Vec<Tensor>> {
        let judged: Vec<&ReadRow> = rows.iter().filter(|row| !row.states.is_empty()).collect();
        if judged.is_empty() {
            return Ok(Vec::new());
        }
        let of_layer = |place: usize| Tensor::cat(&judged.iter().map(|row| &row.states[place]).collect::<Vec<_>>(), 0);
        (0..self.layers.len()).map(of_layer).collect()
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
            read.push(ReadRow { sample, proposals, filled, states: Vec::new(), labels: Vec::new() });
        }
        let canvases: Vec<&Canvas> = read.iter().map(ReadRow::canvas).collect();
        let states = self.model.judged_states(&canvases, &self.layers)?.unwrap_or_default();
        let mut first = 0;
        for row in &mut read {
            row.labels = labels(row.canvas(), &row.sample.truth).collect();
            let count = row.labels.len();
            if count > 0 {
                row.states =
                    states.iter().map(|all| all.narrow(0, first, count)).collect::<candle_core::Result<_>>()?;
            }
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
    /// 1 where a judged token is right.
    type Pending = Vec<f32>;
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

    fn tokens(&self, row: &ReadRow) -> usize {
        row.sample.canvas.len()
    }

    /// The loss is the sum of the heads' judgements.
    fn score(
        &self,
        net: &Net<'_>,
        rows: &[ReadRow],
        mut gradients: Option<&mut Gradients>,
    ) -> candle_core::Result<Scored<Vec<f32>>> {
        let labels: Vec<f32> = rows.iter().flat_map(|row| row.labels.iter().copied()).collect();
        let (states, mut told) = (self.states(rows)?, Vec::new());
        for head in self.heads.all() {
            let place = self.layers.iter().position(|layer| *layer == head.layer);
            let Some(states) = place.and_then(|place| states.get(place)) else { continue };
            let learning = gradients.as_deref_mut().map(|gradients| (1.0 / self.judged.max(1) as f64, gradients));
            let Judgement { loss, logits, .. } = net.judge(&self.heads.prefix(*head), states, &labels, learning)?;
            told.extend([loss.reshape(1)?, logits]);
        }
        let told = if told.is_empty() { None } else { Some(Tensor::cat(&told, 0)?) };
        Ok(Scored { told, pending: labels })
    }

    /// The first head's judgements go back to the sampler.
    fn told(&self, rows: &[ReadRow], labels: Vec<f32>, numbers: &[f32]) -> (Sums, Vec<Feedback>) {
        // of each head its loss, then the logits of the judged tokens
        let heads = numbers.chunks_exact(1 + labels.len()).map(|numbers| numbers.split_at(1));
        let (mut sums, mut first) = (Sums::default(), &[][..]);
        for (head, (judgement, logits)) in self.heads.all().iter().zip(heads).rev() {
            let own = Sums::judged(&labels, judgement, logits, self.judged);
            if self.heads.are_several() {
                sums.heads.insert(0, HeadSums { head: *head, judgement: own.judgement, quality: own.quality });
            }
            sums = Sums { loss: sums.loss + own.loss, heads: sums.heads, ..own };
            first = logits;
        }
        let mut logits = first.iter().copied();
        let feedback = rows.iter().map(|row| {
            let own = logits.by_ref().take(row.labels.len());
            match &row.filled {
                Some(canvas) => {
                    own.for_each(drop);
                    Feedback::of_fresh(&row.sample, canvas.clone())
                }
                None => Feedback::of_rollout(&row.sample, row.proposals.clone(), own),
            }
        });
        (sums, feedback.collect())
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
