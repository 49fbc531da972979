//! Files of named tensors, opened without reading a tensor: names, shapes and number formats come from headers.
//! Refuses to know what a name means.

use crate::model::LoadError;
use crate::model::weights::gguf::read::{FINGERPRINT, Gguf};
use candle_core::pickle::PthTensors;
use candle_core::quantized::QTensor;
use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Tensor};
use rand_philox::Philox;
use rayon::prelude::*;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

/// Standard deviation of random weights, LLaDA's `init_std`.
const RANDOM_STD: f64 = 0.02;
/// Random numbers drawn by one task; a fixed number, so that the weights don't depend on the threads.
const RANDOM_CHUNK: usize = 1 << 14;

/// An open file.
pub(crate) struct TensorFile {
    /// Its path, or what an embedded file is called.
    pub(crate) name: String,
    /// The shape of each tensor.
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    /// What its header says beside names and shapes; only safetensors and GGUF files have such words.
    pub(crate) words: HashMap<String, String>,
    store: Store,
}

enum Store {
    Mapped(MmapedSafetensors),
    Embedded(SliceSafetensors<'static>),
    Pickled(PthTensors),
    Gguf(Box<Gguf>),
    Random(u64),
}

impl TensorFile {
    /// Opens a safetensors file, or a PyTorch or GGUF file by its extension.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        std::fs::File::open(path)
            .map_err(|cause| LoadError::Unreadable { file: name.clone(), cause: cause.to_string() })?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Self::mapped(path, name),
            Some("bin" | "pt" | "pth") => Self::pickled(path, name),
            Some(_) if Gguf::is_named(path) => Self::gguf(Gguf::open(path)?, name),
            Some(_) | None => Err(LoadError::Malformed {
                file: name,
                problem: "is no file of weights by its name; .safetensors, .gguf, .bin, .pt and .pth are".to_owned(),
            }),
        }
    }

    /// The same for a GGUF file that is open already.
    pub(crate) fn gguf(file: Gguf, name: String) -> Result<Self, LoadError> {
        let base = file.text(FINGERPRINT)?.map(|base| (FINGERPRINT.to_owned(), base.to_owned()));
        Ok(Self { name, shapes: file.shapes(), words: base.into_iter().collect(), store: Store::Gguf(Box::new(file)) })
    }

    fn mapped(path: &Path, name: String) -> Result<Self, LoadError> {
        // SAFETY: the map is private to this value, which lives while the weights are copied out of it. Truncating
        // the file meanwhile would kill the process, as it would any program that maps its input.
        #[allow(unsafe_code)]
        let file = unsafe { MmapedSafetensors::new(path) }.map_err(|cause| damaged(&name, &cause))?;
        let tensors = file.tensors();
        let headers = tensors.iter().map(|(tensor, view)| (tensor.clone(), view.dtype(), view.shape().to_vec()));
        let shapes = shapes(headers, &name)?;
        drop(tensors);
        let words =
            words(path).map_err(|cause| LoadError::Unreadable { file: name.clone(), cause: cause.to_string() })?;
        Ok(Self { name, shapes, words, store: Store::Mapped(file) })
    }

    /// The same for a safetensors file that is part of the binary.
    pub(crate) fn embedded(bytes: &'static [u8], name: &str) -> Result<Self, LoadError> {
        let file = SliceSafetensors::new(bytes).map_err(|cause| damaged(name, &cause))?;
        let headers = file.tensors().into_iter().map(|(tensor, view)| (tensor, view.dtype(), view.shape().to_vec()));
        let shapes = shapes(headers, name)?;
        Ok(Self { name: name.to_owned(), shapes, words: HashMap::new(), store: Store::Embedded(file) })
    }

    fn pickled(path: &Path, name: String) -> Result<Self, LoadError> {
        let file = PthTensors::new(path, None).map_err(|cause| damaged(&name, &cause))?;
        let headers = file.tensor_infos().values();
        let headers = headers.map(|info| (info.name.clone(), info.dtype.into(), info.layout.dims().to_vec()));
        let shapes = shapes(headers, &name)?;
        Ok(Self { name, shapes, words: HashMap::new(), store: Store::Pickled(file) })
    }

    /// A file that exists nowhere: normally distributed weights of the given shapes, the same for the same seed.
    pub(crate) fn random(seed: u64, shapes: BTreeMap<String, Vec<usize>>) -> Self {
        let name = format!("random weights of seed {seed}");
        Self { name, shapes, words: HashMap::new(), store: Store::Random(seed) }
    }

    /// Reads a tensor as f32; a vector only where all of its numbers are finite.
    pub(crate) fn load(&self, tensor: &str, device: &Device) -> Result<Tensor, LoadError> {
        let loaded = self.read(tensor, device)?.to_dtype(DType::F32).map_err(|cause| damaged(&self.name, &cause))?;
        // gains and biases are few, and what is wrong with a file mostly shows in them
        let is_finite = loaded.rank() != 1 || loaded.to_vec1::<f32>()?.iter().all(|number| number.is_finite());
        if is_finite {
            return Ok(loaded);
        }
        let problem = format!("is damaged: tensor `{tensor}` holds a number that is not finite");
        Err(LoadError::Malformed { file: self.name.clone(), problem })
    }

    /// The number format of most weights, as `q4_k`, where that takes fewer bits than a float.
    pub(crate) fn format(&self) -> Option<String> {
        match &self.store {
            Store::Gguf(file) => file.format(),
            Store::Mapped(_) | Store::Embedded(_) | Store::Pickled(_) | Store::Random(_) => None,
        }
    }

    /// Reads a tensor that is stored in fewer bits than a float has; `None` where it is not.
    pub(crate) fn quantised(&self, tensor: &str, device: &Device) -> Result<Option<QTensor>, LoadError> {
        match &self.store {
            Store::Gguf(file) if file.is_quantised(tensor) => file.tensor(tensor, device).map(Some),
            Store::Gguf(_) | Store::Mapped(_) | Store::Embedded(_) | Store::Pickled(_) | Store::Random(_) => Ok(None),
        }
    }

    /// Reads a tensor as it is, a quantised one as f32.
    pub(crate) fn read(&self, tensor: &str, device: &Device) -> Result<Tensor, LoadError> {
        let missing = || LoadError::MissingTensor { files: self.name.clone(), tensor: tensor.to_owned() };
        let loaded = match &self.store {
            Store::Mapped(file) => file.load(tensor, device),
            Store::Embedded(file) => file.load(tensor, device),
            Store::Pickled(file) => {
                file.get(tensor).map_err(|cause| damaged(&self.name, &cause))?.ok_or_else(missing)?.contiguous()
            }
            Store::Gguf(file) => file.tensor(tensor, device)?.dequantize(device),
            Store::Random(seed) => {
                let mut tensors = self.shapes.iter().enumerate();
                let (index, (_, shape)) = tensors.find(|(_, (name, _))| *name == tensor).ok_or_else(missing)?;
                // a gain is one give or take, everything else zero give or take
                let centre = if shape.len() == 1 && tensor.ends_with(".weight") { 1.0 } else { 0.0 };
                if device.is_cpu() {
                    let numbers = normals(*seed, index, shape.iter().product());
                    Tensor::from_vec(numbers, shape.as_slice(), device).and_then(|t| t.affine(1.0, centre))
                } else {
                    device
                        .set_seed(*seed ^ ((index as u64) << 32))
                        .and_then(|()| Tensor::randn(centre as f32, RANDOM_STD as f32, shape.as_slice(), device))
                }
            }
        };
        let loaded = loaded.and_then(|tensor| tensor.to_device(device));
        loaded.map_err(|cause| damaged(&self.name, &cause))
    }
}

/// The words in the header of a safetensors file: `__metadata__` of the JSON that follows its length in eight bytes.
fn words(path: &Path) -> std::io::Result<HashMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        words: HashMap<String, String>,
    }
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
    Ok(serde_json::from_slice::<Header>(&header).map(|header| header.words).unwrap_or_default())
}

fn damaged(file: &str, cause: &candle_core::Error) -> LoadError {
    LoadError::Malformed { file: file.to_owned(), problem: format!("is damaged or incomplete: {cause}") }
}

/// Collects headers, provided that every tensor is stored in numbers we read.
fn shapes(
    headers: impl Iterator<Item = (String, Dtype, Vec<usize>)>,
    file: &str,
) -> Result<BTreeMap<String, Vec<usize>>, LoadError> {
    headers
        .map(|(tensor, dtype, shape)| match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok((tensor, shape)),
            other => Err(LoadError::WrongDtype { file: file.to_owned(), tensor, found: format!("{other:?}") }),
        })
        .collect()
}

/// `count` normal numbers for the `index`-th tensor, by the Box-Muller transform.
fn normals(seed: u64, index: usize, count: usize) -> Vec<f32> {
    #[allow(clippy::cast_possible_truncation)] // the two halves of the seed
    let key = [seed as u32, (seed >> 32) as u32];
    let mut numbers = vec![0.0; count];
    numbers.par_chunks_mut(RANDOM_CHUNK).enumerate().for_each(|(chunk, numbers)| {
        let mut philox = Philox::new(key, ((index as u128) << 96) | ((chunk as u128) << 32));
        for pair in numbers.chunks_mut(2) {
            // in (0, 1): half a step above zero
            let [u, v] = [philox.next_u32(), philox.next_u32()].map(|word| (f64::from(word) + 0.5) / 4_294_967_296.0);
            let radius = RANDOM_STD * (-2.0 * u.ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
            for (number, direction) in pair.iter_mut().zip([cos, sin]) {
                #[allow(clippy::cast_possible_truncation)] // the weights are f32
                let value = (radius * direction) as f32;
                *number = value;
            }
        }
    });
    numbers
}
