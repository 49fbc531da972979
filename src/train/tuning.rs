//! Training of a quality head for a model: alone, with adapters, or with the whole backbone. Writes
//! the resulting files. Out of scope: the loss.

use super::checkpoint::in_hex;
use super::head_alone::HeadAlone;
use super::prism::Prism;
use super::run::{Finished, Learner, RunConfig, train};
use super::samples::{Recipe, Rows};
use super::{data::Data, error::TrainError, init, net::Parameters, progress::Progress};
use crate::diffusion::TokenSet;
use crate::model::save_tensors;
use crate::model::{self, BASE, Denoiser, Device, HeadStart, LoadOptions, ModelSpec, PRISM_HEAD, Precision, SaveError};
use crate::model::{Source, Tensors, copy_companions, load_frozen, save_adapter, with_judged};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::{fs, sync::atomic::AtomicBool};

/// What is trained beside the head.
#[derive(Clone, Debug, PartialEq)]
pub enum Learns {
    /// The whole backbone, as in the paper for Sudoku.
    Everything,
    /// Nothing.
    HeadAlone,
    /// Low-rank adapters (LoRA, arXiv 2106.09685) without dropout, as in the paper with LLaDA.
    Adapters {
        /// Rows of A and columns of B.
        rank: usize,
        /// The factor of B A is alpha / rank.
        alpha: f64,
        /// Last names of the adapted modules, for example `q_proj`.
        targets: Vec<String>,
    },
}

impl Learns {
    /// The factor of B A.
    fn lora_scale(&self) -> f64 {
        if let Self::Adapters { rank, alpha, .. } = self { alpha / *rank as f64 } else { 0.0 }
    }
}

/// Training of a quality head for a model.
#[derive(Debug)]
pub struct Tuning {
    /// The model's directory. A head in it is the initial one.
    pub base: PathBuf,
    /// The training data.
    pub data: Data,
    /// Data that are only measured on.
    pub held_out: Data,
    /// Rows per step.
    pub batch: usize,
    /// How the head is trained.
    pub recipe: Recipe,
    /// What is trained beside the head.
    pub learns: Learns,
    /// Determines rows, masks, fills and random weights.
    pub seed: u64,
    /// Whether the initial head may have been made for other weights; this is a warning then.
    pub allow_foreign_head: bool,
    /// The number format of a backbone that does not learn.
    pub precision: Precision,
}

/// A trained head, and what was trained with it.
#[derive(Debug)]
pub struct Tuned {
    /// The end of the run.
    pub finished: Finished,
    base: PathBuf,
    /// The tokens that the head was trained to judge.
    judged: TokenSet,
    learns: Learns,
}

impl Tuning {
    /// Loads the model.
    ///
    /// # Errors
    /// When the base cannot be read, or the data or the targets do not fit it.
    pub fn load(self, device: Device) -> Result<LoadedTuning, TrainError> {
        if self.learns == Learns::HeadAlone { self.load_frozen(device) } else { self.load_trainable(device) }
    }

    fn load_trainable(self, device: Device) -> Result<LoadedTuning, TrainError> {
        let Self { base, data, held_out, batch, recipe, learns, seed, allow_foreign_head, .. } = self;
        let tensors = model::tensors(&base, None, device, allow_foreign_head)?;
        let config = tensors.config.clone();
        data.check(&config)?;
        let judged = judged(tensors.judged.as_ref(), &data)?;
        let parameters = parameters(tensors, &learns, seed, device)?;
        let objective = Way::Trained(Box::new(Prism::new(config.clone(), [data, held_out], batch, recipe, seed)));
        let learner = Learner { config, parameters, lora_scale: learns.lora_scale() };
        Ok(LoadedTuning { objective, learner, base, judged, learns })
    }

    /// The backbone is loaded as in serving.
    fn load_frozen(self, device: Device) -> Result<LoadedTuning, TrainError> {
        let Self { base, data, held_out, batch, recipe, learns, seed, allow_foreign_head, precision } = self;
        let HeadStart { config, head, judged: before } = model::head_start(&base, device, allow_foreign_head)?;
        data.check(&config)?;
        let judged = judged(before.as_ref(), &data)?;
        // the head is trained, so it matters to its check alone which weights it was made for
        let options = LoadOptions { precision, allow_foreign_head: true, ..LoadOptions::default() };
        let source = match model::is_gguf(&base) {
            true => Source::Gguf { file: base.clone(), prism_head: None },
            false => Source::Directory { dir: base.clone(), prism_head: None, adapter: None },
        };
        let model = load_frozen(&source, device, options)?;
        let mut parameters = Parameters::default();
        let (device, _) = device.open()?;
        for (name, tensor) in head.map_or_else(|| init::head(&config, seed, &device), Ok)? {
            parameters.train(name, &tensor)?;
        }
        let objective =
            Way::Frozen(Box::new(HeadAlone::new(Rows::new(config.mask, [data, held_out], batch, recipe, seed), model)));
        let learner = Learner { config, parameters, lora_scale: 0.0 };
        Ok(LoadedTuning { objective, learner, base, judged, learns })
    }
}

/// The tokens that a head is trained to judge, those of the head it starts from included.
fn judged(before: Option<&TokenSet>, data: &Data) -> Result<TokenSet, TrainError> {
    let maskable = data.maskable()?;
    Ok(before.map_or_else(|| maskable.clone(), |before| before.union(&maskable)))
}

/// How the backbone is computed.
#[derive(Debug)]
enum Way {
    /// With gradients.
    Trained(Box<Prism>),
    /// As in serving.
    Frozen(Box<HeadAlone>),
}

/// A training whose model is loaded.
#[derive(Debug)]
pub struct LoadedTuning {
    objective: Way,
    learner: Learner,
    base: PathBuf,
    judged: TokenSet,
    learns: Learns,
}

impl LoadedTuning {
    /// Parameters that do not learn.
    pub fn frozen(&self) -> u64 {
        let Parameters { trained, frozen } = &self.learner.parameters;
        match &self.objective {
            Way::Trained(_) => frozen.values().map(|tensor| tensor.elem_count() as u64).sum(),
            Way::Frozen(objective) => {
                let ModelSpec { parameters, has_quality, .. } = *objective.model.spec();
                let head: u64 = trained.values().map(|var| var.elem_count() as u64).sum();
                if has_quality { parameters - head } else { parameters }
            }
        }
    }

    /// Trains to the last step, or until `stop` is set. Resumes the checkpoint in the file
    /// `checkpoint`, if there is one and its settings equal `settings`.
    ///
    /// # Errors
    /// When the checkpoint has other settings, a file cannot be written, or the loss is not finite.
    pub fn run(
        self,
        run: &RunConfig,
        checkpoint: &Path,
        settings: &Map<String, Value>,
        stop: &AtomicBool,
        report: impl FnMut(&Progress),
    ) -> Result<Tuned, TrainError> {
        let Self { objective, learner, base, judged, learns } = self;
        let finished = match objective {
            Way::Trained(mut objective) => train(run, &mut *objective, learner, checkpoint, settings, stop, report)?,
            Way::Frozen(mut objective) => {
                objective.piece = run.piece;
                let mut settings = settings.clone();
                let weights = in_hex(&model::weights_digest(&base)?);
                settings.insert("backbone_sha256".to_owned(), json!(weights));
                settings.insert("dtype".to_owned(), json!(objective.model.spec().dtype));
                train(run, &mut *objective, learner, checkpoint, &settings, stop, report)?
            }
        };
        Ok(Tuned { finished, base, judged, learns })
    }
}

/// The head, freshly initialised where the model has none, and what is trained or frozen beside it.
fn parameters(tensors: Tensors, learns: &Learns, seed: u64, device: Device) -> Result<Parameters, TrainError> {
    let (device, _) = device.open()?;
    let Tensors { config, backbone, head, .. } = tensors;
    let mut parameters = Parameters::default();
    for (name, tensor) in head.map_or_else(|| init::head(&config, seed, &device), Ok)? {
        parameters.train(name, &tensor)?;
    }
    if let Learns::Adapters { rank, targets, .. } = learns {
        for (name, tensor) in init::adapters(&config, &backbone, *rank, targets, seed, &device)? {
            parameters.train(name, &tensor)?;
        }
    }
    for (name, tensor) in backbone {
        match learns {
            Learns::Everything => parameters.train(name, &tensor)?,
            Learns::HeadAlone | Learns::Adapters { .. } => drop(parameters.frozen.insert(name, tensor)),
        }
    }
    Ok(parameters)
}

impl Tuned {
    /// Writes `prism_head.safetensors`. Where the backbone was trained, also `model.safetensors`
    /// with its companion files; where adapters were trained, also a PEFT adapter in `adapter/`.
    /// The head's file also says which weights it belongs to and which tokens it was trained to
    /// judge.
    /// Returns the fingerprint of these weights.
    ///
    /// # Errors
    /// When a file cannot be written. An existing file is then unchanged.
    pub fn write(&self, out: &Path) -> Result<String, TrainError> {
        let Self { finished, base, judged, learns } = self;
        let head_file = out.join(PRISM_HEAD);
        let made_for = match learns {
            Learns::HeadAlone => model::entries_of(base, None)?,
            Learns::Adapters { rank, targets, .. } => {
                let adapters = finished.averages_of(|name| name.contains(".lora_")).into_iter();
                let adapters = adapters.map(|(name, tensor)| (format!("base_model.model.{name}"), tensor)).collect();
                let targets = targets.iter().cloned().collect();
                save_adapter(&out.join("adapter"), &adapters, *rank, learns.lora_scale(), &targets, base)?;
                model::entries_of(base, Some(&out.join("adapter")))?
            }
            Learns::Everything => {
                copy_companions(base, out)?;
                // an existing head belongs to the weights that are replaced here
                if head_file.exists() {
                    fs::remove_file(&head_file).map_err(|cause| SaveError::new(&head_file, &cause))?;
                }
                finished.write_backbone(&out.join("model.safetensors"))?;
                model::entries_of(out, None)?
            }
        };
        let head = finished.averages_of(|name| !name.starts_with("model."));
        let fingerprint = made_for.get(BASE).cloned().unwrap_or_default();
        save_tensors(&head_file, &head, &with_judged(made_for, Some(judged)))?;
        Ok(fingerprint)
    }
}
