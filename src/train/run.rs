//! The training loop: rows, gradients, an optimiser step, a report, and now and then a checkpoint.
//! A run that is stopped and resumed ends with the same bytes as one that is not. An [`Objective`]
//! says what is learned.

use super::net::{Net, Parameters, Tape};
use super::optimiser::{Optimiser, Schedule};
use super::progress::{Means, Meter, Progress, Sums};
use super::{
    checkpoint::{self, Saves},
    data::Data,
    error::TrainError,
};
use crate::model::{Config, Metadata, is_parallel, save_tensors};
use candle_core::Tensor;
use serde_json::{Map, Value};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{collections::BTreeMap, path::Path, time::Instant};

/// How a run is carried out, whatever its objective.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The optimiser's settings.
    pub schedule: Schedule,
    /// Rows computed at once by a thread. A step adds up the gradients of its pieces.
    pub piece: usize,
    /// Pieces computed at the same time.
    pub threads: usize,
    /// Steps between checkpoints.
    pub save_every: u32,
    /// Steps between reports.
    pub report_every: u32,
    /// Steps between measurements on held-out rows; `None` for none.
    pub evaluate_every: Option<NonZeroU32>,
    /// Whether blocks are computed again in the backward pass instead of being kept: less memory,
    /// more time, the same result.
    pub recompute: bool,
    /// The device to compute on.
    pub device: crate::model::Device,
    /// Take only so many steps and write no checkpoint, to see how long they take.
    pub trial: Option<u32>,
}

/// The end of a run.
#[derive(Debug)]
pub struct Finished {
    /// Steps taken.
    pub step: u32,
    /// Whether all steps were taken.
    pub is_complete: bool,
    /// Parameters that learned.
    pub learned: u64,
    pub(super) averages: BTreeMap<String, Tensor>,
}

impl Finished {
    /// Writes the moving averages of the backbone's weights as a `model.safetensors`.
    ///
    /// # Errors
    /// When the file cannot be written. An existing file is then unchanged.
    pub fn write_backbone(&self, path: &Path) -> Result<(), TrainError> {
        let is_backbone = |name: &str| name.starts_with("model.transformer.") && !name.contains(".lora_");
        Ok(save_tensors(path, &self.averages_of(is_backbone), &Metadata::new())?)
    }

    /// The moving averages of the parameters whose name is `wanted`.
    pub(super) fn averages_of(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Tensor> {
        let averages = self.averages.iter().filter(|(name, _)| wanted(name));
        averages.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }
}

pub(super) struct Scored<Feedback> {
    /// The loss with its graph; `None` when there is nothing to learn from these rows.
    pub(super) loss: Option<Tensor>,
    pub(super) sums: Sums,
    /// What the objective needs to know about each row, in their order.
    pub(super) feedback: Vec<Feedback>,
    /// The passes whose blocks are computed again for the gradients.
    pub(super) tapes: Vec<Tape>,
}

/// A training objective: it makes the rows of a step and scores them.
pub(super) trait Objective: Sync {
    type Sample: Sync;
    /// What the objective learns about a row when it is scored.
    type Feedback: Send;

    /// The rows of `step`: a function of the step and of what a checkpoint holds.
    fn rows(&mut self, step: u32) -> Result<Vec<Self::Sample>, TrainError>;

    /// Rows that are never learned from; always the same ones.
    fn held_out(&mut self) -> Result<Vec<Self::Sample>, TrainError>;

    /// Where the rows come from.
    fn data(&self) -> &Data;

    /// Tokens of a row.
    fn length(&self) -> usize {
        self.data().length()
    }

    /// These rows' share of the step's loss.
    fn score(&self, net: &Net<'_>, rows: &[Self::Sample]) -> candle_core::Result<Scored<Self::Feedback>>;

    /// Takes the feedback on all rows of a step, in their order.
    fn absorb(&mut self, _feedback: Vec<Self::Feedback>) -> Result<(), TrainError> {
        Ok(())
    }

    /// Whether the parameters alone are enough to resume a run that stops before `step`.
    fn is_between_rounds(&self, _step: u32) -> bool {
        true
    }
}

#[derive(Debug)]
pub(super) struct Learner {
    pub(super) config: Config,
    pub(super) parameters: Parameters,
    /// Factor of B A in adapters.
    pub(super) lora_scale: f64,
}

/// Trains to the last step, or until `stop` is set; then the run is saved in the file `checkpoint`
/// and can be resumed, with the same `settings`, data and initial weights only.
pub(super) fn train<O: Objective>(
    run: &RunConfig,
    objective: &mut O,
    learner: Learner,
    checkpoint: &Path,
    settings: &Map<String, Value>,
    stop: &AtomicBool,
    mut report: impl FnMut(&Progress),
) -> Result<Finished, TrainError> {
    let Learner { config, mut parameters, lora_scale } = learner;
    let settings = &checkpoint::complete(settings, objective.data(), &config, &parameters)?;
    let schedule = &run.schedule;
    let (device, _) = run.device.open()?;
    let (mut step, mut optimiser) = match checkpoint::open(checkpoint, &device)? {
        None => (0, Optimiser::new(schedule.clone(), &parameters)?),
        Some(saved) => {
            checkpoint::check_same(checkpoint, &saved.settings, settings)?;
            for (name, tensor) in &saved.parameters {
                parameters.train(name.clone(), tensor)?;
            }
            (saved.step, Optimiser { schedule: schedule.clone(), memory: saved.memory })
        }
    };
    let begun = Instant::now();
    let mut meter = Meter::new();
    let (first, mut saved_at) = (step, step);
    let mut saves = Saves::default();
    loop {
        let is_tried = run.trial.is_some_and(|steps| step - first >= steps);
        let is_stopped = stop.load(Ordering::Relaxed) && objective.is_between_rounds(step);
        let is_over = is_tried || is_stopped || step >= schedule.steps;
        let is_due = step - saved_at >= run.save_every && objective.is_between_rounds(step);
        if step > saved_at && (is_over || is_due) && run.trial.is_none() {
            saves.begin(checkpoint, step, settings, &parameters, &optimiser.memory)?;
            saved_at = step;
        }
        if is_over {
            saves.end()?;
            let averages = optimiser.memory.iter().map(|(name, memory)| (name.clone(), memory.ema.clone()));
            let learned = parameters.trained.values().map(|var| var.elem_count() as u64).sum();
            return Ok(Finished { step, is_complete: step >= schedule.steps, learned, averages: averages.collect() });
        }
        let rows = objective.rows(step)?;
        let net = Net::new(&config, &parameters, objective.length(), lora_scale, &device)?;
        let net = if run.recompute { net.recomputing() } else { net };
        let Learned { gradients, sums, feedback } = learn_all(run, objective, &net, &rows, &parameters)?;
        if !sums.loss.is_finite() {
            return Err(TrainError::NotFinite { what: "the loss", step });
        }
        let norm = optimiser.step(&parameters, &gradients, step)?;
        if !norm.is_finite() {
            return Err(TrainError::NotFinite { what: "the gradient", step });
        }
        objective.absorb(feedback)?;
        step += 1;
        meter.add(&sums, rows.len() * objective.length());
        let is_last = step == schedule.steps;
        let is_measured = run.evaluate_every.filter(|every| is_last || step.is_multiple_of(every.get())).is_some();
        if step.is_multiple_of(run.report_every) || is_measured || is_last {
            let mut progress = meter.report(schedule, step, norm, begun.elapsed());
            if is_measured {
                let averages = optimiser.averages(&parameters)?;
                let net = Net::new(&config, &averages, objective.length(), lora_scale, &device)?;
                let rows = objective.held_out()?;
                let sums = in_pieces(run, &rows, &averages, |piece| Ok(objective.score(&net, piece)?.sums))?;
                let mut total = Sums::default();
                sums.iter().for_each(|sums| total.add(sums));
                progress.held_out = Some(Means::of(&total));
            }
            report(&progress);
            meter = Meter::new();
        }
    }
}

/// What some rows add to a step.
struct Learned<Feedback> {
    gradients: BTreeMap<String, Tensor>,
    sums: Sums,
    feedback: Vec<Feedback>,
}

/// The gradients of a step: those of its pieces, added up in their order.
fn learn_all<O: Objective>(
    run: &RunConfig,
    objective: &O,
    net: &Net<'_>,
    rows: &[O::Sample],
    parameters: &Parameters,
) -> Result<Learned<O::Feedback>, TrainError> {
    let mut total = Learned { gradients: BTreeMap::new(), sums: Sums::default(), feedback: Vec::new() };
    for piece in in_pieces(run, rows, parameters, |piece| learn(objective, net, piece, parameters))? {
        for (name, gradient) in piece.gradients {
            let sum = match total.gradients.get(&name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            total.gradients.insert(name, sum);
        }
        total.sums.add(&piece.sums);
        total.feedback.extend(piece.feedback);
    }
    Ok(total)
}

/// What `work` makes of the pieces of some rows, in their order. On a CPU several threads take
/// them.
fn in_pieces<Sample: Sync, T: Send>(
    run: &RunConfig,
    rows: &[Sample],
    parameters: &Parameters,
    work: impl Fn(&[Sample]) -> candle_core::Result<T> + Sync,
) -> Result<Vec<T>, TrainError> {
    let pieces: Vec<&[Sample]> = rows.chunks(run.piece).collect();
    // a GPU does one thing after the other, in the order of one thread
    let is_parallel = parameters.trained.values().all(|var| is_parallel(var.as_tensor()));
    let threads = if is_parallel { run.threads } else { 1 };
    let results = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    let take = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return };
            let done = work(piece);
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(index, done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(pieces.len()) {
            scope.spawn(take);
        }
        take();
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_values().collect::<candle_core::Result<_>>()?)
}

fn learn<O: Objective>(
    objective: &O,
    net: &Net<'_>,
    rows: &[O::Sample],
    parameters: &Parameters,
) -> candle_core::Result<Learned<O::Feedback>> {
    let Scored { loss, mut sums, feedback, tapes } = objective.score(net, rows)?;
    let Some(loss) = loss else { return Ok(Learned { gradients: BTreeMap::new(), sums, feedback }) };
    sums.loss = f64::from(loss.to_scalar::<f32>()?);
    let (mut store, mut gradients) = (loss.backward()?, BTreeMap::new());
    parameters.take_gradients(&mut store, &mut gradients)?;
    tapes.into_iter().try_for_each(|tape| net.rewind(tape, &mut store, &mut gradients))?;
    Ok(Learned { gradients, sums, feedback })
}
