//! Checkpoints: a run's parameters, optimiser state and settings in one file, which is replaced
//! atomically. Out of scope: the objective of the run.

use super::optimiser::{Optimiser, PARTS, State};
use super::{data::Data, error::TrainError, parameters::Parameters};
use crate::files;
use crate::model::{Config, Defaults, Metadata, SaveError, save_tensors};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::{self, JoinHandle};

/// The state that a run is resumed from. Random numbers are a function of the seed and the step.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) step: u32,
    pub(super) settings: Map<String, Value>,
    /// Of each parameter.
    pub(super) states: BTreeMap<String, State>,
}

/// Format, step and settings, as JSON under the key [`RUN`] of the file's metadata.
#[derive(Deserialize)]
struct RunHeader {
    #[serde(default)]
    format: u32,
    step: u32,
    settings: Map<String, Value>,
}

/// Raised whenever the same settings lead to other weights, or a checkpoint holds something else.
const FORMAT: u32 = 2;
const RUN: &str = "run";
/// The end of the names of those settings that are digests. They differ as a consequence of other
/// settings, too.
const DIGEST: &str = "_sha256";

/// Writes checkpoints while the run goes on, one at a time.
#[derive(Debug, Default)]
pub(super) struct Saves(Option<JoinHandle<Result<(), SaveError>>>);

impl Saves {
    /// Begins to write a checkpoint, with the parameters as they are now. An existing file is
    /// unchanged if that fails.
    ///
    /// # Errors
    /// Those of the checkpoint before.
    pub(super) fn begin(
        &mut self,
        path: &Path,
        step: u32,
        settings: &Map<String, Value>,
        optimiser: &Optimiser,
    ) -> Result<(), TrainError> {
        self.end()?;
        let tensors = snapshot(optimiser)?;
        let run = json!({ "format": FORMAT, "step": step, "settings": settings }).to_string();
        let path = path.to_owned();
        self.0 = Some(thread::spawn(move || save_tensors(&path, &tensors, &Metadata::from([(RUN, run)]))));
        Ok(())
    }

    /// Waits for the checkpoint that is being written.
    ///
    /// # Errors
    /// When it could not be written.
    pub(super) fn end(&mut self) -> Result<(), TrainError> {
        let Some(writing) = self.0.take() else { return Ok(()) };
        let written = writing.join().map_err(|_| TrainError::Failed("a checkpoint could not be written".to_owned()))?;
        Ok(written?)
    }
}

impl Drop for Saves {
    fn drop(&mut self) {
        let _ = self.end(); // the run failed for another reason, which is told
    }
}

/// All tensors of a checkpoint, which later steps do not change.
fn snapshot(optimiser: &Optimiser) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (name, State { shape, parts }) in optimiser.states()? {
        for (row, part) in PARTS.into_iter().enumerate() {
            tensors.insert(format!("{part}/{name}"), parts.get(row)?.reshape(shape.clone())?);
        }
    }
    Ok(tensors)
}

/// Reads a checkpoint; `None` when the file does not exist.
pub(super) fn open(path: &Path, device: &Device) -> Result<Option<Checkpoint>, TrainError> {
    let broken = |problem: String| TrainError::Checkpoint { file: path.display().to_string(), problem };
    let bytes = match files::read(path, u64::MAX) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(broken(format!("cannot be read: {cause}"))),
    };
    let damaged = |cause: &dyn std::fmt::Display| broken(format!("is damaged: {cause}"));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|cause| damaged(&cause))?;
    let run = header.metadata().as_ref().and_then(|words| serde_json::from_str(words.get(RUN)?).ok());
    let RunHeader { format, step, settings } =
        run.ok_or_else(|| broken("does not say of which run it is".to_owned()))?;
    if format != FORMAT {
        let problem = format!(
            "has format {format}, this version continues format {FORMAT}; go on with the version that wrote it, or \
             give another --out"
        );
        return Err(broken(problem));
    }
    let tensors = candle_core::safetensors::load_buffer(&bytes, device).map_err(|cause| damaged(&cause))?;

    let take = |part: &str, name: &str| {
        let full = format!("{part}/{name}");
        tensors.get(&full).cloned().ok_or_else(|| broken(format!("lacks {full}")))
    };
    let mut states = BTreeMap::new();
    for name in tensors.keys().filter_map(|name| name.strip_prefix(PARTS[0])?.strip_prefix('/')) {
        let parts = PARTS.map(|part| take(part, name)).into_iter().collect::<Result<Vec<Tensor>, _>>()?;
        let shape = parts[0].dims().to_vec();
        let parts = parts.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>, _>>();
        let parts = parts.and_then(|parts| Tensor::stack(&parts, 0)).map_err(|cause| damaged(&cause))?;
        states.insert(name.to_owned(), State { shape, parts });
    }
    Ok(Some(Checkpoint { step, settings, states }))
}

/// `settings`, and digests of all else that a run starts from: its data, its configuration and its
/// initial weights.
pub(super) fn complete(
    settings: &Map<String, Value>,
    data: &Data,
    config: &Config,
    weights: &Parameters,
) -> Result<Map<String, Value>, TrainError> {
    // defaults and presets of requests have no part in training
    let config = format!("{:?}", Config { defaults: Defaults::default(), presets: None, ..config.clone() });
    let config = config.replace(", presets: None", ""); // which checkpoints of earlier versions do not know
    let digests = [("data", data.digest()?), ("config", Sha256::digest(config)), ("weights", weights.digest()?)];
    let digests = digests.into_iter().map(|(name, digest)| (format!("{name}{DIGEST}"), json!(in_hex(&digest))));
    Ok(settings.clone().into_iter().chain(digests).collect())
}

/// The first eight bytes of a digest.
pub(crate) fn in_hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Fails when the settings of a checkpoint, `saved`, differ from those of this run, `now`.
pub(super) fn check_same(path: &Path, saved: &Map<String, Value>, now: &Map<String, Value>) -> Result<(), TrainError> {
    let keys: BTreeSet<&String> = saved.keys().chain(now.keys()).collect();
    let (digests, settings): (Vec<&String>, Vec<&String>) =
        keys.into_iter().filter(|key| saved.get(*key) != now.get(*key)).partition(|key| key.ends_with(DIGEST));
    let other = if settings.is_empty() { digests } else { settings };
    if other.is_empty() {
        return Ok(());
    }
    let show = |settings: &Map<String, Value>, key: &str| settings.get(key).map_or("not set".into(), Value::to_string);
    let list =
        |settings| other.iter().map(|key| format!("{key} {}", show(settings, key))).collect::<Vec<_>>().join(", ");
    let problem = format!(
        "is of a run with {}, this one has {}; resume with the same settings or give another --out",
        list(saved),
        list(now)
    );
    Err(TrainError::Checkpoint { file: path.display().to_string(), problem })
}
