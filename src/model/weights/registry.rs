//! Every tensor of a model under its canonical name, whichever of the published layouts its files use, checked
//! against the configuration before any is loaded. Refuses to know what is computed with them.

use crate::model::LoadError;
use crate::model::backend::linear::{Embedding, Linear};
use crate::model::config::llada::Config;
use crate::model::families::head;
use crate::model::weights::gguf::read::FINGERPRINT;
use crate::model::weights::lora::{self, Recipe};
use crate::model::weights::tensor_file::TensorFile;
use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The word in a head's file that says which weights it was made for.
pub(crate) const BASE: &str = "base";

/// What a tensor is to the model, from its name in a file. The published layouts (hub checkpoint, PEFT adapter,
/// PRISM head alone, PRISM checkpoint with all three) differ only in prefixes and infixes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A weight of the backbone, as `model.transformer.wte.weight`.
    Backbone(String),
    /// The A of the adapter of a backbone weight, which is named.
    LoraA(String),
    /// The B of the adapter of a backbone weight, which is named.
    LoraB(String),
    /// A tensor of the quality head, as `proj1.bias`.
    Head(String),
}

impl Part {
    /// `None` when no layout has such a name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        if let Some(head) = name.strip_prefix("remasking_head.") {
            return Some(Self::Head(head.to_owned()));
        }
        if ["norm.", "proj1.", "proj2."].iter().any(|part| name.starts_with(part)) {
            return Some(Self::Head(name.to_owned()));
        }
        let name = name.strip_prefix("backbone.").unwrap_or(name);
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
        let of =
            |infix: &str| name.strip_suffix(".weight")?.strip_suffix(infix).map(|module| format!("{module}.weight"));
        match name.strip_prefix("model.transformer.") {
            None => None,
            Some(_) => of(".lora_A")
                .or_else(|| of(".lora_A.default"))
                .map(Self::LoraA)
                .or_else(|| of(".lora_B").or_else(|| of(".lora_B.default")).map(Self::LoraB))
                .or_else(|| Some(Self::Backbone(of(".base_layer").unwrap_or_else(|| name.to_owned())))),
        }
    }
}

/// Where a tensor is.
struct Home {
    file: usize,
    name: String,
    shape: Vec<usize>,
}

/// The tensors of one model, not loaded yet.
pub(crate) struct Weights {
    files: Vec<TensorFile>,
    homes: BTreeMap<Part, Home>,
    recipe: Recipe,
    device: Device,
    dtype: DType,
}

impl Weights {
    /// Sorts the tensors of `files` and checks that they are those of `config`, no fewer and no more.
    ///
    /// # Errors
    /// When a tensor is missing, there twice, of another shape, or has no place in the model.
    pub(crate) fn of(
        config: &Config,
        files: Vec<TensorFile>,
        recipe: Recipe,
        device: Device,
    ) -> Result<Self, LoadError> {
        let mut weights = Self { files, homes: BTreeMap::new(), recipe, device, dtype: DType::F32 };
        weights.sort()?;
        let backbone: BTreeMap<String, Vec<usize>> = config.tensors().collect();
        weights.check_backbone(config, &backbone)?;
        weights.check_adapters(&backbone)?;
        weights.check_head(config)?;
        Ok(weights)
    }

    /// The same, the backbone's weights handed out in these numbers instead of f32.
    pub(crate) fn computed_in(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// Whether there is a quality head.
    pub(crate) fn has_head(&self) -> bool {
        self.homes.keys().any(|part| matches!(part, Part::Head(_)))
    }

    /// Whether there are adapters to fold in.
    pub(crate) fn has_adapters(&self) -> bool {
        self.homes.keys().any(|part| matches!(part, Part::LoraA(_)))
    }

    /// The number format in which most weights are held: as they are stored where that takes fewer bits than a float, else what
    /// is computed in.
    pub(crate) fn format(&self) -> String {
        self.files.iter().find_map(TensorFile::format).unwrap_or_else(|| self.dtype.as_str().to_owned())
    }

    /// Numbers in the model once adapters are folded in.
    pub(crate) fn parameters(&self) -> u64 {
        let kept = self.homes.iter().filter(|(part, _)| matches!(part, Part::Backbone(_) | Part::Head(_)));
        kept.map(|(_, home)| home.shape.iter().product::<usize>() as u64).sum()
    }

    /// Loads a backbone weight, its adapter folded in before anything is rounded.
    pub(crate) fn backbone(&self, name: &str) -> Result<Tensor, LoadError> {
        let weight = self.load(&Part::Backbone(name.to_owned()))?;
        let (a, b) = (Part::LoraA(name.to_owned()), Part::LoraB(name.to_owned()));
        let weight = match self.homes.contains_key(&a) {
            false => weight,
            true => lora::fold(&weight, &self.load(&a)?, &self.load(&b)?, self.recipe.scale)?,
        };
        Ok(weight.to_dtype(self.dtype)?)
    }

    /// Loads a matrix of the backbone to multiply with: as it is stored where that takes fewer bits than a float, else in f32,
    /// its adapter folded in.
    pub(crate) fn linear(&self, name: &str) -> Result<Linear, LoadError> {
        match self.quantised(name)? {
            Some(weight) => Ok(Linear::quantised(weight)?),
            None => Ok(Linear::new(&self.backbone(name)?)?),
        }
    }

    /// Loads a matrix of the backbone to take rows from, likewise.
    pub(crate) fn embedding(&self, name: &str) -> Result<Embedding, LoadError> {
        match self.quantised(name)? {
            Some(weight) => Ok(Embedding::Quantised(weight)),
            None => Ok(Embedding::Full(self.backbone(name)?)),
        }
    }

    fn quantised(&self, name: &str) -> Result<Option<Arc<QTensor>>, LoadError> {
        let is_adapted = self.homes.contains_key(&Part::LoraA(name.to_owned())); // then it is folded in, in f32
        match self.homes.get(&Part::Backbone(name.to_owned())) {
            Some(home) if !is_adapted => Ok(self.files[home.file].quantised(&home.name, &self.device)?.map(Arc::new)),
            Some(_) | None => Ok(None),
        }
    }

    /// Loads a tensor of the quality head, in f32.
    pub(crate) fn head(&self, name: &str) -> Result<Tensor, LoadError> {
        self.load(&Part::Head(name.to_owned()))
    }

    /// A name for the base model's weights, adapters left out: the SHA-256 of every gain and of one matrix, in f32. Models
    /// that were trained apart differ in these, and an 8B model's are read in a moment.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub(crate) fn fingerprint(&self) -> Result<String, LoadError> {
        const MATRIX: &str = "model.transformer.blocks.0.attn_out.weight";
        if let Some(told) = self.files.iter().find_map(|file| file.words.get(FINGERPRINT)) {
            return Ok(told.clone()); // quantised weights are not what the head was made for to the bit
        }
        let mut hash = Sha256::new();
        for (part, home) in &self.homes {
            match part {
                Part::Backbone(name) if home.shape.len() == 1 || name == MATRIX => {
                    let numbers = self.load(part)?.flatten_all()?.to_vec1::<f32>()?;
                    hash.update(name.as_bytes());
                    numbers.into_iter().for_each(|number| hash.update(number.to_le_bytes()));
                }
                Part::Backbone(_) | Part::LoraA(_) | Part::LoraB(_) | Part::Head(_) => {}
            }
        }
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Refuses a head that its file says was made for other weights.
    ///
    /// # Errors
    /// When it was.
    pub(crate) fn check_base(&self) -> Result<(), LoadError> {
        let head = self.homes.iter().find(|(part, _)| matches!(part, Part::Head(_)));
        let file = head.map(|(_, home)| &self.files[home.file]);
        let Some((file, made_for)) = file.and_then(|file| Some((&file.name, file.words.get(BASE)?))) else {
            return Ok(());
        };
        let found = self.fingerprint()?;
        if found == *made_for {
            return Ok(());
        }
        Err(LoadError::WrongBase { file: file.clone(), made_for: made_for.clone(), found })
    }

    fn load(&self, part: &Part) -> Result<Tensor, LoadError> {
        match self.homes.get(part) {
            Some(home) => self.files[home.file].load(&home.name, &self.device),
            None => Err(self.missing(part)),
        }
    }

    fn sort(&mut self) -> Result<(), LoadError> {
        for (index, file) in self.files.iter().enumerate() {
            for (name, shape) in &file.shapes {
                let stray =
                    |problem: String| LoadError::StrayTensor { file: file.name.clone(), tensor: name.clone(), problem };
                let part = Part::of(name).ok_or_else(|| stray("belongs to no LLaDA model, adapter or head".into()))?;
                let home = Home { file: index, name: name.clone(), shape: shape.clone() };
                if let Some(other) = self.homes.insert(part, home) {
                    let other = &self.files[other.file].name;
                    return Err(stray(format!("is in {other} as well; give one of the two")));
                }
            }
        }
        Ok(())
    }

    fn check_backbone(&self, config: &Config, backbone: &BTreeMap<String, Vec<usize>>) -> Result<(), LoadError> {
        for (name, shape) in backbone {
            self.check_shape(&Part::Backbone(name.clone()), shape)?;
        }
        for (part, home) in &self.homes {
            match part {
                // a copy of the embedding that some tools write out
                Part::Backbone(name) if config.weight_tying && name == "model.transformer.ff_out.weight" => {}
                Part::Backbone(name) if !backbone.contains_key(name) => {
                    return Err(self.stray(home, "has no place in the model that config.json describes"));
                }
                Part::Backbone(_) | Part::LoraA(_) | Part::LoraB(_) | Part::Head(_) => {}
            }
        }
        Ok(())
    }

    /// Adapters come in pairs, fit a matrix of the backbone, and are those their recipe names.
    fn check_adapters(&self, backbone: &BTreeMap<String, Vec<usize>>) -> Result<(), LoadError> {
        let mut adapted = BTreeSet::new();
        for (part, home) in &self.homes {
            let (Part::LoraA(name) | Part::LoraB(name)) = part else { continue };
            let Some([rows, columns]) = backbone.get(name).map(Vec::as_slice) else {
                return Err(self.stray(home, "adapts no matrix of the model that config.json describes"));
            };
            let module = name.trim_end_matches(".weight").rsplit('.').next().unwrap_or(name);
            if self.recipe.targets.as_ref().is_some_and(|targets| !targets.iter().any(|target| target == module)) {
                return Err(self.stray(home, "adapts a module that adapter_config.json does not list"));
            }
            adapted.insert(module);
            let a = Part::LoraA(name.clone());
            let rank = self.recipe.rank.or_else(|| self.homes.get(&a)?.shape.first().copied()).unwrap_or(0);
            self.check_shape(&a, &[rank, *columns])?;
            self.check_shape(&Part::LoraB(name.clone()), &[*rows, rank])?;
        }
        match self.recipe.targets.iter().flatten().find(|target| !adapted.contains(target.as_str())) {
            None => Ok(()),
            Some(target) => Err(LoadError::Malformed {
                file: self.searched(),
                problem: format!("has no tensors for `{target}`, which adapter_config.json lists as adapted"),
            }),
        }
    }

    fn check_head(&self, config: &Config) -> Result<(), LoadError> {
        if !self.has_head() {
            return Ok(());
        }
        let shapes = head::tensors(config.d_model);
        for (name, shape) in &shapes {
            self.check_shape(&Part::Head((*name).to_owned()), shape)?;
        }
        for (part, home) in &self.homes {
            match part {
                Part::Head(name) if !shapes.iter().any(|(known, _)| known == name) => {
                    return Err(self.stray(home, "has no place in a PRISM head"));
                }
                Part::Head(_) | Part::Backbone(_) | Part::LoraA(_) | Part::LoraB(_) => {}
            }
        }
        Ok(())
    }

    fn check_shape(&self, part: &Part, expected: &[usize]) -> Result<(), LoadError> {
        let home = self.homes.get(part).ok_or_else(|| self.missing(part))?;
        if home.shape == expected {
            return Ok(());
        }
        Err(LoadError::WrongShape {
            file: self.files[home.file].name.clone(),
            tensor: home.name.clone(),
            found: home.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn missing(&self, part: &Part) -> LoadError {
        let tensor = match part {
            Part::Backbone(name) | Part::Head(name) => name.clone(),
            Part::LoraA(name) => name.replace(".weight", ".lora_A.weight"),
            Part::LoraB(name) => name.replace(".weight", ".lora_B.weight"),
        };
        LoadError::MissingTensor { files: self.searched(), tensor }
    }

    fn stray(&self, home: &Home, problem: &str) -> LoadError {
        LoadError::StrayTensor {
            file: self.files[home.file].name.clone(),
            tensor: home.name.clone(),
            problem: problem.to_owned(),
        }
    }

    fn searched(&self) -> String {
        self.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
