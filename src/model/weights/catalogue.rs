//! The tensors of a model whose files have exactly the names they should, but for a prefix. Refuses to know what is computed
//! with them.

use crate::model::LoadError;
use crate::model::weights::tensor_file::TensorFile;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// Tensors by name, not loaded yet.
pub(crate) struct Catalogue {
    files: Vec<TensorFile>,
    homes: BTreeMap<String, Home>,
}

struct Home {
    file: usize,
    /// Its name there, prefix included.
    name: String,
    numbers: usize,
}

impl Catalogue {
    /// Checks that `files` hold the tensors `expected`, no fewer and no more but for those named in `derived`, which follow from
    /// the configuration.
    ///
    /// # Errors
    /// When a tensor is missing, there twice, of another shape, or has no place in the model.
    pub(crate) fn of(
        files: Vec<TensorFile>,
        expected: Vec<(String, Vec<usize>)>,
        prefixes: &[&str],
        derived: &[&str],
    ) -> Result<Self, LoadError> {
        let expected: BTreeMap<String, Vec<usize>> = expected.into_iter().collect();
        let mut homes: BTreeMap<String, Home> = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for (name, shape) in &file.shapes {
                let plain = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
                if derived.contains(&plain) {
                    continue;
                }
                let stray = |problem: String| {
                    Err(LoadError::StrayTensor { file: file.name.clone(), tensor: name.clone(), problem })
                };
                let Some(wanted) = expected.get(plain) else {
                    return stray("has no place in the model that config.json describes".to_owned());
                };
                if shape != wanted {
                    return Err(LoadError::WrongShape {
                        file: file.name.clone(),
                        tensor: name.clone(),
                        found: shape.clone(),
                        expected: wanted.clone(),
                    });
                }
                let home = Home { file: index, name: name.clone(), numbers: shape.iter().product() };
                if let Some(other) = homes.insert(plain.to_owned(), home) {
                    return stray(format!("is in {} as well; give one of the two", files[other.file].name));
                }
            }
        }
        let catalogue = Self { files, homes };
        match expected.keys().find(|name| !catalogue.has(name)) {
            None => Ok(catalogue),
            Some(name) => Err(catalogue.missing(name)),
        }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.homes.contains_key(name)
    }

    /// Numbers in all of them.
    pub(crate) fn parameters(&self) -> u64 {
        self.homes.values().map(|home| home.numbers as u64).sum()
    }

    /// Loads a tensor in f32.
    pub(crate) fn load(&self, name: &str, device: &Device) -> Result<Tensor, LoadError> {
        match self.homes.get(name) {
            Some(home) => self.files[home.file].load(&home.name, device),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> LoadError {
        let files = self.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
        LoadError::MissingTensor { files, tensor: name.to_owned() }
    }
}
