//! From files, embedded bytes or nothing but a configuration to a model on a device. Refuses to know what the model is for.

use crate::model::config::llada::Config;
use crate::model::config::strict;
use crate::model::denoiser::NetworkDenoiser;
use crate::model::device::{Device, Precision};
use crate::model::families::dit;
use crate::model::families::head::{self, Head};
use crate::model::families::llada::{Llada, WithHead};
use crate::model::weights::gguf::read::Gguf;
use crate::model::weights::lora::Recipe;
use crate::model::weights::registry::{Part, Weights};
use crate::model::weights::tensor_file::TensorFile;
use crate::model::{Denoiser, LoadError, ModelSpec};
use candle_core::utils::with_threadpool;
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory as on the Hugging Face hub: `config.json` and `model.safetensors`, the latter alone or in shards
    /// with `model.safetensors.index.json`.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// A file with a PRISM head, or a directory that holds one; `None` takes the one in `dir`, if any. A whole
        /// PRISM checkpoint (backbone, LoRA and head in one file, `.bin` or `.safetensors`, as the published
        /// training script saves) replaces the weights in `dir`, of which only `config.json` is read then. Such a
        /// file does not say alpha: it is taken from an `adapter_config.json` beside it, else equals the rank.
        prism_head: Option<PathBuf>,
        /// A directory with a LoRA adapter in PEFT's layout, to be folded into the weights.
        adapter: Option<PathBuf>,
    },
    /// A GGUF file: sizes, vocabulary and weights in one, as llama.cpp converts LLaDA or `remask quantize` writes it.
    Gguf {
        /// The file.
        file: PathBuf,
        /// A file with a PRISM head, or a directory that holds one; `None` takes the one in the file, if any.
        prism_head: Option<PathBuf>,
    },
    /// Files that are part of the binary.
    Embedded {
        /// `config.json`.
        config: &'static [u8],
        /// `generation_config.json`.
        generation_config: &'static [u8],
        /// `model.safetensors`.
        weights: &'static [u8],
        /// `prism_head.safetensors`.
        prism_head: Option<&'static [u8]>,
    },
    /// No files: normally distributed weights of the right shapes, quality head included, to measure speed with.
    Dummy {
        /// The model's sizes.
        config: Config,
        /// The same seed gives the same weights.
        seed: u64,
    },
}

/// Loads a model, adapters folded in, computed in what the device is best at.
///
/// # Errors
/// As [`load_in`].
pub fn load(source: &Source, device: Device) -> Result<Box<dyn Denoiser>, LoadError> {
    load_in(source, device, Precision::Auto)
}

/// Loads a model, adapters folded in, computed in numbers of the given width.
///
/// # Errors
/// When a file is missing, damaged or of another model, when the configuration asks for something that is not
/// implemented, or when the device is not there. Names and shapes are checked before any weight is read.
pub fn load_in(source: &Source, device: Device, precision: Precision) -> Result<Box<dyn Denoiser>, LoadError> {
    let (device, name) = device.open()?;
    let dtype = precision.on(&device)?;
    let (config, files, recipe) = match source {
        Source::Directory { dir, prism_head, adapter } if dit::is_in(dir) => {
            if let Some(adapter) = adapter {
                let problem = "is a LoRA adapter, which only LLaDA models take so far".to_owned();
                return Err(LoadError::Malformed { file: adapter.display().to_string(), problem });
            }
            let head = head_file(dir, prism_head.as_deref())?.map(|path| TensorFile::open(&path)).transpose()?;
            return with_threadpool(|| dit::load(dir, model_files(dir)?, head, &device, name));
        }
        Source::Directory { dir, prism_head, adapter } => {
            let (files, recipe) = directory(dir, prism_head.as_deref(), adapter.as_deref())?;
            (Config::read(dir)?, files, recipe)
        }
        Source::Gguf { file, prism_head } => {
            let gguf = Gguf::open(file)?;
            let config = gguf.config()?;
            let mut files = vec![TensorFile::gguf(gguf, file.display().to_string())?];
            if let Some(path) = head_file(file, prism_head.as_deref())? {
                let head = TensorFile::open(&path)?;
                require(&head, |part| matches!(part, Part::Head(_)), HEADS_TENSORS)?;
                files.push(head);
            }
            (config, files, Recipe::PUBLISHED)
        }
        Source::Embedded { config, generation_config, weights, prism_head } => {
            let mut files = vec![TensorFile::embedded(weights, "the embedded model.safetensors")?];
            if let Some(head) = prism_head {
                files.push(TensorFile::embedded(head, "the embedded prism_head.safetensors")?);
            }
            let config = Config::parse(config, "the embedded config.json")?
                .parse_generation(generation_config, "the embedded generation_config.json")?;
            (config, files, Recipe::PUBLISHED)
        }
        Source::Dummy { config, seed } => {
            let head = head::tensors(config.d_model).map(|(name, shape)| (name.to_owned(), shape));
            let shapes = config.tensors().chain(head).collect();
            (config.clone(), vec![TensorFile::random(*seed, shapes)], Recipe::PUBLISHED)
        }
    };
    with_threadpool(|| assemble(&config, files, recipe, (device, dtype), name))
}

/// A model's numbers by their names in checkpoints, for training.
#[derive(Clone, Debug)]
pub(crate) struct Tensors {
    /// `config.json` and `generation_config.json`.
    pub(crate) config: Config,
    /// The backbone, adapters folded in.
    pub(crate) backbone: BTreeMap<String, Tensor>,
    /// The quality head, where there is one.
    pub(crate) head: Option<BTreeMap<String, Tensor>>,
    /// Names the backbone's weights.
    pub(crate) fingerprint: String,
}

/// Reads the numbers of a directory's model.
///
/// # Errors
/// As [`load`].
pub(crate) fn tensors(dir: &Path, prism_head: Option<&Path>, device: Device) -> Result<Tensors, LoadError> {
    let (device, _) = device.open()?;
    let config = Config::read(dir)?;
    let (files, recipe) = directory(dir, prism_head, None)?;
    let weights = Weights::of(&config, files, recipe, device)?;
    weights.check_base()?;
    let backbone = config.tensors().map(|(name, _)| Ok((name.clone(), weights.backbone(&name)?)));
    let head = head::tensors(config.d_model).into_iter();
    let head = head.map(|(name, _)| Ok((name.to_owned(), weights.head(name)?)));
    Ok(Tensors {
        backbone: backbone.collect::<Result<_, LoadError>>()?,
        head: if weights.has_head() { Some(head.collect::<Result<_, LoadError>>()?) } else { None },
        fingerprint: weights.fingerprint()?,
        config,
    })
}

fn assemble(
    config: &Config,
    files: Vec<TensorFile>,
    recipe: Recipe,
    (device, dtype): (candle_core::Device, DType),
    name: Device,
) -> Result<Box<dyn Denoiser>, LoadError> {
    let weights = Weights::of(config, files, recipe, device.clone())?.computed_in(dtype);
    weights.check_base()?;
    let model = Llada::new(config, &weights, device)?;
    let head = if weights.has_head() { Some(Head::new(&weights)?) } else { None };
    #[allow(clippy::cast_possible_truncation)] // ids are 32 bits wide, so no vocabulary has more
    let vocabulary = config.vocab_size as u32;
    let spec = ModelSpec {
        family: "llada".to_owned(),
        vocabulary,
        canvas_max: config.max_sequence_length,
        mask: config.mask,
        ends: config.ends.clone(),
        has_quality: head.is_some(),
        adapters_folded: weights.has_adapters(),
        dtype: dtype.as_str().to_owned(),
        weights: weights.format(),
        device: name.to_string(),
        parameters: weights.parameters(),
        defaults: config.defaults,
    };
    Ok(Box::new(NetworkDenoiser::new(Box::new(WithHead { model, head }), spec)))
}

/// Every file that makes up the model of a directory, and how its adapters are to be folded.
pub(crate) fn directory(
    dir: &Path,
    prism_head: Option<&Path>,
    adapter: Option<&Path>,
) -> Result<(Vec<TensorFile>, Recipe), LoadError> {
    let mut files = Vec::new();
    let mut recipe = Recipe::PUBLISHED;
    if let Some(path) = head_file(dir, prism_head)? {
        let file = TensorFile::open(&path)?;
        require(&file, |part| matches!(part, Part::Head(_)), HEADS_TENSORS)?;
        let beside = path.with_file_name("adapter_config.json");
        if has(&file, |part| matches!(part, Part::LoraA(_))) && beside.exists() {
            recipe = Recipe::read(&beside)?;
        }
        files.push(file);
    }
    if let Some(adapter) = adapter {
        recipe = Recipe::read(&adapter.join("adapter_config.json"))?;
        let file = TensorFile::open(&adapter.join("adapter_model.safetensors"))?;
        require(&file, |part| matches!(part, Part::LoraA(_)), "*.lora_A.weight of a LoRA adapter")?;
        files.push(file);
    }
    if !files.iter().any(|file| has(file, |part| matches!(part, Part::Backbone(_)))) {
        files.extend(model_files(dir)?);
    }
    Ok((files, recipe))
}

/// What a file with a head must have.
const HEADS_TENSORS: &str = "norm.*, proj1.* and proj2.* of a PRISM head";

fn has(file: &TensorFile, wanted: fn(&Part) -> bool) -> bool {
    file.shapes.keys().filter_map(|name| Part::of(name)).any(|part| wanted(&part))
}

fn require(file: &TensorFile, wanted: fn(&Part) -> bool, what: &str) -> Result<(), LoadError> {
    if has(file, wanted) {
        return Ok(());
    }
    Err(LoadError::Malformed { file: file.name.clone(), problem: format!("has none of the tensors {what}") })
}

/// The file with the quality head.
fn head_file(dir: &Path, given: Option<&Path>) -> Result<Option<PathBuf>, LoadError> {
    let Some(given) = given else {
        return Ok(Some(dir.join("prism_head.safetensors")).filter(|path| path.exists()));
    };
    if !given.is_dir() {
        return Ok(Some(given.to_owned()));
    }
    let names = ["prism_head.safetensors", "prism_checkpoint.safetensors", "prism_checkpoint.bin"];
    match names.map(|name| given.join(name)).into_iter().find(|path| path.exists()) {
        Some(path) => Ok(Some(path)),
        None => Err(LoadError::Malformed {
            file: given.display().to_string(),
            problem: format!("holds no PRISM head: none of {} is there", names.join(", ")),
        }),
    }
}

/// `model.safetensors`, or the shards that its index names.
fn model_files(dir: &Path) -> Result<Vec<TensorFile>, LoadError> {
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        return Ok(vec![TensorFile::open(&single)?]);
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let file = index.display().to_string();
    let Index { weight_map } = strict::take(strict::read(&index)?, &file)?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    let open = |shard: String| match dir.join(&shard) {
        path if path.exists() => TensorFile::open(&path),
        _ => {
            Err(LoadError::Malformed { file: file.clone(), problem: format!("names {shard}, which is not beside it") })
        }
    };
    shards.into_iter().map(open).collect()
}
