//! Fine-tuning of a model's quality head, alone, with adapters or with everything, and the files that come of it. Refuses
//! to know the loss.

use super::TrainError;
use super::data::Data;
use super::parameters::{Normals, Parameters, fresh_head};
use super::prism::{Prism, Recipe};
use super::run::{self, Finished, Learner, Report, Run};
use crate::model::{self, BASE, COMPANIONS, Config, Device, SaveError, Tensors, save, save_adapter, save_tensors};
use candle_core::Tensor;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// What learns beside the head.
#[derive(Clone, Debug, PartialEq)]
pub enum Learns {
    /// The whole backbone (the paper's Sudoku form).
    Everything,
    /// Nothing.
    HeadAlone,
    /// Low-rank adapters (LoRA, arXiv 2106.09685; the paper's LLaDA form), without dropout.
    Adapters {
        /// Rows of A and columns of B.
        rank: usize,
        /// B A is multiplied with alpha / rank.
        alpha: f64,
        /// Last parts of the adapted modules' names, as `q_proj`.
        targets: Vec<String>,
    },
}

/// Training of a head for a model.
#[derive(Debug)]
pub struct Tuning {
    /// The model's directory. A head that is in it is where training starts.
    pub base: PathBuf,
    /// What it learns from.
    pub data: Data,
    /// Rows of a step.
    pub batch: usize,
    /// How it learns.
    pub recipe: Recipe,
    /// What learns.
    pub learns: Learns,
    /// Decides rows, masks, fills and fresh weights.
    pub seed: u64,
}

/// A head, and what was trained with it.
#[derive(Debug)]
pub struct Tuned {
    /// How the run ended.
    pub finished: Finished,
    base: PathBuf,
    fingerprint: String,
    learns: Learns,
}

impl Tuning {
    /// Runs to the end, or until `stop` is set. `checkpoint` is resumed if it is there and was told the same `settings`.
    ///
    /// # Errors
    /// When the base cannot be read, the settings do not fit it, the checkpoint is of another run or cannot be written, or
    /// the loss is not finite.
    pub fn run(
        self,
        run: &Run,
        checkpoint: &Path,
        settings: &Map<String, Value>,
        stop: &AtomicBool,
        report: impl FnMut(&Report),
    ) -> Result<Tuned, TrainError> {
        let Self { base, data, batch, recipe, learns, seed } = self;
        let tensors = model::tensors(&base, None, run.device)?;
        let config = tensors.config.clone();
        data.check(&config)?;
        let fingerprint = tensors.fingerprint.clone();
        let parameters = parameters(tensors, &learns, seed, run.device)?;
        let learns_backbone = learns != Learns::HeadAlone;
        let lora_scale = match &learns {
            #[allow(clippy::cast_precision_loss)] // ranks are small
            Learns::Adapters { rank, alpha, .. } => alpha / *rank as f64,
            Learns::Everything | Learns::HeadAlone => 0.0,
        };
        let mut settings = settings.clone();
        settings.insert("base".to_owned(), json!(fingerprint));
        let mut task = Prism::new(config.clone(), data, batch, recipe, seed, learns_backbone);
        let place = (checkpoint, &settings);
        let learner = Learner { config, parameters, lora_scale };
        let finished = run::run(run, &mut task, learner, place, stop, report)?;
        Ok(Tuned { finished, base, fingerprint, learns })
    }
}

fn parameters(tensors: Tensors, learns: &Learns, seed: u64, device: Device) -> Result<Parameters, TrainError> {
    let (device, _) = device.open()?;
    let Tensors { config, backbone, head, .. } = tensors;
    let mut parameters = Parameters::default();
    let head = match head {
        Some(head) => head,
        None => fresh_head(&config, seed, &device)?,
    };
    for (name, tensor) in head {
        parameters.train(name, &tensor)?;
    }
    if let Learns::Adapters { rank, targets, .. } = learns {
        for (name, tensor) in adapters(&config, &backbone, *rank, targets, seed, &device)? {
            parameters.train(name, &tensor)?;
        }
    }
    for (name, tensor) in backbone {
        match learns {
            Learns::Everything => parameters.train(name, &tensor)?,
            Learns::HeadAlone | Learns::Adapters { .. } => parameters.freeze(name, tensor),
        }
    }
    Ok(parameters)
}

/// A of every target as PEFT starts it (the same variance, normal), B zero: at first nothing changes.
fn adapters(
    config: &Config,
    backbone: &BTreeMap<String, Tensor>,
    rank: usize,
    targets: &[String],
    seed: u64,
    device: &candle_core::Device,
) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let mut normals = Normals::new(seed ^ 0x10_4a);
    let mut adapters = BTreeMap::new();
    for (name, weight) in backbone {
        let module = name.trim_end_matches(".weight");
        let last = module.rsplit('.').next().unwrap_or(module);
        let ([out, inner], true) = (weight.dims(), module.contains(".blocks.") && targets.iter().any(|t| t == last))
        else {
            continue;
        };
        #[allow(clippy::cast_precision_loss)] // widths are small
        let deviation = (3.0 * *inner as f64).sqrt().recip();
        adapters.insert(format!("{module}.lora_A.weight"), normals.tensor(&[rank, *inner], deviation, device)?);
        let b = Tensor::zeros((*out, rank), candle_core::DType::F32, device)?;
        adapters.insert(format!("{module}.lora_B.weight"), b);
    }
    let is_adapted = |target: &&String| adapters.keys().any(|name| name.contains(&format!(".{target}.lora_A")));
    match targets.iter().find(|target| !is_adapted(target)) {
        None => Ok(adapters),
        Some(target) => Err(TrainError::Settings(format!(
            "the model has no matrix `{target}` to adapt in its {} blocks; its matrices are q_proj, k_proj, v_proj, \
             attn_out, ff_proj, up_proj and ff_out",
            config.n_layers
        ))),
    }
}

impl Tuned {
    /// Writes `prism_head.safetensors`, and, as far as they were trained, `model.safetensors` with what goes with it or a PEFT
    /// adapter in `adapter/`. Returned is the name of the weights the head was made for, which stands in its file.
    ///
    /// # Errors
    /// When a file cannot be written; what was there before is then untouched.
    pub fn write(&self, out: &Path) -> Result<String, TrainError> {
        let Self { finished, base, fingerprint, learns } = self;
        let head_file = out.join("prism_head.safetensors");
        let made_for = match learns {
            Learns::HeadAlone => fingerprint.clone(),
            Learns::Adapters { rank, alpha, targets } => {
                self.write_adapter(&out.join("adapter"), *rank, *alpha, targets)?;
                fingerprint.clone()
            }
            Learns::Everything => {
                for name in COMPANIONS.into_iter().filter(|name| base.join(name).exists()) {
                    let bytes = fs::read(base.join(name)).map_err(|cause| unwritten(&out.join(name), &cause))?;
                    save(&out.join(name), &bytes)?;
                }
                // an older head belongs to older weights
                if head_file.exists() {
                    fs::remove_file(&head_file).map_err(|cause| unwritten(&head_file, &cause))?;
                }
                finished.write_backbone(&out.join("model.safetensors"))?;
                model::tensors(out, None, Device::Cpu)?.fingerprint
            }
        };
        let head = finished.averages.iter().filter(|(name, _)| !name.starts_with("model."));
        let head = head.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        save_tensors(&head_file, &head, Some(HashMap::from([(BASE.to_owned(), made_for.clone())])))?;
        Ok(made_for)
    }

    fn write_adapter(&self, dir: &Path, rank: usize, alpha: f64, targets: &[String]) -> Result<(), TrainError> {
        let adapters = self.finished.averages.iter().filter(|(name, _)| name.contains(".lora_"));
        let adapters = adapters.map(|(name, tensor)| (format!("base_model.model.{name}"), tensor.clone())).collect();
        #[allow(clippy::cast_precision_loss)] // ranks are small
        let scale = alpha / rank as f64;
        let targets = targets.iter().cloned().collect();
        Ok(save_adapter(dir, &adapters, rank, scale, &targets, &self.base)?)
    }
}

fn unwritten(path: &Path, cause: &std::io::Error) -> TrainError {
    SaveError { file: path.display().to_string(), cause: cause.to_string() }.into()
}
