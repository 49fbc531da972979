//! PRISM: training of a quality head, which predicts how likely a token is to be right, on tokens
//! that the model filled itself (arXiv 2510.01384, algorithm 1). The paper trains on canvases after
//! one step of fills; here a row may also be a rollout. Out of scope: files.

use super::data::Data;
use super::error::TrainError;
use super::masking::{Denoised, MaskedTokens};
use super::net::{Judgement, Net};
use super::parameters::Gradients;
use super::pass::Pass;
use super::progress::Sums;
use super::run::{Objective, Scored};
use super::samples::{Feedback, Recipe, Rows, Sample, labels};
use crate::diffusion::{Canvas, Position, Proposal, u32_of};
use crate::model::{Config, Filter, Sampling, SummaryOptions, Vocabulary};
use candle_core::{DType, Result as TensorResult, Tensor};

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
    /// They are drawn where the logits lie.
    fn proposals(&self, net: &Net<'_>, rows: &[Sample], logits: Option<&Tensor>) -> TensorResult<Vec<Vec<Proposal>>> {
        let vocabulary = Vocabulary { size: self.config.vocab_size, mask: self.config.mask.0 as usize };
        let blanks = |row: &Sample| row.masked.hidden.iter().map(|(at, _)| Position(*at)).collect::<Vec<_>>();
        let options = rows.iter().flat_map(|row| {
            let Sample { temperature, seed, step, .. } = *row;
            let sampling = Sampling { temperature, seed, step, filter: Filter::ALL };
            let options = move |at: Position| SummaryOptions { noise: sampling.noise(at), ..SummaryOptions::default() };
            blanks(row).into_iter().map(options)
        });
        let summaries = match logits {
            Some(logits) => net.device.drawn(logits, vocabulary, options.collect())?,
            None => Vec::new(),
        };
        let mut summaries = summaries.into_iter();
        let propose = |row: &Sample| {
            let own = blanks(row).into_iter().zip(summaries.by_ref());
            own.map(|(at, summary)| Some(summary?.proposal(at))).collect::<Option<Vec<_>>>()
        };
        let proposals = rows.iter().map(propose).collect::<Option<_>>();
        proposals.ok_or_else(|| candle_core::Error::Msg("a logit is not finite".to_owned()))
    }
}

/// What is known of scored rows before their numbers are on the host.
pub(super) struct Pending {
    masked: usize,
    /// 1 where a judged token is right: those of rollouts, then those of fresh rows.
    labels: Vec<f32>,
    /// The fresh rows with their first fills.
    filled: Vec<Canvas>,
    proposals: Vec<Vec<Proposal>>,
}

impl Objective for Prism {
    type Sample = Sample;
    type Pending = Pending;
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

    fn tokens(&self, row: &Sample) -> usize {
        row.masked.ids.len()
    }

    fn score(
        &self,
        net: &Net<'_>,
        rows: &[Sample],
        mut gradients: Option<&mut Gradients>,
    ) -> TensorResult<Scored<Pending>> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.masked.ids.iter().copied()).collect();
        let lengths: Vec<usize> = rows.iter().map(|row| row.masked.ids.len()).collect();
        let masked = MaskedTokens::of(&*net.device, &rows.iter().map(|row| &row.masked).collect::<Vec<_>>())?;
        let pass = net.forward(ids, &lengths)?;
        let denoised = masked.map(|masked| Denoised::of(net, &pass, masked)).transpose()?;
        let proposals = self.proposals(net, rows, denoised.as_ref().map(|denoised| &denoised.logits))?;
        let carried = rows.iter().map(|row| (!row.is_fresh).then_some((&row.canvas, &*row.truth)));
        let carried = JudgedTokens::of(carried, &lengths);

        // the paper's second pass: the head judges what the model filled into fresh rows
        let fresh = || rows.iter().filter(|row| row.is_fresh);
        let filled = rows.iter().zip(&proposals).filter(|(row, _)| row.is_fresh);
        let filled = filled.map(|(row, proposals)| self.rows.filled(row, proposals)).collect::<Result<Vec<_>, _>>();
        let filled = filled.map_err(candle_core::Error::wrap)?;
        let lengths: Vec<usize> = filled.iter().map(Canvas::len).collect();
        let ids = filled.iter().flat_map(|canvas| self.rows.ids(canvas)).collect();
        let second = if filled.is_empty() { None } else { Some(net.forward(ids, &lengths)?) };
        let judged = filled.iter().zip(fresh()).map(|(canvas, row)| Some((canvas, &*row.truth)));
        let judged = JudgedTokens::of(judged, &lengths);

        let passes = [(Some(&pass), &carried), (second.as_ref(), &judged)];
        let states = passes.iter().filter_map(|(pass, judged)| pass.and_then(|pass| judged.states(net, pass)));
        let states = states.collect::<TensorResult<Vec<_>>>()?;
        let labels = [&*carried.labels, &judged.labels].concat();
        let (mut told, mut of_states) = (Vec::new(), None);
        told.extend(denoised.as_ref().map(|denoised| denoised.told(net)).transpose()?);
        if !states.is_empty() {
            let factor = 1.0 / self.judged.max(1) as f64;
            let learning = gradients.as_deref_mut().map(|gradients| (factor, gradients));
            let judgement = net.judge("", &Tensor::cat(&states, 0)?, &labels, learning)?;
            let Judgement { loss, logits, of_states: of } = judgement;
            told.extend([loss.reshape(1)?, logits]);
            of_states = of;
        }
        if let Some(gradients) = gradients {
            let lambda = self.rows.recipe.lambda;
            let denoised = denoised.as_ref().filter(|_| lambda > 0.0);
            let of_denoised = denoised.map(|denoised| denoised.gradients(net, pass.tokens(), lambda, gradients));
            let mut first = 0;
            for (pass, judged, of_hidden) in [(Some(pass), &carried, of_denoised.transpose()?), (second, &judged, None)]
            {
                let Some(pass) = pass else { continue };
                let own = of_states.as_ref().filter(|_| !judged.index.is_empty());
                let own = own.map(|all| judged.spread(net, &all.narrow(0, first, judged.index.len())?, &pass));
                first += judged.index.len();
                let of_hidden = match (of_hidden, own.transpose()?) {
                    (Some(one), Some(other)) => Some((one + other)?),
                    (one, other) => one.or(other),
                };
                of_hidden.map(|of_hidden| net.backward(pass, &of_hidden, gradients)).transpose()?;
            }
        }
        let masked = denoised.as_ref().map_or(0, Denoised::count);
        let told = if told.is_empty() { None } else { Some(Tensor::cat(&told, 0)?) };
        Ok(Scored { told, pending: Pending { masked, labels, filled, proposals } })
    }

    fn told(&self, rows: &[Sample], pending: Pending, numbers: &[f32]) -> (Sums, Vec<Feedback>) {
        let Pending { masked, labels, filled, proposals } = pending;
        let (denoised, numbers) = numbers.split_at(if masked > 0 { 3 } else { 0 });
        let mut sums = Sums::denoised(masked, denoised);
        sums.loss *= self.rows.recipe.lambda;
        let (judgement, logits) = numbers.split_at(usize::from(!labels.is_empty()));
        sums.add(&Sums::judged(&labels, judgement, logits, self.judged));
        // the logits are first those of rollouts, then of fresh rows
        let (mut filled, mut logits) = (filled.into_iter(), logits.iter().copied());
        let feedback = rows.iter().zip(proposals).map(|(row, proposals)| match row.is_fresh {
            true => Feedback::of_fresh(row, filled.next().unwrap_or_else(|| row.canvas.clone())),
            false => Feedback::of_rollout(row, proposals, logits.by_ref()),
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

/// Tokens of a pass that the model filled, which its head judges.
#[derive(Default)]
struct JudgedTokens {
    /// Their places among the tokens of the pass.
    index: Vec<u32>,
    /// 1 where the token is right.
    labels: Vec<f32>,
}

impl JudgedTokens {
    /// The filled cells of those rows of a pass that are judged, with their right tokens.
    fn of<'a>(rows: impl Iterator<Item = Option<(&'a Canvas, &'a [u32])>>, lengths: &[usize]) -> Self {
        let (mut all, mut first) = (Self::default(), 0);
        for (row, length) in rows.zip(lengths) {
            if let Some((canvas, truth)) = row {
                all.index.extend(canvas.filled(0..canvas.len()).map(|(at, _)| first + at.0));
                all.labels.extend(labels(canvas, truth));
            }
            first += u32_of(*length);
        }
        all
    }

    /// Their states, (judged, `d_model`), f32; `None` if there are none.
    fn states(&self, net: &Net<'_>, pass: &Pass) -> Option<TensorResult<Tensor>> {
        let take = || net.device.gather(&pass.hidden, &net.device.words(&self.index)?)?.to_dtype(DType::F32);
        (!self.index.is_empty()).then(take)
    }

    /// The gradient of all states of the pass, from that of these.
    fn spread(&self, net: &Net<'_>, of_states: &Tensor, pass: &Pass) -> TensorResult<Tensor> {
        net.device.scattered(of_states, &self.index, pass.tokens())
    }
}
