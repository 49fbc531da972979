//! Every tensor of a model under its canonical name, whichever of the published layouts its files
//! use, checked against the family's layout before any is loaded. Out of scope: computations.

use super::fingerprint::{self, Row, Samples};
use super::gguf::FINGERPRINT;
use super::head_facts::{HeadFacts, layer_of};
use super::layout::{HeadPlace, INNER, Layout, NO_PLACE, Part, head_tensors};
use super::lora::{self, LoraConfig};
use super::tensor_file::{JUDGED, TensorFile};
use crate::diffusion::TokenSet;
use crate::model::backend::{Backend, Stored};
use crate::model::config::names::{self, Place};
use crate::model::error::LoadError;
use crate::model::states::Layer;
use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where a tensor is.
struct Location {
    file: usize,
    name: String,
    shape: Vec<usize>,
}

/// The tensors of one model, not loaded yet.
pub(crate) struct Registry {
    files: Vec<TensorFile>,
    locations: BTreeMap<Part, Location>,
    lora: LoraConfig,
    backend: Arc<dyn Backend>,
    dtype: DType,
    /// The states that the quality head reads.
    layer: Layer,
}

impl Registry {
    /// Sorts the tensors of `files` and checks that they are those of `layout`: none is missing,
    /// there twice, of another shape, or without a place in the model.
    pub(crate) fn of(
        layout: &Layout,
        files: Vec<TensorFile>,
        lora: LoraConfig,
        backend: Arc<dyn Backend>,
    ) -> Result<Self, LoadError> {
        let mut registry =
            Self { files, locations: BTreeMap::new(), lora, backend, dtype: DType::F32, layer: Layer::Last };
        registry.sort(layout)?;
        registry.check_weights(layout)?;
        registry.check_adapters(layout)?;
        registry.check_head(layout)?;
        Ok(registry)
    }

    /// The same with the network's weights in this number format instead of f32.
    pub(crate) fn computed_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The number format of the network's weights.
    pub(crate) const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether there is a quality head.
    pub(crate) fn has_head(&self) -> bool {
        self.locations.keys().any(|part| matches!(part, Part::Head(_)))
    }

    /// Whether there are adapters to fold in.
    pub(crate) fn has_adapters(&self) -> bool {
        self.locations.keys().any(|part| matches!(part, Part::LoraA(_)))
    }

    /// The number format in which most weights are held: that of the file where it has fewer bits
    /// than a float, else that of the computation.
    pub(crate) fn format(&self) -> String {
        self.files.iter().find_map(TensorFile::format).unwrap_or_else(|| self.dtype.as_str().to_owned())
    }

    /// Parameters of the model once adapters are folded in.
    pub(crate) fn parameters(&self) -> u64 {
        let kept = self.locations.iter().filter(|(part, _)| matches!(part, Part::Weight(_) | Part::Head(_)));
        kept.map(|(_, location)| location.shape.iter().product::<usize>() as u64).sum()
    }

    /// Loads a weight of the network, its adapter folded in before anything is rounded.
    pub(crate) fn weight(&self, name: &str) -> Result<Tensor, LoadError> {
        Ok(self.full(name)?.to_dtype(self.dtype)?)
    }

    /// The same in f32, whatever the number format of the computation.
    pub(crate) fn full(&self, name: &str) -> Result<Tensor, LoadError> {
        let weight = self.load(&Part::Weight(name.to_owned()))?;
        let (a, b) = (Part::LoraA(name.to_owned()), Part::LoraB(name.to_owned()));
        match self.locations.contains_key(&a) {
            false => Ok(weight),
            true => Ok(lora::fold(&weight, &self.load(&a)?, &self.load(&b)?, self.lora.scale(module(name)))?),
        }
    }

    /// Loads a matrix of the network, to multiply with or to take rows from: as it is stored where
    /// that takes fewer bits than a float, else as [`Self::weight`] does.
    pub(crate) fn matrix(&self, name: &str) -> Result<Stored, LoadError> {
        let is_adapted = self.locations.contains_key(&Part::LoraA(name.to_owned())); // then it is folded in, in f32
        let location = self.locations.get(&Part::Weight(name.to_owned())).filter(|_| !is_adapted);
        let device = self.backend.device();
        match location.map(|at| self.files[at.file].quantised(&at.name, &device)).transpose()?.flatten() {
            Some(weight) => Ok(Stored::Quantised(Arc::new(weight))),
            None => Ok(Stored::Full(self.weight(name)?)),
        }
    }

    /// Whether a matrix of the network is multiplied in few bits.
    pub(crate) fn is_quantised(&self) -> bool {
        self.locations.iter().any(|(part, location)| {
            matches!(part, Part::Weight(_)) && self.files[location.file].is_quantised(&location.name)
        })
    }

    /// Loads a tensor of the quality head, in f32.
    pub(crate) fn head(&self, name: &str) -> Result<Tensor, LoadError> {
        self.load(&Part::Head(name.to_owned()))
    }

    /// Loads the quality head's tensors by their names, in f32; `None` without a head.
    pub(crate) fn whole_head(&self) -> Result<Option<BTreeMap<String, Tensor>>, LoadError> {
        let parts =
            self.locations.keys().filter_map(|part| if let Part::Head(name) = part { Some(name) } else { None });
        let head =
            parts.map(|name| Ok((name.clone(), self.head(name)?))).collect::<Result<BTreeMap<_, _>, LoadError>>()?;
        Ok(Some(head).filter(|head| !head.is_empty()))
    }

    /// The states that the quality head reads.
    pub(crate) const fn head_layer(&self) -> Layer {
        self.layer
    }

    /// What the file of the quality head says of it.
    pub(crate) fn head_facts(&self) -> Result<HeadFacts, LoadError> {
        Ok(HeadFacts { judged: self.judged()?, layer: self.layer })
    }

    /// The fingerprint of the base model's weights, without adapters: the SHA-256 of every gain and
    /// of one matrix, in f32. Models that were trained apart differ in these, and those of an 8B
    /// model are read quickly. A quantised file contains that of the weights it was made from.
    pub(crate) fn fingerprint(&self) -> Result<String, LoadError> {
        if let Some(original) = self.files.iter().find_map(|file| file.metadata.get(FINGERPRINT)) {
            return Ok(original.clone()); // quantised weights are not what the head was made for to the bit
        }
        let place = Place { block: Some("0"), part: "attn_out" };
        let matrices = names::ALL.map(|names| format!("{}.weight", names.module(place)));
        let mut hash = Sha256::new();
        for (part, location) in &self.locations {
            let Part::Weight(name) = part else { continue };
            if location.shape.len() == 1 || matrices.contains(name) {
                let numbers = self.load(part)?.flatten_all()?.to_vec1::<f32>()?;
                hash.update(name.as_bytes());
                numbers.into_iter().for_each(|number| hash.update(number.to_le_bytes()));
            }
        }
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// A few numbers of every tensor of the network, adapters folded in.
    pub(crate) fn samples(&self) -> Result<Samples, LoadError> {
        let mut all = Samples::new();
        for (part, location) in &self.locations {
            let Part::Weight(name) = part else { continue };
            let places = fingerprint::rows(&location.shape);
            let (rows, format) = self.files[location.file].rows(&location.name, &places)?;
            let (a, b) = (Part::LoraA(name.clone()), Part::LoraB(name.clone()));
            let adapter = match self.locations.contains_key(&a) {
                true => Some((self.load(&a)?.to_vec2::<f32>()?, self.load(&b)?.to_vec2::<f32>()?)),
                false => None,
            };
            let scale = self.lora.scale(module(name)) as f32;
            let mut samples = Vec::new();
            for (stored, place) in rows.into_iter().zip(places) {
                let mut folded = stored.clone();
                if let Some((a, b)) = &adapter {
                    for (factor, row) in b[place].iter().zip(a) {
                        folded.iter_mut().zip(row).for_each(|(number, a)| *number += scale * factor * a);
                    }
                }
                samples.extend(fingerprint::samples(&Row { stored, folded, format }, location.shape.len() == 1));
            }
            all.insert(name.clone(), samples);
        }
        Ok(all)
    }

    /// The file with the quality head; `None` without a head.
    pub(crate) fn head_file(&self) -> Option<&TensorFile> {
        let (_, location) = self.locations.iter().find(|(part, _)| matches!(part, Part::Head(_)))?;
        Some(&self.files[location.file])
    }

    /// The files of the tensors.
    pub(crate) fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// The tokens that the quality head was trained to judge; `None` where its file does not say.
    pub(crate) fn judged(&self) -> Result<Option<TokenSet>, LoadError> {
        let entry = self.files.iter().find_map(|file| Some((&file.name, file.metadata.get(JUDGED)?)));
        let Some((file, text)) = entry else { return Ok(None) };
        text.parse().map(Some).map_err(|error| LoadError::malformed(file, format!("has under {JUDGED:?}: {error}")))
    }

    fn load(&self, part: &Part) -> Result<Tensor, LoadError> {
        match self.locations.get(part) {
            Some(location) => self.files[location.file].load(&location.name, &*self.backend),
            None => Err(self.missing(part)),
        }
    }

    fn sort(&mut self, layout: &Layout) -> Result<(), LoadError> {
        for (index, file) in self.files.iter().enumerate() {
            for (name, shape) in &file.shapes {
                let stray = |problem: &str| LoadError::stray(&file.name, name, problem);
                let Some(part) = layout.part(name).map_err(stray)? else { continue };
                if let Part::Weight(name) = &part
                    && layout.unread.as_ref() == Some(name)
                {
                    continue;
                }
                let location = Location { file: index, name: name.clone(), shape: shape.clone() };
                if let Some(other) = self.locations.insert(part, location) {
                    let other = &self.files[other.file].name;
                    return Err(stray(&format!("is in {other} as well; give one of the two")));
                }
            }
        }
        Ok(())
    }

    fn check_weights(&self, layout: &Layout) -> Result<(), LoadError> {
        for (name, shape) in &layout.weights {
            self.check_shape(&Part::Weight(name.clone()), shape)?;
        }
        let is_stray = |name: &str| !layout.weights.contains_key(name);
        self.check_strays(|part| matches!(part, Part::Weight(name) if is_stray(name)), NO_PLACE)
    }

    /// Adapters come in pairs, fit a matrix of the network, and are those of their configuration.
    fn check_adapters(&self, layout: &Layout) -> Result<(), LoadError> {
        let mut adapted = BTreeSet::new();
        for (part, location) in &self.locations {
            let (Part::LoraA(name) | Part::LoraB(name)) = part else { continue };
            let Some([rows, columns]) = layout.weights.get(name).map(Vec::as_slice) else {
                return Err(self.stray(location, "adapts no matrix of the model that config.json describes"));
            };
            let module = module(name);
            if !self.lora.adapts(module) {
                return Err(self.stray(location, "adapts a module that adapter_config.json does not list"));
            }
            adapted.insert(module);
            if location.shape.contains(&0) {
                return Err(self.stray(location, "is of an adapter of rank 0, which adapts nothing"));
            }
            let a = Part::LoraA(name.clone());
            let rank = self.lora.rank(module).or_else(|| self.locations.get(&a)?.shape.first().copied()).unwrap_or(0);
            self.check_shape(&a, &[rank, *columns])?;
            self.check_shape(&Part::LoraB(name.clone()), &[*rows, rank])?;
        }
        let unused = self.lora.unused(&adapted.into_iter().collect::<Vec<_>>());
        if !unused.is_empty() {
            let (files, modules) = (self.searched(), unused.join(", "));
            tracing::warn!(
                files,
                modules,
                "no tensors for modules that adapter_config.json lists; they stay as they are"
            );
        }
        Ok(())
    }

    /// A head is complete, its tensors have one size, and it reads states of this model.
    fn check_head(&mut self, layout: &Layout) -> Result<(), LoadError> {
        let Some(file) = self.head_file() else { return Ok(()) };
        let Some(HeadPlace { width, blocks }) = layout.head else {
            let problem = "is of a PRISM head, but this model judges its tokens itself; leave the head out";
            return self.check_strays(|part| matches!(part, Part::Head(_)), problem);
        };
        let layer = layer_of(file, blocks)?;
        let inner = Part::Head(INNER.to_owned());
        let location = self.locations.get(&inner).ok_or_else(|| self.missing(&inner))?;
        let size = match location.shape[..] {
            [size, columns] if size > 0 && columns == width => size,
            _ => {
                let problem = format!(
                    "has a quality head whose tensor `{}` has shape {:?}, expected [SIZE, {width}], of any size from 1: \
                     the model's states have {width} numbers",
                    location.name, location.shape
                );
                return Err(LoadError::malformed(&self.files[location.file].name, problem));
            }
        };
        let tensors = head_tensors(width, size);
        for (name, shape) in &tensors {
            self.check_shape(&Part::Head((*name).to_owned()), shape)?;
        }
        let is_stray = |name: &str| !tensors.iter().any(|(known, _)| *known == name);
        self.check_strays(|part| matches!(part, Part::Head(name) if is_stray(name)), "has no place in a PRISM head")?;
        self.layer = layer;
        Ok(())
    }

    fn check_strays(&self, is_stray: impl Fn(&Part) -> bool, problem: &str) -> Result<(), LoadError> {
        match self.locations.iter().find(|(part, _)| is_stray(part)) {
            Some((_, location)) => Err(self.stray(location, problem)),
            None => Ok(()),
        }
    }

    fn check_shape(&self, part: &Part, expected: &[usize]) -> Result<(), LoadError> {
        let location = self.locations.get(part).ok_or_else(|| self.missing(part))?;
        if location.shape == expected {
            return Ok(());
        }
        Err(LoadError::WrongShape {
            file: self.files[location.file].name.clone(),
            tensor: location.name.clone(),
            found: location.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn missing(&self, part: &Part) -> LoadError {
        let tensor = match part {
            Part::Weight(name) | Part::Head(name) => name.clone(),
            Part::LoraA(name) => name.replace(".weight", ".lora_A.weight"),
            Part::LoraB(name) => name.replace(".weight", ".lora_B.weight"),
        };
        LoadError::MissingTensor { files: self.searched(), tensor }
    }

    fn stray(&self, location: &Location, problem: &str) -> LoadError {
        LoadError::stray(&self.files[location.file].name, &location.name, problem)
    }

    fn searched(&self) -> String {
        self.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The module of a weight, as `model.transformer.blocks.0.q_proj`.
fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}
