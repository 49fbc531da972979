//! Loading: from files, embedded bytes or a configuration alone to a model on a device.

use super::card::Card;
use super::config::dit;
use super::config::{family::Family, llada::Config};
use super::device::{CudaGraphs, Device, Precision, backend};
use super::families::{dit::Dit, llada::Llada, remedi::Remedi};
use super::interface::Denoiser;
use super::network::{Network, Sight};
use super::spec::{Defaults, Keeping, ModelSpec, PresetsText};
use super::weights::directory::{config, described, directory, head_file, model_files, open_head, without_head};
use super::weights::head_facts::check_is_last;
use super::weights::layout::{HEAD, HeadPlace, Layout, head_tensors};
use super::weights::made_for::{MadeFor, check_head};
use super::weights::{gguf::read::Gguf, lora::LoraConfig, registry::Registry, tensor_file::TensorFile};
use super::{backend::Backend, denoiser::NetworkDenoiser, error::LoadError};
use crate::diffusion::{TokenId, u32_of};
use candle_core::{DType, utils::with_threadpool};
use std::path::PathBuf;
use std::sync::Arc;

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory as on the Hugging Face hub: `config.json` and `model.safetensors`, the latter in
    /// one file or in shards with `model.safetensors.index.json`.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// A file with a PRISM head, or a directory that holds one; `None` takes the one in `dir`,
        /// if any. A whole PRISM checkpoint (backbone, LoRA and head in one file, `.bin` or
        /// `.safetensors`, as the published training script saves) replaces the weights in `dir`,
        /// of which only `config.json` is read then. Such a file does not contain alpha: it is
        /// taken from an `adapter_config.json` beside it, else equals the rank.
        prism_head: Option<PathBuf>,
        /// A directory with a LoRA adapter in PEFT's layout, to be folded into the weights.
        adapter: Option<PathBuf>,
    },
    /// A GGUF file with sizes, vocabulary and weights, as llama.cpp converts LLaDA or `remask
    /// quantize` writes it.
    Gguf {
        /// The file.
        file: PathBuf,
        /// A file with a PRISM head, or a directory that holds one; else the one in the file.
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
    /// No files: normally distributed weights, quality head included, to measure speed.
    Dummy {
        /// The model's sizes.
        config: Config,
        /// The same seed gives the same weights.
        seed: u64,
    },
    /// The same for the configuration in a directory, of any family.
    DummyDirectory {
        /// The directory.
        dir: PathBuf,
        /// The same seed gives the same weights.
        seed: u64,
    },
}

/// Loads a model, adapters folded in, in the number format that suits the device.
///
/// # Errors
/// As [`load_in`].
pub fn load(source: &Source, device: Device) -> Result<Box<dyn Denoiser>, LoadError> {
    load_in(source, device, Precision::Auto)
}

/// Loads a model, adapters folded in, computed in the given number format.
///
/// # Errors
/// When a file is missing, damaged or of another model, when the configuration needs something that
/// is not implemented, or when the device does not exist. Names and shapes are checked before any
/// weight is read.
pub fn load_in(source: &Source, device: Device, precision: Precision) -> Result<Box<dyn Denoiser>, LoadError> {
    load_with(source, device, LoadOptions { precision, ..LoadOptions::default() })
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The number format of the computation.
    pub precision: Precision,
    /// Whether passes are recorded as CUDA graphs.
    pub cuda_graphs: CudaGraphs,
    /// Whether a quality head that was made for other weights is taken, with a warning.
    pub allow_foreign_head: bool,
    /// Most bytes of keys and values that are kept between passes; `None` is a share of the memory
    /// of the device that is free once the weights are there.
    pub cache_bytes: Option<u64>,
}

/// Loads a model, adapters folded in.
///
/// # Errors
/// As [`load_in`].
pub fn load_with(source: &Source, device: Device, options: LoadOptions) -> Result<Box<dyn Denoiser>, LoadError> {
    load_on(source, place(device, options)?)
}

fn place(device: Device, options: LoadOptions) -> Result<Place, LoadError> {
    let LoadOptions { precision, cuda_graphs, allow_foreign_head, cache_bytes } = options;
    let (device, name) = device.open()?;
    let (dtype, backend) = (precision.on(&device)?, backend(device, cuda_graphs));
    Ok(Place { dtype, backend, name, allow_foreign_head, cache_bytes })
}

/// Loads a model, adapters folded in, whose states a quality head is to be trained on.
///
/// # Errors
/// As [`load_in`].
pub(crate) fn load_frozen(source: &Source, device: Device, options: LoadOptions) -> Result<NetworkDenoiser, LoadError> {
    network_on(source, place(device, options)?)
}

/// Loads a model onto the device of a backend.
pub(crate) fn load_on(source: &Source, place: Place) -> Result<Box<dyn Denoiser>, LoadError> {
    Ok(Box::new(network_on(source, place)?))
}

fn network_on(source: &Source, place: Place) -> Loaded {
    let card = match source {
        Source::Directory { dir, .. } | Source::DummyDirectory { dir, .. } => Card::of(dir)?.map(|card| card.presets()),
        Source::Gguf { .. } | Source::Embedded { .. } | Source::Dummy { .. } => None,
    };
    let (config, files, lora) = match source {
        Source::Directory { dir, prism_head, adapter } if dit::is_in(dir) => {
            if let Some(adapter) = adapter {
                let problem = "is a LoRA adapter, which a DiT does not take so far";
                return Err(LoadError::malformed(&adapter.display(), problem));
            }
            let head = head_file(dir, prism_head.as_deref())?.map(|path| TensorFile::open(&path)).transpose()?;
            let config = dit::Config::read(&dir.join("config.json"))?;
            return with_threadpool(|| load_dit(&config, model_files(dir)?, head, card, place));
        }
        Source::DummyDirectory { dir, seed } if dit::is_in(dir) => {
            let config = dit::Config::read(&dir.join("config.json"))?;
            let random = |seed, layout: Layout| TensorFile::random(seed, layout.weights.into_iter().collect());
            let files = vec![random(*seed, Layout::dit(&config))];
            let head = random(seed.wrapping_add(1), Layout::plain(config.layers(1, 1), HEAD, &[]));
            return with_threadpool(|| load_dit(&config, files, Some(head), card, place));
        }
        Source::Directory { dir, prism_head, adapter } => {
            let (files, lora) = directory(dir, prism_head.as_deref(), adapter.as_deref())?;
            (config(dir, &files)?, files, lora)
        }
        Source::Gguf { file, prism_head } => {
            let gguf = Gguf::open(file)?;
            let config = gguf.config()?;
            let model = TensorFile::gguf(gguf, file.display().to_string())?;
            let files = match head_file(file, prism_head.as_deref())? {
                Some(head) => vec![without_head(model), open_head(&head)?],
                None => vec![model],
            };
            (config, files, LoraConfig::PUBLISHED)
        }
        Source::Embedded { config, generation_config, weights, prism_head } => {
            let mut files = vec![TensorFile::embedded(weights, "the embedded model.safetensors")?];
            if let Some(head) = prism_head {
                files.push(TensorFile::embedded(head, "the embedded prism_head.safetensors")?);
            }
            let config = Config::parse(config, "the embedded config.json")?
                .parse_generation(generation_config, "the embedded generation_config.json")?;
            (config, files, LoraConfig::PUBLISHED)
        }
        Source::Dummy { config, seed } => (config.clone(), vec![dummy(config, *seed)], LoraConfig::PUBLISHED),
        Source::DummyDirectory { dir, seed } => {
            let config = described(dir)?;
            let files = vec![dummy(&config, *seed)];
            (config, files, LoraConfig::PUBLISHED)
        }
    };
    with_threadpool(|| load_llada(&config, files, lora, card, place))
}

/// Random weights of a configuration, quality head included.
fn dummy(config: &Config, seed: u64) -> TensorFile {
    let Layout { weights, head, .. } = Layout::llada(config);
    let head = head.into_iter().flat_map(|HeadPlace { width, .. }| head_tensors(width, width));
    let head = head.map(|(name, shape)| (name.to_owned(), shape));
    TensorFile::random(seed, weights.into_iter().chain(head).collect())
}

/// Where and in which number format a model is computed.
pub(crate) struct Place {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) dtype: DType,
    pub(crate) name: Device,
    pub(crate) allow_foreign_head: bool,
    pub(crate) cache_bytes: Option<u64>,
}

type Loaded = Result<NetworkDenoiser, LoadError>;

fn load_llada(
    config: &Config,
    files: Vec<TensorFile>,
    lora: LoraConfig,
    card: Option<PresetsText>,
    place: Place,
) -> Loaded {
    let Place { backend, dtype, name, allow_foreign_head, cache_bytes } = place;
    let weights = Registry::of(&Layout::llada(config), files, lora, Arc::clone(&backend))?;
    // products with matrices of few bits take and give f32 on every device
    let dtype = if weights.is_quantised() { DType::F32 } else { dtype };
    let weights = weights.computed_in(dtype);
    check_head(&weights, allow_foreign_head)?;
    let backend_of = Arc::clone(&backend);
    let network: Box<dyn Network> = match config.family {
        Family::Llada | Family::Dream => Box::new(Llada::new(config, &weights, backend_of)?),
        Family::Remedi => Box::new(Remedi::new(config, &weights, backend_of)?),
    };
    let judges = config.family.features().judges;
    let spec = ModelSpec {
        family: config.family.name().to_owned(),
        vocabulary: u32_of(config.vocab_size),
        canvas_max: config.max_sequence_length,
        mask: config.mask,
        ends: config.ends.clone(),
        keeping: match network.sight() {
            Sight::All => Keeping::Approximate,
            Sight::Blocks { length } => Keeping::Exact(length),
        },
        has_quality: weights.has_head() || judges,
        judges_blanks: judges,
        judged: weights.judged()?,
        adapters_folded: weights.has_adapters(),
        dtype: dtype.as_str().to_owned(),
        weights: weights.format(),
        device: name.to_string(),
        parameters: weights.parameters(),
        defaults: config.defaults,
        presets: config.presets.clone(),
        card,
    };
    Ok(NetworkDenoiser::new(network, backend, spec, cache_bytes))
}

/// A DiT is computed in f32 on every device. Its quality head has a file of its own.
fn load_dit(
    config: &dit::Config,
    files: Vec<TensorFile>,
    head: Option<TensorFile>,
    card: Option<PresetsText>,
    place: Place,
) -> Loaded {
    let Place { backend, name, allow_foreign_head, cache_bytes, .. } = place;
    let registry = |layout: Layout, files: Vec<TensorFile>| {
        Registry::of(&layout, files, LoraConfig::PUBLISHED, Arc::clone(&backend))
    };
    let weights = registry(Layout::dit(config), files)?;
    let head = match head {
        None => None,
        Some(file) => {
            check_is_last(&file, "a DiT")?;
            let has_block = |n: usize| {
                let block = format!("blocks.{n}.");
                file.shapes.keys().any(|name| name.trim_start_matches(HEAD).starts_with(&block))
            };
            let blocks = (0..).take_while(|n| has_block(*n)).count();
            let made_for = MadeFor::of(&file);
            let head = registry(Layout::plain(config.layers(blocks, 1), HEAD, &[]), vec![file])?;
            made_for.map_or(Ok(()), |made_for| made_for.check(&weights, allow_foreign_head))?;
            Some((head, blocks))
        }
    };
    let network = Dit::new(config, &weights, head.as_ref(), Arc::clone(&backend))?;
    let vocabulary = u32_of(config.vocab_size);
    let spec = ModelSpec {
        family: dit::FAMILY.to_owned(),
        vocabulary,
        canvas_max: config.model_length,
        mask: TokenId(config.mask_token_id.unwrap_or(vocabulary - 1)),
        ends: config.eos_token_id.map(TokenId).into_iter().collect(),
        keeping: Keeping::No,
        has_quality: head.is_some(),
        judges_blanks: false,
        judged: head.as_ref().map(|(head, _)| head.judged()).transpose()?.flatten(),
        adapters_folded: false,
        dtype: "f32".to_owned(),
        weights: "f32".to_owned(),
        device: name.to_string(),
        parameters: weights.parameters() + head.as_ref().map_or(0, |(head, _)| head.parameters()),
        defaults: Defaults::default(),
        presets: None,
        card,
    };
    Ok(NetworkDenoiser::new(Box::new(network), backend, spec, cache_bytes))
}
