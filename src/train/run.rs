//! The loop around a task: rows, gradients, a step of the optimiser, a line of the log, now and then a checkpoint. A run
//! that is stopped and resumed takes the same steps to the same bits. Refuses to know what is learned.

use super::TrainError;
use super::checkpoint;
use super::net::Net;
use super::optimiser::{Optimiser, Schedule};
use super::parameters::Parameters;
use crate::model::Config;
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a run is told beside its task.
#[derive(Clone, Debug)]
pub struct Run {
    /// The optimiser's settings.
    pub schedule: Schedule,
    /// Rows of a piece. Gradients of a step are the sum over pieces, so that memory is bounded by a piece per thread.
    pub piece: usize,
    /// Pieces computed at the same time.
    pub threads: usize,
    /// Steps between checkpoints.
    pub save_every: u32,
    /// Steps between reports.
    pub report_every: u32,
    /// Where it computes.
    pub device: crate::model::Device,
}

/// What some rows said, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss that is minimised, weights and means included.
    pub loss: f64,
    /// Cross-entropies of masked tokens, in nats.
    pub cross_entropy: f64,
    /// Masked tokens.
    pub masked: f64,
    /// Masked tokens whose most probable token is right.
    pub right: f64,
    /// Binary cross-entropies of judged tokens, in nats.
    pub judgement: f64,
    /// Tokens the model filled and the head judged.
    pub judged: f64,
    /// Of these, the right ones.
    pub judged_right: f64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.cross_entropy += other.cross_entropy;
        self.masked += other.masked;
        self.right += other.right;
        self.judgement += other.judgement;
        self.judged += other.judged;
        self.judged_right += other.judged_right;
    }
}

/// How a run is doing: means since the last report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Steps taken.
    pub step: u32,
    /// Steps of the whole run.
    pub steps: u32,
    /// The loss that is minimised.
    pub loss: f64,
    /// Cross-entropy of a masked token, in nats.
    pub cross_entropy: f64,
    /// Share of masked tokens whose most probable token is right.
    pub accuracy: f64,
    /// Binary cross-entropy of a judged token, in nats, where there is a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judgement: Option<f64>,
    /// Share of the judged tokens that were right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged_right: Option<f64>,
    /// The last step's learning rate.
    pub learning_rate: f64,
    /// The last step's gradient norm before clipping.
    pub gradient_norm: f64,
    /// Tokens of rows a second.
    pub tokens_per_s: f64,
    /// Seconds since the run began or was resumed.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// Steps taken.
    pub step: u32,
    /// Whether these were all.
    pub is_complete: bool,
    /// The moving average of every trained parameter.
    pub(super) averages: BTreeMap<String, Tensor>,
}

/// What some rows give a step.
pub(super) struct Scored<Outcome> {
    /// The loss with its graph; `None` when the rows have nothing to learn from.
    pub(super) loss: Option<Tensor>,
    pub(super) sums: Sums,
    /// What the task wants to know of each row.
    pub(super) outcomes: Vec<Outcome>,
}

/// What is learned.
pub(super) trait Task: Sync {
    /// What a step learns from, one of a batch.
    type Row: Sync;
    /// What scoring a row tells the task.
    type Outcome: Send;

    /// The rows of a step. Depends on the step and on nothing that a checkpoint does not hold.
    fn rows(&mut self, step: u32) -> Result<Vec<Self::Row>, TrainError>;

    /// Tokens of a row.
    fn length(&self) -> usize;

    /// The part of the step's loss that these rows make up.
    fn score(&self, net: &Net<'_>, rows: &[Self::Row]) -> candle_core::Result<Scored<Self::Outcome>>;

    /// Learns what came of the rows, in their order.
    fn absorb(&mut self, outcomes: Vec<Self::Outcome>) -> Result<(), TrainError>;

    /// Whether a run that stops before `step` can be resumed without more than the parameters.
    fn is_between_rounds(&self, step: u32) -> bool;
}

/// What changes, and what it is part of.
pub(super) struct Learner {
    pub(super) config: Config,
    pub(super) parameters: Parameters,
    /// Multiplied with B A of adapters.
    pub(super) lora_scale: f64,
}

/// Runs a task to its end, or until `stop` is set; then it is saved and can be resumed.
///
/// `settings` is what the run was told: a checkpoint in `file` is resumed if it was told the same.
pub(super) fn run<T: Task>(
    run: &Run,
    task: &mut T,
    learner: Learner,
    (file, settings): (&Path, &Map<String, Value>),
    stop: &AtomicBool,
    mut report: impl FnMut(&Report),
) -> Result<Finished, TrainError> {
    let Learner { config, mut parameters, lora_scale } = learner;
    let schedule = &run.schedule;
    let (device, _) = run.device.open()?;
    let (mut step, mut optimiser) = match checkpoint::open(file, &device)? {
        None => (0, Optimiser::new(schedule.clone(), &parameters)?),
        Some(saved) => {
            checkpoint::check_same(file, &saved.settings, settings)?;
            for (name, tensor) in &saved.parameters {
                parameters.train(name.clone(), tensor)?;
            }
            (saved.step, Optimiser::resumed(schedule.clone(), saved.memory))
        }
    };
    let begun = Instant::now();
    let mut since = Since::new();
    let mut saved_at = step;
    loop {
        let is_over = step >= schedule.steps || stop.load(Ordering::Relaxed) && task.is_between_rounds(step);
        let is_due = step - saved_at >= run.save_every && task.is_between_rounds(step);
        if step > saved_at && (is_over || is_due) {
            checkpoint::save(file, step, settings, &parameters, optimiser.memory())?;
            saved_at = step;
        }
        if is_over {
            let averages = optimiser.memory().iter().map(|(name, memory)| (name.clone(), memory.ema.clone()));
            return Ok(Finished { step, is_complete: step >= schedule.steps, averages: averages.collect() });
        }
        let rows = task.rows(step)?;
        let net = Net::new(&config, &parameters, task.length(), lora_scale, &device)?;
        let (gradients, sums, outcomes) = gradients(run, task, &net, &rows, &parameters)?;
        if !sums.loss.is_finite() {
            return Err(TrainError::NotFinite { what: "the loss", step });
        }
        let norm = optimiser.step(&parameters, &gradients, step)?;
        if !norm.is_finite() {
            return Err(TrainError::NotFinite { what: "the gradient", step });
        }
        task.absorb(outcomes)?;
        step += 1;
        since.add(&sums, rows.len() * task.length());
        if step.is_multiple_of(run.report_every) || step == schedule.steps {
            report(&since.report(schedule, step, norm, begun.elapsed()));
            since = Since::new();
        }
    }
}

type Gradients = BTreeMap<String, Tensor>;

/// The gradients of a step: of its pieces, added up in the pieces' order, whichever thread computed them.
fn gradients<T: Task>(
    run: &Run,
    task: &T,
    net: &Net<'_>,
    rows: &[T::Row],
    parameters: &Parameters,
) -> Result<(Gradients, Sums, Vec<T::Outcome>), TrainError> {
    let pieces: Vec<&[T::Row]> = rows.chunks(run.piece).collect();
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<candle_core::Result<_>>>> = pieces.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return };
            let done = learn(task, net, piece, parameters);
            *results[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..run.threads.min(pieces.len()) {
            scope.spawn(work);
        }
        work();
    });
    let (mut total, mut sums, mut outcomes) = (Gradients::new(), Sums::default(), Vec::new());
    for result in results {
        let result = result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(result) = result else { return Err(TrainError::Failed("a piece was lost".to_owned())) };
        let (gradients, piece_sums, piece_outcomes) = result?;
        for (name, gradient) in gradients {
            let sum = match total.get(&name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            total.insert(name, sum);
        }
        sums.add(&piece_sums);
        outcomes.extend(piece_outcomes);
    }
    Ok((total, sums, outcomes))
}

fn learn<T: Task>(
    task: &T,
    net: &Net<'_>,
    rows: &[T::Row],
    parameters: &Parameters,
) -> candle_core::Result<(Gradients, Sums, Vec<T::Outcome>)> {
    let Scored { loss, mut sums, outcomes } = task.score(net, rows)?;
    let Some(loss) = loss else { return Ok((Gradients::new(), sums, outcomes)) };
    sums.loss = f64::from(loss.to_scalar::<f32>()?);
    let mut store = loss.backward()?;
    let gradients = parameters.trained().iter().filter_map(|(name, var)| Some((name.clone(), store.remove(var)?)));
    Ok((gradients.collect(), sums, outcomes))
}

/// What has come together since the last report.
struct Since {
    began: Instant,
    sums: Sums,
    steps: u32,
    tokens: usize,
}

impl Since {
    fn new() -> Self {
        Self { began: Instant::now(), sums: Sums::default(), steps: 0, tokens: 0 }
    }

    fn add(&mut self, sums: &Sums, tokens: usize) {
        self.sums.add(sums);
        self.steps += 1;
        self.tokens += tokens;
    }

    fn report(&self, schedule: &Schedule, step: u32, norm: f64, since_begun: Duration) -> Report {
        let Sums { loss, cross_entropy, masked, right, judgement, judged, judged_right } = self.sums;
        let of_judged = |sum: f64| (judged > 0.0).then(|| sum / judged);
        #[allow(clippy::cast_precision_loss)] // for a rate
        let tokens = self.tokens as f64;
        Report {
            step,
            steps: schedule.steps,
            loss: loss / f64::from(self.steps.max(1)),
            cross_entropy: cross_entropy / masked.max(1.0),
            accuracy: right / masked.max(1.0),
            judgement: of_judged(judgement),
            judged_right: of_judged(judged_right),
            learning_rate: schedule.rate(step - 1),
            gradient_norm: norm,
            tokens_per_s: tokens / self.began.elapsed().as_secs_f64(),
            seconds: since_begun.as_secs_f64(),
        }
    }
}
