//! Which weights a quality head was made for, as its file says, and the check that it is used with
//! them. Out of scope: how numbers are compared.

use super::fingerprint;
use super::registry::Registry;
use super::save::Metadata;
use super::tensor_file::{BASE, SAMPLES, TensorFile};
use crate::model::error::LoadError;

/// What the file of a quality head says about the weights that the head was made for.
pub(crate) struct MadeFor {
    file: String,
    base: Option<String>,
    samples: Option<String>,
}

impl MadeFor {
    /// `None` where the head is random, so it was made for no weights.
    pub(crate) fn of(file: &TensorFile) -> Option<Self> {
        let entry = |key| file.metadata.get(key).cloned();
        (!file.is_random()).then(|| Self { file: file.name.clone(), base: entry(BASE), samples: entry(SAMPLES) })
    }

    /// That of the quality head which is among `weights`.
    pub(crate) fn of_head(weights: &Registry) -> Option<Self> {
        weights.head_file().and_then(Self::of)
    }

    /// Checks that the head was made for `weights`: by their numbers, or by their fingerprint alone
    /// in files of earlier versions. A head whose file says nothing is taken with a warning.
    ///
    /// # Errors
    /// When it was made for others. With `allow_foreign` this is a warning, too.
    pub(crate) fn check(&self, weights: &Registry, allow_foreign: bool) -> Result<(), LoadError> {
        let file = &self.file;
        match self.check_entries(weights) {
            Err(foreign @ LoadError::WrongBase { .. }) if allow_foreign => {
                tracing::warn!(%foreign, "the quality head was made for other weights; it is taken all the same");
            }
            checked => checked?,
        }
        if self.base.is_none() && self.samples.is_none() {
            tracing::warn!(
                file,
                "the file of the quality head does not say for which weights it was made; taken to be for these. \
                 `remask convert --record-weights` writes it down"
            );
        }
        Ok(())
    }

    fn check_entries(&self, weights: &Registry) -> Result<(), LoadError> {
        let wrong = |made_for: Option<&String>, found| {
            let made_for = made_for.cloned().unwrap_or_else(|| "in its header".to_owned());
            Err(LoadError::WrongBase { file: self.file.clone(), made_for, found })
        };
        if let Some(written) = &self.samples {
            let damaged = || LoadError::malformed(&self.file, format!("has a damaged `{SAMPLES}` in its header"));
            let other = fingerprint::differing(written, &weights.samples()?).ok_or_else(damaged)?;
            return match other.as_slice() {
                [] => Ok(()),
                [first] => wrong(self.base.as_ref(), format!("another: `{first}` differs")),
                [first, more @ ..] => {
                    wrong(self.base.as_ref(), format!("another: `{first}` and {} more tensors differ", more.len()))
                }
            };
        }
        let Some(made_for) = &self.base else { return Ok(()) };
        let found = weights.fingerprint()?;
        if found == *made_for { Ok(()) } else { wrong(Some(made_for), found) }
    }

    /// The entries of the file.
    pub(crate) fn entries(&self) -> Metadata {
        let entries = [(BASE, &self.base), (SAMPLES, &self.samples)];
        entries.into_iter().filter_map(|(key, text)| Some((key, text.clone()?))).collect()
    }

    /// The entries for a file in which the head is stored together with `weights`. Where the head's
    /// own file has no numbers, they are those of `weights`, unless the head was made for others.
    pub(crate) fn entries_beside(&self, weights: &Registry) -> Result<Metadata, LoadError> {
        let mut entries = self.entries();
        if self.samples.is_none() && self.check_entries(weights).is_ok() {
            entries.insert(SAMPLES, fingerprint::written(&weights.samples()?));
        }
        Ok(entries)
    }
}

/// [`MadeFor::check`] of the quality head which is among `weights`, if there is one.
pub(crate) fn check_head(weights: &Registry, allow_foreign: bool) -> Result<(), LoadError> {
    MadeFor::of_head(weights).map_or(Ok(()), |made_for| made_for.check(weights, allow_foreign))
}

/// The entries for a head that is made for `weights`.
pub(crate) fn entries_for(weights: &Registry) -> Result<Metadata, LoadError> {
    Ok(Metadata::from([(BASE, weights.fingerprint()?), (SAMPLES, fingerprint::written(&weights.samples()?))]))
}
