//! Atomic saves: a file is either the old one or the new one, whatever happens while it is written.

use candle_core::Tensor;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::{fmt::Display, path::Path};

/// A file could not be written; what was there before is untouched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write {file}: {cause}; what was there before is untouched")]
pub struct SaveError {
    /// The file.
    pub file: String,
    /// What the system said.
    pub cause: String,
}

impl SaveError {
    pub(crate) fn new(path: &Path, cause: &dyn Display) -> Self {
        Self { file: path.display().to_string(), cause: cause.to_string() }
    }
}

/// Writes a safetensors file, each tensor in its own number format, with `metadata` in its header.
pub(crate) fn save_tensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
) -> Result<(), SaveError> {
    let file = safetensors::serialize(tensors, metadata).map_err(|cause| SaveError::new(path, &cause))?;
    save(path, &file)
}

/// Writes a file beside its place, flushes it to the disk, then renames it.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Result<(), SaveError> {
    save_with(path, |file| file.write_all(bytes))
}

/// The same for a file that `write` fills.
pub(crate) fn save_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), SaveError> {
    let beside = path.with_extension("unfinished");
    let written = File::create(&beside).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&beside); // the first error is the one to report
    }
    renamed.map_err(|cause| SaveError::new(path, &cause))
}
