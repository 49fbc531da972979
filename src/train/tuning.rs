//! Training of a quality head for a model: alone, with adapters, or with the whole backbone. Writes
//! the resulting files. Out of scope: the loss.

use super::checkpoint::in_hex;
use super::head_alone::HeadAlone;
use super::heads::{HeadChoice, HeadForm, Heads};
use super::parameters::Parameters;
use super::prism::Prism;
use super::progress::{Comparison, Means, Progress};
use super::run::{Finished, Learner, Objective, RunConfig, measured, train};
use super::samples::{Recipe, Rows};
use super::{
    data::Data,
    error::TrainError,
    init::{self, Weights},
};
use crate::diffusion::TokenSet;
use crate::model::save_tensors;
use crate::model::{self, BASE, Denoiser, Device, HeadFacts, HeadStart, LoadOptions, ModelSpec, PRISM_HEAD, Precision};
use crate::model::{
    Config, Metadata, SaveError, Source, Tensors, copy_companions, load_frozen, save_adapter, training,
};
use candle_core::Device::Cpu;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, atomic::AtomicBool};

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
    /// The heads to train on the same states, where they are trained alone: the first judges for
    /// the sampler. Nothing is one head: of the form of the base's, or else as wide as the model
    /// and reading the last states.
    pub heads: Vec<HeadChoice>,
    /// Determines rows, masks, fills and random weights.
    pub seed: u64,
    /// Whether the initial head may have been made for other weights; this is a warning then.
    pub allow_foreign_head: bool,
    /// The number format of a backbone that does not learn.
    pub precision: Precision,
    /// Whether the weights are random ones of the shapes that the directory's `config.json` gives,
    /// to try how fast a run is.
    pub has_dummy_weights: bool,
}

/// A trained head, and what was trained with it.
#[derive(Debug)]
pub struct Tuned {
    /// The end of the run.
    pub finished: Finished,
    /// The heads, measured, where there are several.
    pub comparison: Option<Comparison>,
    base: PathBuf,
    heads: Heads,
    /// The tokens that they were trained to judge.
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
        let Self {
            base,
            data,
            held_out,
            batch,
            recipe,
            learns,
            heads,
            seed,
            allow_foreign_head,
            has_dummy_weights,
            ..
        } = self;
        if !heads.is_empty() {
            let problem = "--head names heads that are trained on the states of a model which stays as it is; give \
                           --learns head, or leave --head out: beside a model that learns there is one head";
            return Err(TrainError::Settings(problem.to_owned()));
        }
        let Tensors { config, backbone, head, facts } = if has_dummy_weights {
            let config = Config::read(&base)?;
            let backbone = init::Start::Fresh.weights(&config, seed)?;
            Tensors { config, backbone, head: None, facts: HeadFacts::default() }
        } else {
            model::tensors(&base, None, Device::Cpu, allow_foreign_head)?
        };
        data.check(&config)?;
        let judged = judged(facts.judged.as_ref(), &data)?;
        let (heads, head) = Heads::beside(&base, &config, (head, &facts), seed, &Cpu)?;
        let parameters = parameters(&config, backbone, head, &learns, seed)?;
        let objective = Way::Trained(Box::new(Prism::new(config.clone(), [data, held_out], batch, recipe, seed)));
        let learner = Learner { config, parameters, lora_scale: learns.lora_scale(), device: training(device)? };
        Ok(LoadedTuning { objective, learner, base, has_dummy_weights, heads, judged, learns })
    }

    /// The backbone is loaded as in serving.
    fn load_frozen(self, device: Device) -> Result<LoadedTuning, TrainError> {
        let Self { base, data, held_out, batch, recipe, learns, heads, seed, allow_foreign_head, precision, .. } = self;
        let has_dummy_weights = self.has_dummy_weights;
        let HeadStart { config, head, facts } = if has_dummy_weights {
            HeadStart { config: Config::read(&base)?, head: None, facts: HeadFacts::default() }
        } else {
            model::head_start(&base, Device::Cpu, allow_foreign_head)?
        };
        data.check(&config)?;
        let judged = judged(facts.judged.as_ref(), &data)?;
        let (heads, parameters) = Heads::alone(&heads, &config, (head, &facts), seed, &Cpu)?;
        // the head is trained, so it matters to its check alone which weights it was made for
        let options = LoadOptions { precision, allow_foreign_head: true, ..LoadOptions::default() };
        let source = match model::is_gguf(&base) {
            _ if has_dummy_weights => Source::DummyDirectory { dir: base.clone(), seed },
            true => Source::Gguf { file: base.clone(), prism_head: None },
            false => Source::Directory { dir: base.clone(), prism_head: None, adapter: None },
        };
        let model = load_frozen(&source, device, options)?;
        let (rows, device) = (Rows::new(config.mask, [data, held_out], batch, recipe, seed), model.training());
        let objective = Way::Frozen(Box::new(HeadAlone::new(rows, model, heads.clone())));
        let learner = Learner { config, parameters, lora_scale: 0.0, device };
        Ok(LoadedTuning { objective, learner, base, has_dummy_weights, heads, judged, learns })
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
    has_dummy_weights: bool,
    heads: Heads,
    judged: TokenSet,
    learns: Learns,
}

impl LoadedTuning {
    /// The heads that are compared; none where there is only one.
    pub fn compared(&self) -> Vec<HeadForm> {
        if self.heads.are_several() { self.heads.all().to_vec() } else { Vec::new() }
    }

    /// Parameters that do not learn.
    pub fn frozen(&self) -> u64 {
        let Parameters { trained, frozen } = &self.learner.parameters;
        match &self.objective {
            Way::Trained(_) => frozen.values().map(|tensor| tensor.elem_count() as u64).sum(),
            Way::Frozen(objective) => {
                let ModelSpec { parameters, has_quality, .. } = *objective.model.spec();
                let head: u64 = trained.values().map(|tensor| tensor.elem_count() as u64).sum();
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
        mut report: impl FnMut(&Progress),
    ) -> Result<Tuned, TrainError> {
        let Self { objective, learner, base, has_dummy_weights, heads, judged, learns } = self;
        let mut comparison = None;
        let finished = match objective {
            Way::Trained(mut objective) => train(run, &mut *objective, learner, checkpoint, settings, stop, report)?,
            Way::Frozen(mut objective) => {
                objective.piece = run.rows_of_piece(&learner.config, objective.length(), &*learner.device);
                let mut settings = settings.clone();
                if !has_dummy_weights {
                    let weights = in_hex(&model::weights_digest(&base)?);
                    settings.insert("backbone_sha256".to_owned(), json!(weights));
                }
                settings.insert("dtype".to_owned(), json!(objective.model.spec().dtype));
                if !heads.are_usual(&learner.config) {
                    settings.insert("heads".to_owned(), json!(heads.all()));
                }
                let (config, device) = (learner.config.clone(), Arc::clone(&learner.device));
                let mut last = Means::default();
                let report = |progress: &Progress| {
                    last = progress.means.clone();
                    report(progress);
                };
                let finished = train(run, &mut *objective, learner, checkpoint, &settings, stop, report)?;
                if heads.are_several() && run.trial.is_none() {
                    let averages = Parameters { frozen: finished.averages_of(|_| true), ..Parameters::default() };
                    let sums = measured(run, &mut *objective, &config, &averages, device)?;
                    comparison = Some(Comparison::of(heads.all(), &Means::of(&sums), &last));
                }
                finished
            }
        };
        Ok(Tuned { finished, comparison, base, heads, judged, learns })
    }
}

/// A head, and what is trained or frozen beside it.
fn parameters(
    config: &Config,
    backbone: Weights,
    head: Weights,
    learns: &Learns,
    seed: u64,
) -> Result<Parameters, TrainError> {
    let mut parameters = Parameters::default();
    for (name, tensor) in head {
        parameters.train(name, &tensor)?;
    }
    if let Learns::Adapters { rank, targets, .. } = learns {
        for (name, tensor) in init::adapters(config, &backbone, *rank, targets, seed, &Cpu)? {
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

/// The folder of several heads.
const HEADS: &str = "heads";

/// The file of one of several heads, in the directory of a run.
pub fn file_of(head: HeadForm) -> PathBuf {
    Path::new(HEADS).join(format!("{head}.safetensors"))
}

impl Tuned {
    /// Writes `prism_head.safetensors`. Where the backbone was trained, also `model.safetensors`
    /// with its companion files; where adapters were trained, also a PEFT adapter in `adapter/`;
    /// where there are several heads, also each of them in `heads/`, and the first file is the best
    /// of them. The file of a head also says which weights it belongs to, which tokens it was
    /// trained to judge and which states it reads.
    /// Returns the fingerprint of these weights.
    ///
    /// # Errors
    /// When a file cannot be written. An existing file is then unchanged.
    pub fn write(&self, out: &Path) -> Result<String, TrainError> {
        let Self { finished, base, learns, .. } = self;
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
        let fingerprint = made_for.get(BASE).cloned().unwrap_or_default();
        if self.heads.are_several() {
            let dir = out.join(HEADS);
            fs::create_dir_all(&dir).map_err(|cause| SaveError::new(&dir, &cause))?;
            for head in self.heads.all() {
                self.write_head(*head, made_for.clone(), &out.join(file_of(*head)))?;
            }
        }
        let best = self.comparison.as_ref().map_or(0, Comparison::best);
        if let Some(head) = self.heads.all().get(best) {
            self.write_head(*head, made_for, &head_file)?;
        }
        Ok(fingerprint)
    }

    fn write_head(&self, head: HeadForm, made_for: Metadata, file: &Path) -> Result<(), TrainError> {
        let prefix = self.heads.prefix(head);
        let averages = self.finished.averages_of(|name| name.starts_with(&prefix) && !name.starts_with("model."));
        let tensors = averages.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
        let facts = HeadFacts { judged: Some(self.judged.clone()), layer: head.layer };
        Ok(save_tensors(file, &tensors, &facts.added_to(made_for))?)
    }
}
