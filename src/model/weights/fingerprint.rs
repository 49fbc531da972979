//! A name for a model's weights, so that a quality head made for other weights is found out.

use super::gguf::names::FINGERPRINT;
use super::registry::Registry;
use crate::model::error::LoadError;
use sha2::{Digest, Sha256};

/// The key in the header of a head's file that holds the fingerprint of the weights it was made
/// for.
pub(crate) const BASE: &str = "base";

/// The fingerprint of the base model's weights, adapters left out: the SHA-256 of every gain and of
/// one matrix, in f32. Models that were trained apart differ in these, and those of an 8B model are
/// read quickly. A quantised file contains the fingerprint of the weights it was made from.
///
/// # Errors
/// When a tensor cannot be read.
pub(crate) fn fingerprint(weights: &Registry) -> Result<String, LoadError> {
    const MATRIX: &str = "model.transformer.blocks.0.attn_out.weight";
    if let Some(original) = weights.metadata(FINGERPRINT) {
        return Ok(original.clone()); // quantised weights are not what the head was made for to the bit
    }
    let mut hash = Sha256::new();
    for (name, _) in weights.shapes().filter(|(name, shape)| shape.len() == 1 || *name == MATRIX) {
        let numbers = weights.base(name)?.flatten_all()?.to_vec1::<f32>()?;
        hash.update(name.as_bytes());
        numbers.into_iter().for_each(|number| hash.update(number.to_le_bytes()));
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Checks that the quality head was made for these weights, as far as its file names any.
///
/// # Errors
/// When it was made for others.
pub(crate) fn check_base(weights: &Registry) -> Result<(), LoadError> {
    let file = weights.head_file();
    let Some((file, made_for)) = file.and_then(|file| Some((&file.name, file.metadata.get(BASE)?))) else {
        return Ok(());
    };
    let found = fingerprint(weights)?;
    if found == *made_for {
        return Ok(());
    }
    Err(LoadError::WrongBase { file: file.clone(), made_for: made_for.clone(), found })
}
