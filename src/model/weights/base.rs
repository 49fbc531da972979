//! A model whose weights stay while a quality head is trained for it: a directory or a GGUF file.

use super::directory::{check_is_judgeable, check_is_model, config, directory, model_files};
use super::gguf::read::Gguf;
use super::head_facts::HeadFacts;
use super::layout::Layout;
use super::lora::LoraConfig;
use super::made_for::{check_head, entries_for};
use super::tensor_file::{TensorFile, is_gguf};
use super::{registry::Registry, save::Metadata};
use crate::files;
use crate::model::config::{dit, llada::Config};
use crate::model::device::{CudaGraphs, Device, backend};
use crate::model::error::LoadError;
use candle_core::Tensor;
use sha2::{Digest, Sha256, digest};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What training of a quality head alone starts from; the backbone stays in its files.
#[derive(Clone, Debug)]
pub(crate) struct HeadStart {
    /// `config.json` and `generation_config.json`, or what a GGUF file says in their place.
    pub(crate) config: Config,
    /// The quality head, where there is one.
    pub(crate) head: Option<BTreeMap<String, Tensor>>,
    /// What its file says of it.
    pub(crate) facts: HeadFacts,
}

/// [`HeadStart`] of a model. A quality head that was made for other weights is taken only with
/// `allow_foreign_head`, with a warning.
pub(crate) fn head_start(base: &Path, device: Device, allow_foreign_head: bool) -> Result<HeadStart, LoadError> {
    let (config, files, lora) = if is_gguf(base) {
        let (config, files) = gguf(base)?;
        (config, files, LoraConfig::PUBLISHED)
    } else {
        check_is_model(base)?;
        let (files, lora) = directory(base, None, None)?;
        (config(base, &files)?, files, lora)
    };
    check_is_judgeable(&config, base)?;
    let weights = Registry::of(&Layout::llada(&config), files, lora, backend(device.open()?.0, CudaGraphs::Off))?;
    check_head(&weights, allow_foreign_head)?;
    Ok(HeadStart { head: weights.whole_head()?, facts: weights.head_facts()?, config })
}

/// The configuration and the weights in a GGUF file.
fn gguf(file: &Path) -> Result<(Config, Vec<TensorFile>), LoadError> {
    let gguf = Gguf::open(file)?;
    Ok((gguf.config()?, vec![TensorFile::gguf(gguf, file.display().to_string())?]))
}

/// The configuration of a model.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn base_config(base: &Path) -> Result<Config, LoadError> {
    if is_gguf(base) { Gguf::open(base)?.config() } else { Config::read(base) }
}

/// The SHA-256 of the files of a model's weights.
pub(crate) fn weights_digest(base: &Path) -> Result<digest::Output<Sha256>, LoadError> {
    let mut hash = Sha256::new();
    let names = if is_gguf(base) {
        vec![base.display().to_string()]
    } else {
        model_files(base)?.into_iter().map(|file| file.name).collect()
    };
    for name in names {
        let copied = files::open(Path::new(&name)).and_then(|mut file| io::copy(&mut file, &mut hash));
        copied.map_err(|cause| LoadError::unreadable(&name, &cause))?;
    }
    Ok(hash.finalize())
}

/// The entries in the header of a head's file that say for which weights the head was made: those
/// of a model, an adapter folded in.
pub(crate) fn entries_of(base: &Path, adapter: Option<&Path>) -> Result<Metadata, LoadError> {
    let (mut lora, backend) = (LoraConfig::PUBLISHED, backend(Device::Cpu.open()?.0, CudaGraphs::Off));
    if is_gguf(base) {
        let (config, files) = gguf(base)?;
        return entries_for(&Registry::of(&Layout::llada(&config), files, lora, backend)?);
    }
    let mut files = model_files(base)?;
    if let Some(adapter) = adapter {
        lora = LoraConfig::read(&adapter.join("adapter_config.json"))?;
        files.push(TensorFile::open(&adapter.join("adapter_model.safetensors"))?);
    }
    let layout = match dit::is_in(base) {
        true => Layout::dit(&dit::Config::read(&base.join("config.json"))?),
        false => Layout::llada(&config(base, &files)?),
    };
    entries_for(&Registry::of(&layout, files, lora, backend)?)
}
