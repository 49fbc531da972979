//! Atomic saves: a file is either the old one or the new one, whatever happens while it is written.

use candle_core::Tensor;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
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

/// Entries of the header of a safetensors file, besides its tensors.
pub(crate) type Metadata = BTreeMap<&'static str, String>;

/// Writes a safetensors file, each tensor in its own number format, with `metadata` in its header.
pub(crate) fn save_tensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &Metadata,
) -> Result<(), SaveError> {
    let file = safetensors::serialize(tensors, None).map_err(|cause| SaveError::new(path, &cause))?;
    save_with_metadata(path, &file, metadata)
}

/// Writes a safetensors file, given as bytes, with more entries in its header. They replace those
/// of the same name. The same entries give the same bytes.
pub(crate) fn save_with_metadata(path: &Path, file: &[u8], more: &Metadata) -> Result<(), SaveError> {
    let (header, tensors) = with_metadata(file, more).map_err(|cause| SaveError::new(path, &cause))?;
    save_with(path, |file| file.write_all(&header).and_then(|()| file.write_all(tensors)))
}

/// The new header of a safetensors file, its length included, and what follows the header.
fn with_metadata<'a>(file: &'a [u8], more: &Metadata) -> Result<(Vec<u8>, &'a [u8]), &'static str> {
    const DAMAGED: &str = "its header is damaged";
    const ENTRIES: &str = "__metadata__";
    let (length, rest) = file.split_first_chunk().ok_or(DAMAGED)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| DAMAGED)?;
    let (header, tensors) = rest.split_at_checked(length).ok_or(DAMAGED)?;
    let mut header: Map<String, Value> = serde_json::from_slice(header).map_err(|_| DAMAGED)?;
    if !more.is_empty() {
        let entries = header.entry(ENTRIES).or_insert_with(|| Value::Object(Map::new()));
        let entries = entries.as_object_mut().ok_or(DAMAGED)?;
        entries.extend(more.iter().map(|(key, text)| ((*key).to_owned(), Value::String(text.clone()))));
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' '); // tensors start at a multiple of eight bytes
    }
    Ok(([&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat(), tensors))
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
