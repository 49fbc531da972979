//! Masked diffusion pretraining: tokens are masked at a random ratio and the model learns to name them (LLaDA, arXiv
//! 2502.09992, equation 3). Refuses to know quality heads.

use super::TrainError;
use super::data::{Data, Example};
use super::net::Net;
use super::parameters::{Parameters, fresh_backbone};
use super::run::{self, Finished, Learner, Report, Run, Scored, Sums, Task};
use super::sudoku;
use crate::model::{self, Config, save_tensors};
use candle_core::{Device, Tensor};
use rand_philox::Philox;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Smallest masking ratio, so that 1 / ratio stays bounded.
pub(super) const RATIO_MIN: f64 = 0.001;

/// A row with some of its tokens masked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Masked {
    /// What the model sees.
    pub(super) ids: Vec<u32>,
    /// The masked positions, ascending, and what stood there.
    pub(super) hidden: Vec<(u32, u32)>,
    /// Weight of each masked token's cross-entropy in the loss: 1 / (ratio x free tokens of the row x rows).
    pub(super) weight: f32,
}

/// How rows are masked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Masking {
    pub(super) seed: u64,
    pub(super) batch: usize,
    pub(super) ratio_min: f64,
    pub(super) ratio_max: f64,
    pub(super) mask: u32,
}

impl Masking {
    /// Masks row `index` of a step. The ratios of a step's rows are spread evenly over the interval (antithetic; Kingma et al.,
    /// arXiv 2107.00630), each token is masked independently.
    pub(super) fn apply(&self, example: &Example, step: u32, index: usize) -> Masked {
        let uniform = |row: u64, draw: u32| {
            #[allow(clippy::cast_possible_truncation)] // the two halves of the seed
            let key = [self.seed as u32, (self.seed >> 32) as u32];
            let counter = (u128::from(step) << 96) | (u128::from(row) << 32) | u128::from(draw);
            let mut philox = Philox::new(key, counter);
            (f64::from(philox.next_u32()) + 0.5) / 4_294_967_296.0
        };
        #[allow(clippy::cast_precision_loss)] // batches are small
        let place = (uniform(u64::MAX, 0) + index as f64 / self.batch as f64).fract();
        let ratio = self.ratio_min + (self.ratio_max - self.ratio_min) * place;
        let mut ids = example.tokens.clone();
        let is_masked = |position: &u32| uniform(index as u64, *position) < ratio;
        let hidden: Vec<(u32, u32)> =
            example.free.iter().copied().filter(is_masked).map(|at| (at, ids[at as usize])).collect();
        for (at, _) in &hidden {
            ids[*at as usize] = self.mask;
        }
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a weight
        let weight = (1.0 / (ratio * example.free.len() as f64 * self.batch as f64)) as f32;
        Masked { ids, hidden, weight }
    }
}

/// What the output layer says about the masked tokens of some rows, and the loss.
pub(super) struct Denoised {
    pub(super) loss: Tensor,
    /// (masked tokens of all rows, `embedding_size`)
    pub(super) logits: Tensor,
    pub(super) sums: Sums,
}

/// The cross-entropies of the masked tokens: `hidden` (rows x length, `d_model`) are the states of `rows`. `None` when nothing
/// is masked.
pub(super) fn denoise(net: &Net<'_>, hidden: &Tensor, rows: &[&Masked]) -> candle_core::Result<Option<Denoised>> {
    let length = rows.first().map_or(0, |row| row.ids.len());
    let (mut index, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for (row, Masked { hidden, weight, .. }) in rows.iter().enumerate() {
        for (position, token) in hidden {
            #[allow(clippy::cast_possible_truncation)] // a piece holds far fewer than 2^32 tokens
            index.push((row * length) as u32 + position);
            targets.push(*token);
            weights.push(*weight);
        }
    }
    if index.is_empty() {
        return Ok(None);
    }
    let states = hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?; // (masked, d_model)
    let logits = net.logits(&states)?; // (masked, embedding_size)
    let loss = super::ops::cross_entropy(&logits, &targets, &weights)?;
    let guesses = logits.detach().argmax(1)?.to_vec1::<u32>()?;
    let right = guesses.iter().zip(&targets).filter(|(guess, target)| guess == target).count();
    let plain = super::ops::cross_entropy(&logits.detach(), &targets, &vec![1.0; targets.len()])?;
    #[allow(clippy::cast_precision_loss)] // counts, for means
    let sums = Sums {
        cross_entropy: f64::from(plain.to_scalar::<f32>()?),
        masked: targets.len() as f64,
        right: right as f64,
        ..Sums::default()
    };
    Ok(Some(Denoised { loss, logits, sums }))
}

/// Where weights start.
#[derive(Clone, Debug)]
pub enum Start {
    /// Random ones.
    Fresh,
    /// Random ones for Sudoku: the first 27 dimensions of the positions say row, column and box, and the tokens keep out of
    /// them. Without this a small model does not leave the plateau on which it only counts digits.
    Sudoku,
    /// Those of a model.
    From {
        /// By their names in checkpoints.
        weights: BTreeMap<String, Tensor>,
        /// Names them.
        fingerprint: String,
    },
}

impl Start {
    /// The weights of the model in `dir`, or fresh ones where it has only a configuration.
    ///
    /// # Errors
    /// When there are weights that do not fit the configuration or cannot be read.
    pub fn of(dir: &Path, device: model::Device) -> Result<Self, TrainError> {
        if !["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists()) {
            return Ok(Self::Fresh);
        }
        let model::Tensors { backbone: weights, fingerprint, .. } = model::tensors(dir, None, device)?;
        Ok(Self::From { weights, fingerprint })
    }

    /// In a word, for a run's settings.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Fresh => "fresh",
            Self::Sudoku => "sudoku",
            Self::From { fingerprint, .. } => fingerprint,
        }
    }
}

/// Pretraining of a model.
#[derive(Debug)]
pub struct Base {
    /// The model's sizes.
    pub config: Config,
    /// What it learns from.
    pub data: Data,
    /// Rows of a step.
    pub batch: usize,
    /// Largest masking ratio, above 0 and at most 1.
    pub ratio_max: f64,
    /// Decides rows, masks and fresh weights.
    pub seed: u64,
}

impl Base {
    /// Runs to the end, or until `stop` is set. `checkpoint` is resumed if it is there and was told the same `settings`.
    ///
    /// # Errors
    /// When the settings do not fit, the checkpoint is of another run or cannot be written, or the loss is not finite.
    pub fn run(
        mut self,
        run: &Run,
        start: Start,
        checkpoint: &Path,
        settings: &Map<String, Value>,
        stop: &AtomicBool,
        report: impl FnMut(&Report),
    ) -> Result<Finished, TrainError> {
        let config = self.config.clone();
        self.data.check(&config)?;
        let mut parameters = Parameters::default();
        for (name, tensor) in start.weights(&config, self.seed, &run.device.open()?.0)? {
            parameters.train(name, &tensor)?;
        }
        let learner = Learner { config, parameters, lora_scale: 0.0 };
        run::run(run, &mut self, learner, (checkpoint, settings), stop, report)
    }
}

impl Finished {
    /// Writes the moving averages of the backbone's weights as a `model.safetensors`.
    ///
    /// # Errors
    /// When the file cannot be written; what was there before is then untouched.
    pub fn write_backbone(&self, path: &Path) -> Result<(), TrainError> {
        let is_backbone = |name: &str| name.starts_with("model.transformer.") && !name.contains(".lora_");
        let tensors = self.averages.iter().filter(|(name, _)| is_backbone(name));
        let tensors = tensors.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        Ok(save_tensors(path, &tensors, None)?)
    }
}

impl Start {
    fn weights(self, config: &Config, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor>, TrainError> {
        match self {
            Self::From { weights, .. } => Ok(weights),
            Self::Fresh => Ok(fresh_backbone(config, seed, device)?),
            Self::Sudoku => {
                let mut weights = fresh_backbone(config, seed, device)?;
                let named = |name: &str| format!("model.transformer.{name}.weight");
                let Some(tokens) = weights.get(&named("wte")) else { return Ok(weights) };
                let tokens = clear_of_units(tokens)?;
                weights.insert(named("wte"), tokens);
                weights.insert(named("wpe"), unit_positions(config, device)?);
                Ok(weights)
            }
        }
    }
}

/// Dimensions that say row, column and box.
const UNITS: usize = 27;

/// Token embeddings ten times as large as usual, and zero in the dimensions of the units.
fn clear_of_units(tokens: &Tensor) -> candle_core::Result<Tensor> {
    let (_, d) = tokens.dims2()?;
    let mask: Vec<f32> = (0..d).map(|dimension| if dimension < UNITS { 0.0 } else { 10.0 }).collect();
    tokens.broadcast_mul(&Tensor::new(mask, tokens.device())?)
}

/// (`max_sequence_length`, `d_model`): 0.5 where a cell lies in a unit, 0 elsewhere.
fn unit_positions(config: &Config, device: &Device) -> candle_core::Result<Tensor> {
    let (length, d) = (config.max_sequence_length, config.d_model);
    let mut numbers = vec![0.0f32; length * d];
    for cell in 0..sudoku::CELLS {
        let position = cell + cell / 9;
        for (kind, unit) in sudoku::units_of(cell).into_iter().enumerate() {
            if let Some(number) = numbers.get_mut(position * d + 9 * kind + unit) {
                *number = 0.5;
            }
        }
    }
    Tensor::from_vec(numbers, (length, d), device)
}

impl Task for Base {
    type Row = Masked;
    type Outcome = ();

    fn rows(&mut self, step: u32) -> Result<Vec<Masked>, TrainError> {
        let Self { batch, ratio_max, seed, .. } = *self;
        let masking = Masking { seed, batch, ratio_min: RATIO_MIN, ratio_max, mask: self.config.mask.0 };
        let number = |index: usize| u64::from(step) * batch as u64 + index as u64;
        Ok((0..batch).map(|index| masking.apply(&self.data.row(number(index)), step, index)).collect())
    }

    fn length(&self) -> usize {
        self.data.length()
    }

    fn score(&self, net: &Net<'_>, rows: &[Masked]) -> candle_core::Result<Scored<()>> {
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let hidden = net.hidden(&ids, rows.len())?; // (rows x length, d_model)
        Ok(match denoise(net, &hidden, &rows.iter().collect::<Vec<_>>())? {
            None => Scored { loss: None, sums: Sums::default(), outcomes: Vec::new() },
            Some(Denoised { loss, sums, .. }) => Scored { loss: Some(loss), sums, outcomes: Vec::new() },
        })
    }

    fn absorb(&mut self, _: Vec<()>) -> Result<(), TrainError> {
        Ok(())
    }

    fn is_between_rounds(&self, _: u32) -> bool {
        true
    }
}
