//! Conversion between the published PRISM checkpoint, in which backbone, adapters and head share
//! one file, and separate files for each. Numbers stay in their format.

use super::base::entries_of;
use super::companions::copy_companions;
use super::directory::{PRISM_HEAD, directory, open_any_head, tensors, trainable};
use super::layout::{HEAD, Layout, Part};
use super::lora::LoraConfig;
use super::made_for::{MadeFor, check_head};
use super::registry::Registry;
use super::save::{Metadata, SaveError, save, save_tensors, save_with_metadata};
use super::tensor_file::{JUDGED, TensorFile};
use crate::diffusion::TokenSet;
use crate::files;
use crate::model::{backend::cpu::Cpu, device::Device, error::LoadError};
use candle_core::Tensor;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::{fs, path::Path, sync::Arc};

/// Why a conversion failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The input cannot be read as a model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The result could not be written.
    #[error(transparent)]
    Save(#[from] SaveError),
}

type Named = BTreeMap<String, Tensor>;

/// Splits a PRISM checkpoint into `model.safetensors` with its companions from `dir`,
/// `prism_head.safetensors`, and `adapter/` in PEFT's layout where there are adapters. A head that
/// was made for other weights is taken only with `allow_foreign_head`, with a warning.
///
/// # Errors
/// When the checkpoint does not fit the model that `dir` describes, its head was made for other
/// weights, or a file cannot be written.
pub fn take_apart(checkpoint: &Path, dir: &Path, out: &Path, allow_foreign_head: bool) -> Result<(), ConvertError> {
    let facts = tensors(dir, Some(checkpoint), Device::Cpu, allow_foreign_head)?.facts; // checks names and shapes
    let file = TensorFile::open(checkpoint)?;
    let (mut backbone, mut adapters, mut head) = (Named::new(), Named::new(), Named::new());
    let (mut rank, mut targets) = (0, BTreeSet::new());
    for (name, shape) in &file.shapes {
        let tensor = file.read(name, &Cpu)?;
        let module = |weight: &str| format!("base_model.model.{}", weight.trim_end_matches(".weight"));
        match Part::of(name) {
            Some(Part::Weight(weight)) => drop(backbone.insert(weight, tensor)),
            Some(Part::LoraA(weight)) => {
                rank = shape[0];
                targets.extend(weight.trim_end_matches(".weight").rsplit('.').next().map(str::to_owned));
                adapters.insert(format!("{}.lora_A.weight", module(&weight)), tensor);
            }
            Some(Part::LoraB(weight)) => drop(adapters.insert(format!("{}.lora_B.weight", module(&weight)), tensor)),
            Some(Part::Head(name)) => drop(head.insert(name, tensor)),
            None => {}
        }
    }
    fs::create_dir_all(out).map_err(|cause| SaveError::new(out, &cause))?;
    copy_companions(dir, out)?;
    save_tensors(&out.join("model.safetensors"), &backbone, &Metadata::new())?;
    if !adapters.is_empty() {
        // the published recipe trains with alpha = r
        let beside = checkpoint.with_file_name("adapter_config.json");
        let scale = if files::is_there(&beside) { LoraConfig::read(&beside)?.scale("") } else { 1.0 };
        save_adapter(&out.join("adapter"), &adapters, rank, scale, &targets, dir)?;
    }
    let head_file = out.join(PRISM_HEAD);
    let _ = fs::remove_file(&head_file); // an older one would be read as this model's
    let adapter = out.join("adapter");
    let own = MadeFor::of(&file).map(|made_for| made_for.entries()).unwrap_or_default();
    let entries = match own.is_empty() {
        true => entries_of(out, Some(adapter.as_path()).filter(|_| !adapters.is_empty()))?,
        false => own,
    };
    save_tensors(&head_file, &head, &facts.added_to(entries))?;
    Ok(())
}

/// What is written into the header of a head's file.
#[derive(Clone, Copy, Debug)]
pub enum HeadEntry<'a> {
    /// The tokens that the head was trained to judge.
    Judged(&'a TokenSet),
    /// The weights that it was trained with.
    MadeFor {
        /// The model's directory.
        dir: &'a Path,
        /// The LoRA adapter of the training.
        adapter: Option<&'a Path>,
    },
}

/// Writes into the header of a head's file. Its tensors are not changed.
///
/// # Errors
/// When the file is no safetensors file with a quality head, the weights cannot be read, or the
/// file cannot be written.
pub fn annotate_head(head: &Path, entry: HeadEntry<'_>) -> Result<(), ConvertError> {
    open_any_head(head)?;
    let entries = match entry {
        HeadEntry::Judged(judged) => Metadata::from([(JUDGED, judged.to_string())]),
        HeadEntry::MadeFor { dir, adapter } => entries_of(dir, adapter)?,
    };
    let bytes = files::read(head, u64::MAX).map_err(|cause| LoadError::unreadable(&head.display(), &cause))?;
    Ok(save_with_metadata(head, &bytes, &entries)?)
}

/// Writes an adapter in PEFT's layout.
pub(crate) fn save_adapter(
    dir: &Path,
    adapters: &Named,
    rank: usize,
    scale: f64,
    targets: &BTreeSet<String>,
    base: &Path,
) -> Result<(), SaveError> {
    fs::create_dir_all(dir).map_err(|cause| SaveError::new(dir, &cause))?;
    save_tensors(&dir.join("adapter_model.safetensors"), adapters, &Metadata::new())?;
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": scale * rank as f64, "target_modules": targets,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "base_model_name_or_path": base,
    });
    save(&dir.join("adapter_config.json"), format!("{config:#}\n").as_bytes())
}

/// Joins a model's files into a PRISM checkpoint. It does not contain the scale of adapters:
/// without an `adapter_config.json` beside it, readers take alpha to be the rank. A head that was
/// made for other weights is taken only with `allow_foreign_head`, with a warning.
///
/// # Errors
/// When the files do not belong to one model, lack a head, or the checkpoint cannot be written.
pub fn put_together(
    dir: &Path,
    prism_head: Option<&Path>,
    adapter: Option<&Path>,
    checkpoint: &Path,
    allow_foreign_head: bool,
) -> Result<(), ConvertError> {
    let (files, lora) = directory(dir, prism_head, adapter)?;
    let weights = Registry::of(&Layout::llada(&trainable(dir, &files)?), files, lora, Arc::new(Cpu))?;
    check_head(&weights, allow_foreign_head)?;
    let files = weights.files();
    let parts = files.iter().flat_map(|file| file.shapes.keys().map(move |name| (file, name)));
    let parts: Vec<(&TensorFile, &String, Part)> =
        parts.filter_map(|(file, name)| Some((file, name, Part::of(name)?))).collect();
    let adapted = parts.iter().filter_map(|(_, _, part)| if let Part::LoraA(of) = part { Some(of) } else { None });
    let adapted: BTreeSet<&String> = adapted.collect();
    let prefix = if adapted.is_empty() { "backbone." } else { "backbone.base_model.model." };
    let published = |part: &Part| match part {
        Part::Weight(weight) if adapted.contains(weight) => {
            format!("{prefix}{}.base_layer.weight", weight.trim_end_matches(".weight"))
        }
        Part::Weight(weight) => format!("{prefix}{weight}"),
        Part::LoraA(weight) => format!("{prefix}{}.lora_A.default.weight", weight.trim_end_matches(".weight")),
        Part::LoraB(weight) => format!("{prefix}{}.lora_B.default.weight", weight.trim_end_matches(".weight")),
        Part::Head(name) => format!("{HEAD}{name}"),
    };
    if !parts.iter().any(|(_, _, part)| matches!(part, Part::Head(_))) {
        let problem = "has no quality head; a PRISM checkpoint needs one, give it with --prism-head";
        return Err(LoadError::malformed(&dir.display(), problem).into());
    }
    let read = |(file, name, part): &(&TensorFile, &String, Part)| Ok((published(part), file.read(name, &Cpu)?));
    let named: Named = parts.iter().map(read).collect::<Result<_, LoadError>>()?;
    let entries = MadeFor::of_head(&weights).map(|made_for| made_for.entries_beside(&weights)).transpose()?;
    save_tensors(checkpoint, &named, &weights.head_facts()?.added_to(entries.unwrap_or_default()))?;
    Ok(())
}
