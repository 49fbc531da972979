//! The files of a model directory: which there are, and their weights for training and conversion.

use super::head_facts::HeadFacts;
use super::layout::{HEAD, Layout, Part};
use super::made_for::check_head;
use super::tensor_file::{BASE, JUDGED, LAYER, SAMPLES, TensorFile};
use super::{lora::LoraConfig, registry::Registry};
use crate::files;
use crate::model::config::{family::Family, llada::Config, remedi, strict};
use crate::model::device::{CudaGraphs, Device, backend};
use crate::model::error::LoadError;
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The file with the quality head in a model directory.
pub(crate) const PRISM_HEAD: &str = "prism_head.safetensors";
/// The file that names the shards of a model in several files.
pub(crate) const SHARD_INDEX: &str = "model.safetensors.index.json";

/// A model's weights by their names in checkpoints, for training.
#[derive(Clone, Debug)]
pub(crate) struct Tensors {
    /// `config.json` and `generation_config.json`.
    pub(crate) config: Config,
    /// The backbone, adapters folded in.
    pub(crate) backbone: BTreeMap<String, Tensor>,
    /// The quality head, where there is one.
    pub(crate) head: Option<BTreeMap<String, Tensor>>,
    /// What its file says of it.
    pub(crate) facts: HeadFacts,
}

/// Loads every weight of a directory's model in f32. A quality head that was made for other weights
/// is taken only with `allow_foreign_head`, with a warning.
pub(crate) fn tensors(
    dir: &Path,
    prism_head: Option<&Path>,
    device: Device,
    allow_foreign_head: bool,
) -> Result<Tensors, LoadError> {
    let backend = backend(device.open()?.0, CudaGraphs::Off);
    check_is_model(dir)?;
    let (files, lora) = directory(dir, prism_head, None)?;
    let config = trainable(dir, &files)?;
    let layout = Layout::llada(&config);
    let weights = Registry::of(&layout, files, lora, backend)?;
    check_head(&weights, allow_foreign_head)?;
    Ok(Tensors {
        backbone: all_weights(&layout, &weights)?,
        head: weights.whole_head()?,
        facts: weights.head_facts()?,
        config,
    })
}

/// Loads the weights of a directory's model in f32, without its quality head.
pub(crate) fn backbone(dir: &Path, device: Device) -> Result<BTreeMap<String, Tensor>, LoadError> {
    check_is_model(dir)?;
    let files = model_files(dir)?;
    let layout = Layout::llada(&trainable(dir, &files)?);
    let weights = Registry::of(&layout, files, LoraConfig::PUBLISHED, backend(device.open()?.0, CudaGraphs::Off))?;
    all_weights(&layout, &weights)
}

/// Checks that there is a `config.json`: without one, its name says more than that of a weight.
pub(crate) fn check_is_model(dir: &Path) -> Result<(), LoadError> {
    strict::read(&dir.join("config.json")).map(drop)
}

/// The configuration of a directory's model with its weights in `files`, which tell the family
/// where `config.json` does not.
pub(crate) fn config(dir: &Path, files: &[TensorFile]) -> Result<Config, LoadError> {
    let has_sides = files.iter().any(|file| remedi::is_among(file.shapes.keys()));
    Config::read_as(dir, has_sides.then_some(Family::Remedi))
}

/// The same of a model without its weights, as far as the headers of weights that are there tell
/// the family.
///
/// # Errors
/// As [`Config::read`].
pub fn described(dir: &Path) -> Result<Config, LoadError> {
    let index = strict::read(&dir.join(SHARD_INDEX)).and_then(|(keys, file)| strict::take::<ShardIndex>(keys, &file));
    let has_sides = match index {
        Ok(index) => remedi::is_among(index.weight_map.keys()),
        Err(_) => model_files(dir).is_ok_and(|files| files.iter().any(|file| remedi::is_among(file.shapes.keys()))),
    };
    Config::read_as(dir, has_sides.then_some(Family::Remedi))
}

/// The same of a model that can be trained.
pub(crate) fn trainable(dir: &Path, files: &[TensorFile]) -> Result<Config, LoadError> {
    let config = config(dir, files)?;
    check_is_judgeable(&config, dir)?;
    match config.family {
        Family::Dream => {
            let problem = "has a Dream model, of which only a quality head can be trained; training of whole models \
                           and adapters, and PRISM checkpoints, are for LLaDA models";
            Err(LoadError::malformed(&dir.display(), problem))
        }
        Family::Llada | Family::Remedi => Ok(config),
    }
}

/// Checks that a quality head can be trained for a model.
pub(crate) fn check_is_judgeable(config: &Config, base: &Path) -> Result<(), LoadError> {
    if config.family == Family::Remedi {
        let problem = "has a RemeDi model, which judges its tokens itself; training and PRISM checkpoints are for \
                       LLaDA models";
        return Err(LoadError::malformed(&base.display(), problem));
    }
    Ok(())
}

fn all_weights(layout: &Layout, weights: &Registry) -> Result<BTreeMap<String, Tensor>, LoadError> {
    layout.weights.keys().map(|name| Ok((name.clone(), weights.weight(name)?))).collect()
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
        let file = open_head(&path)?;
        let beside = path.with_file_name("adapter_config.json");
        if has(&file, |part| matches!(part, Part::LoraA(_))) && files::is_there(&beside) {
            lora = LoraConfig::read(&beside)?;
        }
        files.push(file);
    }
    if let Some(adapter) = adapter {
        lora = LoraConfig::read(&adapter.join("adapter_config.json"))?;
        let file = TensorFile::open(&adapter.join("adapter_model.safetensors"))?;
        files.push(require(file, |part| matches!(part, Part::LoraA(_)), "*.lora_A.weight of a LoRA adapter")?);
    }
    if !files.iter().any(|file| has(file, |part| matches!(part, Part::Weight(_)))) {
        let model = model_files(dir)?.into_iter();
        files.extend(model.map(|file| if prism_head.is_some() { without_head(file) } else { file }));
    }
    Ok((files, lora))
}

/// The file without its quality head, in whose place another one is given.
pub(crate) fn without_head(mut file: TensorFile) -> TensorFile {
    file.shapes.retain(|name, _| !matches!(Part::of(name), Some(Part::Head(_))));
    for of_head in [JUDGED, LAYER, BASE, SAMPLES] {
        file.metadata.remove(of_head);
    }
    file
}

pub(crate) fn has(file: &TensorFile, wanted: fn(&Part) -> bool) -> bool {
    file.shapes.keys().filter_map(|name| Part::of(name)).any(|part| wanted(&part))
}

fn require(file: TensorFile, wanted: fn(&Part) -> bool, what: &str) -> Result<TensorFile, LoadError> {
    let problem = format!("has none of the tensors {what}");
    if has(&file, wanted) { Ok(file) } else { Err(LoadError::malformed(&file.name, problem)) }
}

/// Opens the file at `path`, which must have tensors of a quality head.
pub(crate) fn open_head(path: &Path) -> Result<TensorFile, LoadError> {
    let tensors = "norm.*, proj1.* and proj2.* of a PRISM head";
    require(TensorFile::open(path)?, |part| matches!(part, Part::Head(_)), tensors)
}

/// Opens the file at `path`, which must have tensors of a quality head of some family.
pub(crate) fn open_any_head(path: &Path) -> Result<TensorFile, LoadError> {
    const LAST: &str = "output_layer.linear.weight";
    let file = TensorFile::open(path)?;
    let is_of_dit = file.shapes.keys().any(|name| name.trim_start_matches(HEAD) == LAST);
    if is_of_dit || has(&file, |part| matches!(part, Part::Head(_))) {
        return Ok(file);
    }
    let problem = format!("has none of the tensors of a quality head: norm.*, proj1.* and proj2.*, or {LAST}");
    Err(LoadError::malformed(&file.name, problem))
}

/// The file with the quality head.
pub(crate) fn head_file(dir: &Path, given: Option<&Path>) -> Result<Option<PathBuf>, LoadError> {
    let Some(given) = given else {
        return Ok(Some(dir.join(PRISM_HEAD)).filter(|path| files::is_there(path)));
    };
    if !given.is_dir() {
        return Ok(Some(given.to_owned()));
    }
    let names = [PRISM_HEAD, "prism_checkpoint.safetensors", "prism_checkpoint.bin"];
    let found = names.map(|name| given.join(name)).into_iter().find(|path| files::is_there(path));
    let problem = || format!("holds no PRISM head: none of {} is there", names.join(", "));
    found.map(Some).ok_or_else(|| LoadError::malformed(&given.display(), problem()))
}

/// [`SHARD_INDEX`], parsed.
#[derive(serde::Deserialize)]
pub(crate) struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// The files that it names, which must be beside it; `file` is its own name.
    pub(crate) fn shards(self, file: &str) -> Result<BTreeSet<String>, LoadError> {
        let shards: BTreeSet<String> = self.weight_map.into_values().collect();
        let is_elsewhere = |shard: &&String| shard.contains(['/', '\\']) || shard.starts_with('.');
        match shards.iter().find(is_elsewhere) {
            None => Ok(shards),
            Some(shard) => Err(LoadError::malformed(file, format!("names {shard:?}, which is no file beside it"))),
        }
    }
}

/// `model.safetensors`, or the shards that its index names.
pub(crate) fn model_files(dir: &Path) -> Result<Vec<TensorFile>, LoadError> {
    let single = dir.join("model.safetensors");
    let index = dir.join(SHARD_INDEX);
    if files::is_there(&single) || !files::is_there(&index) {
        return Ok(vec![TensorFile::open(&single)?]);
    }
    let (keys, file) = strict::read(&index)?;
    let index: ShardIndex = strict::take(keys, &file)?;
    let open = |shard: String| match dir.join(&shard) {
        path if files::is_there(&path) => TensorFile::open(&path),
        _ => Err(LoadError::malformed(&file, format!("names {shard}, which is not beside it"))),
    };
    index.shards(&file)?.into_iter().map(open).collect()
}
