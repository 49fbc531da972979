//! The training loop: rows, gradients, an optimiser step, a report, and now and then a checkpoint.
//! A run that is stopped and resumed ends with the same bytes as one that is not. An [`Objective`]
//! says what is learned.

use super::net::{Computation, Net, is_multiplied};
use super::optimiser::{Optimiser, Schedule};
use super::parameters::{Gradients, Parameters};
use super::precision::Products;
use super::progress::{Means, Meter, Progress, Sums};
use super::{
    checkpoint::{self, Saves},
    data::Data,
    error::TrainError,
};
use crate::model::{Config, Metadata, Training, save_tensors};
use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{collections::BTreeMap, path::Path, time::Instant};

/// How a run is carried out, whatever its objective.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The optimiser's settings.
    pub schedule: Schedule,
    /// Rows computed at once, on a CPU by each thread; `None` for a default by the device. A step
    /// adds up the gradients of its pieces.
    pub piece: Option<usize>,
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
    /// The number format of products of matrices.
    pub products: Products,
    /// The device to compute on.
    pub device: crate::model::Device,
    /// Take only so many steps and write no checkpoint, to see how long they take.
    pub trial: Option<u32>,
}

/// Rows of a piece on a CPU: each thread has its own.
const CPU_PIECE: usize = 8;
/// Tokens of a piece on a GPU at most; more do not keep it busier.
const GPU_TOKENS: usize = 1 << 15;
/// Tokens of a piece on a GPU times the width of the model: 8,192 tokens of an 8B model, whose
/// blocks keep 35 GB for the gradients.
const GPU_WIDTHS: usize = 1 << 25;

impl RunConfig {
    /// Rows of a piece, for rows of so many tokens.
    pub(super) fn rows_of_piece(&self, config: &Config, length: usize, device: &dyn Training) -> usize {
        let tokens = (GPU_WIDTHS / config.d_model).min(GPU_TOKENS);
        self.piece.unwrap_or(if device.is_parallel() { CPU_PIECE } else { (tokens / length).max(1) })
    }
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

pub(super) struct Scored<Pending> {
    /// Numbers on the device, from which [`Objective::told`] makes figures; `None` where there is
    /// nothing to learn from these rows.
    pub(super) told: Option<Tensor>,
    pub(super) pending: Pending,
}

/// A training objective: it makes the rows of a step and scores them.
pub(super) trait Objective: Sync {
    type Sample: Sync;
    /// What is known of scored rows before their numbers are on the host.
    type Pending: Send;
    /// What the objective learns about a row when it is scored.
    type Feedback: Send;

    /// The rows of `step`: a function of the step and of what a checkpoint holds.
    fn rows(&mut self, step: u32) -> Result<Vec<Self::Sample>, TrainError>;

    /// Rows that are never learned from; always the same ones.
    fn held_out(&mut self) -> Result<Vec<Self::Sample>, TrainError>;

    /// Where the rows come from.
    fn data(&self) -> &Data;

    /// Tokens of a row at most.
    fn length(&self) -> usize {
        self.data().length()
    }

    /// Tokens of a row.
    fn tokens(&self, row: &Self::Sample) -> usize;

    /// Computes these rows' share of the step's loss, and adds that of the gradients.
    fn score(
        &self,
        net: &Net<'_>,
        rows: &[Self::Sample],
        gradients: Option<&mut Gradients>,
    ) -> candle_core::Result<Scored<Self::Pending>>;

    /// The figures of scored rows, from their numbers, and what the objective learns about each.
    fn told(&self, rows: &[Self::Sample], pending: Self::Pending, numbers: &[f32]) -> (Sums, Vec<Self::Feedback>);

    /// Whether rows can be made before the results of the step before are known.
    fn rows_depend_on_the_step_alone(&self) -> bool {
        false
    }

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
    /// Where it learns.
    pub(super) device: Arc<dyn Training>,
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
    let Learner { config, mut parameters, lora_scale, device } = learner;
    let schedule = &run.schedule;
    let dtype = run.products.on(&*device)?;
    let piece = run.rows_of_piece(&config, objective.length(), &*device);
    let mut settings = checkpoint::complete(settings, objective.data(), &config, &parameters)?;
    settings.insert("piece".to_owned(), json!(piece));
    settings.insert("precision".to_owned(), json!(run.products.name(dtype)));
    let (settings, cut) = (&settings, Cut { piece, threads: run.threads });
    let computation = Computation { device, dtype, lora_scale, recomputes: run.recompute };
    let device = &computation.device;
    for (name, tensor) in &mut parameters.frozen {
        *tensor = if is_multiplied(name, tensor) { tensor.to_dtype(dtype)? } else { tensor.clone() };
    }
    parameters.move_to(&device.device())?;
    let saved = checkpoint::open(checkpoint, &device.device())?;
    saved.as_ref().map(|saved| checkpoint::check_same(checkpoint, &saved.settings, settings)).transpose()?;
    let states = saved.as_ref().map(|saved| &saved.states);
    let optimiser = Optimiser::new(schedule.clone(), &mut parameters, states, Arc::clone(device))?;
    let mut step = saved.map_or(0, |saved| saved.step);
    let begun = Instant::now();
    let mut meter = Meter::new();
    let (first, mut saved_at) = (step, step);
    let (mut saves, mut ahead) = (Saves::default(), None);
    loop {
        let is_tried = run.trial.is_some_and(|steps| step - first >= steps);
        let is_stopped = stop.load(Ordering::Relaxed) && objective.is_between_rounds(step);
        let is_over = is_tried || is_stopped || step >= schedule.steps;
        let is_due = step - saved_at >= run.save_every && objective.is_between_rounds(step);
        if step > saved_at && (is_over || is_due) && run.trial.is_none() {
            saves.begin(checkpoint, step, settings, &optimiser)?;
            saved_at = step;
        }
        if is_over {
            saves.end()?;
            let averages = optimiser.averages()?;
            let learned = averages.values().map(|tensor| tensor.elem_count() as u64).sum();
            return Ok(Finished { step, is_complete: step >= schedule.steps, learned, averages });
        }
        let rows = ahead.take().map_or_else(|| objective.rows(step), Ok)?;
        let net = Net::new(&config, &parameters, objective.length(), &computation)?;
        let learned = cut.scored(objective, &net, &rows, true)?;
        let norm = optimiser.step(&learned.gradients, step)?;
        // while the device computes
        if objective.rows_depend_on_the_step_alone() && step + 1 < schedule.steps {
            ahead = Some(objective.rows(step + 1)?);
        }
        let Told { sums, feedback, more } = cut.told(objective, learned, &rows, Some(norm))?;
        let norm = more.first().copied().map_or(f64::NAN, f64::from);
        for (what, number) in [("the loss", sums.loss), ("the gradient", norm)] {
            if !number.is_finite() {
                return Err(TrainError::NotFinite { what, step });
            }
        }
        objective.absorb(feedback)?;
        step += 1;
        meter.add(&sums, rows.iter().map(|row| objective.tokens(row)).sum());
        let is_last = step == schedule.steps;
        let is_measured = run.evaluate_every.filter(|every| is_last || step.is_multiple_of(every.get())).is_some();
        if step.is_multiple_of(run.report_every) || is_measured || is_last {
            let mut progress = meter.report(schedule, step, norm, begun.elapsed());
            if is_measured {
                let averages = Parameters { trained: optimiser.averages()?, frozen: parameters.frozen.clone() };
                let net = Net::new(&config, &averages, objective.length(), &computation)?;
                progress.held_out = Some(Means::of(&cut.measured(objective, &net)?));
            }
            report(&progress);
            meter = Meter::new();
        }
    }
}

/// The figures of the held-out rows, with these parameters of heads.
pub(super) fn measured<O: Objective>(
    run: &RunConfig,
    objective: &mut O,
    config: &Config,
    heads: &Parameters,
    device: Arc<dyn Training>,
) -> Result<Sums, TrainError> {
    let piece = run.rows_of_piece(config, objective.length(), &*device);
    let computation = Computation { device, dtype: DType::F32, lora_scale: 0.0, recomputes: false };
    let net = Net::new(config, heads, objective.length(), &computation)?;
    Cut { piece, threads: run.threads }.measured(objective, &net)
}

/// What the rows of a step gave.
struct Step<Pending> {
    gradients: Gradients,
    /// Of each piece, in their order.
    pieces: Vec<Scored<Pending>>,
}

/// The same with its numbers on the host.
struct Told<Feedback> {
    sums: Sums,
    feedback: Vec<Feedback>,
    /// The numbers of what was asked for beside those of the rows.
    more: Vec<f32>,
}

/// How the rows of a step are cut into pieces.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Rows of a piece.
    piece: usize,
    /// Pieces computed at the same time on a CPU.
    threads: usize,
}

impl Cut {
    /// The figures of the held-out rows.
    fn measured<O: Objective>(self, objective: &mut O, net: &Net<'_>) -> Result<Sums, TrainError> {
        let rows = objective.held_out()?;
        let scored = self.scored(objective, net, &rows, false)?;
        Ok(self.told(objective, scored, &rows, None)?.sums)
    }

    /// Scores the pieces of some rows and adds up their gradients in the order of the pieces. On a
    /// CPU several threads take them.
    fn scored<O: Objective>(
        self,
        objective: &O,
        net: &Net<'_>,
        rows: &[O::Sample],
        learns: bool,
    ) -> Result<Step<O::Pending>, TrainError> {
        let pieces: Vec<&[O::Sample]> = rows.chunks(self.piece).collect();
        // a GPU does one thing after the other, in the order of one thread
        let threads = if net.device.is_parallel() { self.threads } else { 1 };
        let (next, all) = (AtomicUsize::new(0), Mutex::new(InOrder::default()));
        let lock = || all.lock().unwrap_or_else(PoisonError::into_inner);
        let take = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(index) else { return Ok(()) };
                let mut gradients = Gradients::default();
                let scored = objective.score(net, piece, learns.then_some(&mut gradients))?;
                lock().add(index, scored, gradients)?;
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(pieces.len())).map(|_| scope.spawn(take)).collect();
            let own = take();
            let others =
                others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            others.fold(own, candle_core::Result::and)
        })?;
        let InOrder { gradients, pieces, .. } = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Step { gradients, pieces })
    }

    /// Brings the numbers of all pieces, and `more` numbers, to the host in one copy.
    fn told<O: Objective>(
        self,
        objective: &O,
        Step { pieces, .. }: Step<O::Pending>,
        rows: &[O::Sample],
        more: Option<Tensor>,
    ) -> candle_core::Result<Told<O::Feedback>> {
        let told: Vec<Tensor> = pieces.iter().filter_map(|piece| piece.told.clone()).chain(more).collect();
        let numbers = if told.is_empty() { Vec::new() } else { Tensor::cat(&told, 0)?.to_vec1::<f32>()? };
        let mut numbers = numbers.into_iter();
        let mut all = Told { sums: Sums::default(), feedback: Vec::new(), more: Vec::new() };
        for (rows, Scored { told, pending }) in rows.chunks(self.piece).zip(pieces) {
            let own: Vec<f32> = numbers.by_ref().take(told.map_or(0, |told| told.elem_count())).collect();
            let (sums, feedback) = objective.told(rows, pending, &own);
            all.sums.add(&sums);
            all.feedback.extend(feedback);
        }
        all.more.extend(numbers);
        Ok(all)
    }
}

/// Pieces that are added up in their order, whatever the order in which they come.
struct InOrder<Pending> {
    gradients: Gradients,
    pieces: Vec<Scored<Pending>>,
    /// Those that came before one that comes first.
    waiting: BTreeMap<usize, (Scored<Pending>, Gradients)>,
}

impl<Pending> Default for InOrder<Pending> {
    fn default() -> Self {
        Self { gradients: Gradients::default(), pieces: Vec::new(), waiting: BTreeMap::new() }
    }
}

impl<Pending> InOrder<Pending> {
    fn add(&mut self, index: usize, scored: Scored<Pending>, gradients: Gradients) -> candle_core::Result<()> {
        self.waiting.insert(index, (scored, gradients));
        while let Some((scored, gradients)) = self.waiting.remove(&self.pieces.len()) {
            self.gradients.add_all(&gradients)?;
            self.pieces.push(scored);
        }
        Ok(())
    }
}
