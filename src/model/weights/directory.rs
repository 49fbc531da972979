//! The files of a model directory: which there are, and their weights for training and conversion.

use super::fingerprint::{check_base, fingerprint};
use super::layout::{Layout, Part};
use super::lora::LoraConfig;
use super::registry::Registry;
use super::tensor_file::TensorFile;
use crate::model::backend::open::backend;
use crate::model::config::llada::Config;
use crate::model::config::strict;
use crate::model::device::Device;
use crate::model::error::LoadError;
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files that go with a model's weights.
pub(crate) const COMPANIONS: [&str; 4] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
/// The file with the quality head in a model directory.
pub(crate) const PRISM_HEAD: &str = "prism_head.safetensors";
/// The file that names the shards of a model in several files.
pub(crate) const SHARD_INDEX: &str = "model.safetensors.index.json";
/// The tensors of a quality head, for error messages.
pub(crate) const HEAD_TENSORS: &str = "norm.*, proj1.* and proj2.* of a PRISM head";

/// A model's weights by their names in checkpoints, for training.
#[derive(Clone, Debug)]
pub(crate) struct Tensors {
    /// `config.json` and `generation_config.json`.
    pub(crate) config: Config,
    /// The backbone, adapters folded in.
    pub(crate) backbone: BTreeMap<String, Tensor>,
    /// The quality head, where there is one.
    pub(crate) head: Option<BTreeMap<String, Tensor>>,
    /// The fingerprint of the backbone's weights.
    pub(crate) fingerprint: String,
}

/// Loads every weight of a directory's model in f32.
///
/// # Errors
/// When a file is missing, damaged or of another model, or the device cannot be used.
pub(crate) fn tensors(dir: &Path, prism_head: Option<&Path>, device: Device) -> Result<Tensors, LoadError> {
    let backend = backend(device.open()?.0);
    let config = Config::read(dir)?;
    let (files, lora) = directory(dir, prism_head, None)?;
    let layout = Layout::llada(&config);
    let weights = Registry::of(&layout, files, lora, backend)?;
    check_base(&weights)?;
    let load = |name: &String, get: fn(&Registry, &str) -> Result<Tensor, LoadError>| {
        Ok::<_, LoadError>((name.clone(), get(&weights, name)?))
    };
    let backbone = layout.weights.keys().map(|name| load(name, Registry::weight));
    let head = layout.head.iter().map(|(name, _)| load(name, Registry::head));
    Ok(Tensors {
        backbone: backbone.collect::<Result<_, _>>()?,
        head: if weights.has_head() { Some(head.collect::<Result<_, _>>()?) } else { None },
        fingerprint: fingerprint(&weights)?,
        config,
    })
}

/// Every file of the weights of a directory's model, and how its adapters are to be folded.
pub(crate) fn directory(
    dir: &Path,
    prism_head: Option<&Path>,
    adapter: Option<&Path>,
) -> Result<(Vec<TensorFile>, LoraConfig), LoadError> {
    let mut files = Vec::new();
    let mut lora = LoraConfig::PUBLISHED;
    if let Some(path) = head_file(dir, prism_head)? {
        let file = TensorFile::open(&path)?;
        require(&file, |part| matches!(part, Part::Head(_)), HEAD_TENSORS)?;
        let beside = path.with_file_name("adapter_config.json");
        if has(&file, |part| matches!(part, Part::LoraA(_))) && beside.exists() {
            lora = LoraConfig::read(&beside)?;
        }
        files.push(file);
    }
    if let Some(adapter) = adapter {
        lora = LoraConfig::read(&adapter.join("adapter_config.json"))?;
        let file = TensorFile::open(&adapter.join("adapter_model.safetensors"))?;
        require(&file, |part| matches!(part, Part::LoraA(_)), "*.lora_A.weight of a LoRA adapter")?;
        files.push(file);
    }
    if !files.iter().any(|file| has(file, |part| matches!(part, Part::Weight(_)))) {
        files.extend(model_files(dir)?);
    }
    Ok((files, lora))
}

fn has(file: &TensorFile, wanted: fn(&Part) -> bool) -> bool {
    file.shapes.keys().filter_map(|name| Part::of(name)).any(|part| wanted(&part))
}

pub(crate) fn require(file: &TensorFile, wanted: fn(&Part) -> bool, what: &str) -> Result<(), LoadError> {
    if has(file, wanted) {
        return Ok(());
    }
    Err(LoadError::malformed(&file.name, format!("has none of the tensors {what}")))
}

/// The file with the quality head.
pub(crate) fn head_file(dir: &Path, given: Option<&Path>) -> Result<Option<PathBuf>, LoadError> {
    let Some(given) = given else {
        return Ok(Some(dir.join(PRISM_HEAD)).filter(|path| path.exists()));
    };
    if !given.is_dir() {
        return Ok(Some(given.to_owned()));
    }
    let names = [PRISM_HEAD, "prism_checkpoint.safetensors", "prism_checkpoint.bin"];
    match names.map(|name| given.join(name)).into_iter().find(|path| path.exists()) {
        Some(path) => Ok(Some(path)),
        None => {
            let problem = format!("holds no PRISM head: none of {} is there", names.join(", "));
            Err(LoadError::malformed(&given.display(), problem))
        }
    }
}

/// [`SHARD_INDEX`], parsed.
#[derive(serde::Deserialize)]
pub(crate) struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// The files that it names.
    pub(crate) fn shards(self) -> BTreeSet<String> {
        self.weight_map.into_values().collect()
    }
}

/// `model.safetensors`, or the shards that its index names.
pub(crate) fn model_files(dir: &Path) -> Result<Vec<TensorFile>, LoadError> {
    let single = dir.join("model.safetensors");
    let index = dir.join(SHARD_INDEX);
    if single.exists() || !index.exists() {
        return Ok(vec![TensorFile::open(&single)?]);
    }
    let file = index.display().to_string();
    let index: ShardIndex = strict::take(strict::read(&index)?, &file)?;
    let open = |shard: String| match dir.join(&shard) {
        path if path.exists() => TensorFile::open(&path),
        _ => Err(LoadError::malformed(&file, format!("names {shard}, which is not beside it"))),
    };
    index.shards().into_iter().map(open).collect()
}
