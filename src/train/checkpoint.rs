//! Checkpoints: a run's parameters, optimiser state and settings in one file, which is replaced
//! atomically. Out of scope: the objective of the run.

use super::{error::TrainError, net::Parameters, optimiser::Memory};
use crate::model::save_tensors;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::{fs, path::Path};

/// The state that a run is resumed from. Random numbers are a function of the seed and the step.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) step: u32,
    pub(super) settings: Map<String, Value>,
    pub(super) parameters: BTreeMap<String, Tensor>,
    /// The optimiser's state of each parameter.
    pub(super) memory: BTreeMap<String, Memory>,
}

/// Step and settings, as JSON under the key [`RUN`] of the file's metadata.
#[derive(Deserialize)]
struct RunHeader {
    step: u32,
    settings: Map<String, Value>,
}

const RUN: &str = "run";
/// The tensors saved for each parameter.
const PARTS: [&str; 4] = ["parameter", "first", "second", "ema"];

/// Writes a checkpoint. An existing file is unchanged if that fails.
pub(super) fn save(
    path: &Path,
    step: u32,
    settings: &Map<String, Value>,
    parameters: &Parameters,
    memory: &BTreeMap<String, Memory>,
) -> Result<(), TrainError> {
    let mut tensors = BTreeMap::new();
    for (name, var) in parameters.trained() {
        let Some(memory) = memory.get(name) else { continue };
        let parts = [var.as_tensor(), &memory.first, &memory.second, &memory.ema];
        for (part, tensor) in PARTS.into_iter().zip(parts) {
            tensors.insert(format!("{part}/{name}"), tensor.clone());
        }
    }
    // one entry only: the order of several would differ from run to run
    let words = HashMap::from([(RUN.to_owned(), json!({ "step": step, "settings": settings }).to_string())]);
    Ok(save_tensors(path, &tensors, Some(words))?)
}

/// Reads a checkpoint; `None` when the file does not exist.
pub(super) fn open(path: &Path, device: &Device) -> Result<Option<Checkpoint>, TrainError> {
    let broken = |problem: String| TrainError::Checkpoint { file: path.display().to_string(), problem };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(broken(format!("cannot be read: {cause}"))),
    };
    let damaged = |cause: &dyn std::fmt::Display| broken(format!("is damaged: {cause}"));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|cause| damaged(&cause))?;
    let run = header.metadata().as_ref().and_then(|words| serde_json::from_str(words.get(RUN)?).ok());
    let RunHeader { step, settings } = run.ok_or_else(|| broken("does not say of which run it is".to_owned()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, device).map_err(|cause| damaged(&cause))?;

    let take = |part: &str, name: &str| {
        let full = format!("{part}/{name}");
        tensors.get(&full).cloned().ok_or_else(|| broken(format!("lacks {full}")))
    };
    let (mut parameters, mut memory) = (BTreeMap::new(), BTreeMap::new());
    for name in tensors.keys().filter_map(|name| name.strip_prefix("parameter/")) {
        let [parameter, first, second, ema] = PARTS.map(|part| take(part, name));
        parameters.insert(name.to_owned(), parameter?);
        memory.insert(name.to_owned(), Memory { first: first?, second: second?, ema: ema? });
    }
    Ok(Some(Checkpoint { step, settings, parameters, memory }))
}

/// Fails when the settings of a checkpoint, `saved`, differ from those of this run, `now`.
pub(super) fn check_same(path: &Path, saved: &Map<String, Value>, now: &Map<String, Value>) -> Result<(), TrainError> {
    let mut keys = saved.keys().chain(now.keys());
    let Some(key) = keys.find(|key| saved.get(*key) != now.get(*key)) else { return Ok(()) };
    let [saved, now] = [saved, now].map(|settings| settings.get(key).unwrap_or(&Value::Null));
    let problem = format!(
        "is of a run with {key} {saved}, this one is told {now}; resume with the same settings or give another --out"
    );
    Err(TrainError::Checkpoint { file: path.display().to_string(), problem })
}
