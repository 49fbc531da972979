//! Files of named tensors, of which only the header is read until a tensor is asked for.

use super::gguf::{FINGERPRINT, HEAD_BASE, HEAD_LAYER, HEAD_WEIGHTS, JUDGED as GGUF_JUDGED, read::Gguf};
use crate::files;
use crate::model::backend::{Backend, Normal, cpu::Cpu};
use crate::model::error::{LoadError, words};
use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use candle_core::{
    DType, Device, Tensor,
    pickle::PthTensors,
    quantized::{GgmlDType, QTensor},
};
use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::{fmt, io::Read, panic::catch_unwind, path::Path};

/// The key in the header of a head's file for the tokens that it was trained to judge.
pub(crate) const JUDGED: &str = "judged";
/// The key for the number of the block, counted from 1, whose states the head reads, where it is
/// not the last one.
pub(crate) const LAYER: &str = "layer";
/// The key for the fingerprint of the weights that the head was made for.
pub(crate) const BASE: &str = "base";
/// The key for numbers of these weights.
pub(crate) const SAMPLES: &str = "weights";
/// Entries of a header, as a GGUF file calls them and as others do.
pub(crate) const GGUF_ENTRIES: [(&str, &str); 5] = [
    (FINGERPRINT, FINGERPRINT),
    (GGUF_JUDGED, JUDGED),
    (HEAD_LAYER, LAYER),
    (HEAD_BASE, BASE),
    (HEAD_WEIGHTS, SAMPLES),
];
/// Standard deviation of random weights, LLaDA's `init_std`.
const RANDOM_STD: f64 = 0.02;

/// An open file.
pub(crate) struct TensorFile {
    /// Its path, or the name of an embedded file.
    pub(crate) name: String,
    /// The shape of each tensor.
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    /// Other entries of its header, which only safetensors and GGUF files have.
    pub(crate) metadata: HashMap<String, String>,
    store: Store,
}

enum Store {
    Mapped(MmapedSafetensors),
    Embedded(SliceSafetensors<'static>),
    Pickled(PthTensors),
    Gguf(Box<Gguf>),
    Random(u64),
}

/// Whether this is a GGUF file, by its name.
pub(crate) fn is_gguf(path: &Path) -> bool {
    !path.is_dir() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

impl TensorFile {
    /// Opens a safetensors file, or a PyTorch or GGUF file by its extension.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        files::open(path).map_err(|cause| LoadError::unreadable(&name, &cause))?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Self::mapped(path, name),
            Some("bin" | "pt" | "pth") => Self::pickled(path, name),
            Some(_) if is_gguf(path) => Self::gguf(Gguf::open(path)?, name),
            Some(_) | None => {
                let problem = "is no file of weights by its name; .safetensors, .gguf, .bin, .pt and .pth are";
                Err(LoadError::malformed(&name, problem))
            }
        }
    }

    /// The same for a GGUF file that is open already.
    pub(crate) fn gguf(file: Gguf, name: String) -> Result<Self, LoadError> {
        let mut metadata = HashMap::new();
        for (key, name) in GGUF_ENTRIES {
            metadata.extend(file.text(key)?.map(|text| (name.to_owned(), text.to_owned())));
        }
        Ok(Self { name, shapes: file.shapes(), metadata, store: Store::Gguf(Box::new(file)) })
    }

    fn mapped(path: &Path, name: String) -> Result<Self, LoadError> {
        let header = files::open(path).map_err(|cause| LoadError::unreadable(&name, &cause)).and_then(|file| {
            let what = "is damaged or incomplete";
            Header::read(file).map_err(|problem| LoadError::malformed(&name, format!("{what}: {problem}")))
        })?;
        // SAFETY: the map is private to this value, which lives while weights are copied out of it.
        // Truncating the file meanwhile kills the process, as any program that maps its input.
        #[allow(unsafe_code)]
        let file = unsafe { MmapedSafetensors::new(path) }.map_err(|cause| damaged(&name, &cause))?;
        let tensors = file.tensors();
        let headers = tensors.iter().map(|(tensor, view)| (tensor.clone(), view.dtype(), view.shape().to_vec()));
        let shapes = shapes(headers, &name)?;
        drop(tensors);
        Ok(Self { name, shapes, metadata: header.metadata, store: Store::Mapped(file) })
    }

    /// The same for a safetensors file that is part of the binary.
    pub(crate) fn embedded(bytes: &'static [u8], name: &str) -> Result<Self, LoadError> {
        let file = SliceSafetensors::new(bytes).map_err(|cause| damaged(name, &cause))?;
        let headers = file.tensors().into_iter().map(|(tensor, view)| (tensor, view.dtype(), view.shape().to_vec()));
        let shapes = shapes(headers, name)?;
        let header = Header::read(bytes).map_err(|problem| LoadError::malformed(name, problem))?;
        Ok(Self { name: name.to_owned(), shapes, metadata: header.metadata, store: Store::Embedded(file) })
    }

    fn pickled(path: &Path, name: String) -> Result<Self, LoadError> {
        // candle's reader panics at some damaged files
        let read = catch_unwind(|| PthTensors::new(path, None));
        let panicked = |_| LoadError::malformed(&name, "is damaged: its pickle has other parts than those of tensors");
        let file = read.map_err(panicked)?.map_err(|cause| damaged(&name, &cause))?;
        let headers = file.tensor_infos().values();
        let headers = headers.map(|info| (info.name.clone(), info.dtype.into(), info.layout.dims().to_vec()));
        let shapes = shapes(headers, &name)?;
        Ok(Self { name, shapes, metadata: HashMap::new(), store: Store::Pickled(file) })
    }

    /// No file on disk: normally distributed weights, the same for the same seed.
    pub(crate) fn random(seed: u64, shapes: BTreeMap<String, Vec<usize>>) -> Self {
        let name = format!("random weights of seed {seed}");
        Self { name, shapes, metadata: HashMap::new(), store: Store::Random(seed) }
    }

    /// Whether its numbers are random.
    pub(crate) const fn is_random(&self) -> bool {
        matches!(self.store, Store::Random(_))
    }

    /// Reads a tensor as f32.
    pub(crate) fn load(&self, tensor: &str, backend: &dyn Backend) -> Result<Tensor, LoadError> {
        let loaded = self.read(tensor, backend)?.to_dtype(DType::F32).map_err(|cause| damaged(&self.name, &cause))?;
        // gains and biases are few, and most damage of a file shows in them
        let is_finite = loaded.rank() != 1 || loaded.to_vec1::<f32>()?.iter().all(|number| number.is_finite());
        if is_finite {
            return Ok(loaded);
        }
        let problem = format!("is damaged: tensor `{tensor}` holds a number that is not finite");
        Err(LoadError::malformed(&self.name, problem))
    }

    /// The number format of most weights, as `q4_k`, where it has fewer bits than a float.
    pub(crate) fn format(&self) -> Option<String> {
        self.gguf_file()?.format()
    }

    /// Whether a tensor is stored in fewer bits than a float.
    pub(crate) fn is_quantised(&self, tensor: &str) -> bool {
        self.gguf_file().is_some_and(|file| file.is_quantised(tensor))
    }

    /// Reads a tensor that is stored in fewer bits than a float; `None` where it is not.
    pub(crate) fn quantised(&self, tensor: &str, device: &Device) -> Result<Option<QTensor>, LoadError> {
        let file = self.gguf_file().filter(|_| self.is_quantised(tensor));
        file.map(|file| file.tensor(tensor, device)).transpose()
    }

    /// Reads some rows of a tensor in f32, and the format they are stored in. A vector is one row.
    pub(crate) fn rows(&self, tensor: &str, rows: &[usize]) -> Result<(Vec<Vec<f32>>, GgmlDType), LoadError> {
        let damaged = |cause: candle_core::Error| damaged(&self.name, &cause);
        let view = match &self.store {
            Store::Gguf(file) => return file.rows(tensor, rows),
            Store::Mapped(file) => file.get(tensor).map_err(damaged)?,
            Store::Embedded(file) => file.get(tensor).map_err(damaged)?,
            Store::Pickled(_) | Store::Random(_) => {
                let loaded = self.load(tensor, &Cpu)?;
                let matrix = if loaded.rank() == 1 { loaded.unsqueeze(0)? } else { loaded };
                let row = |row: &usize| Ok(matrix.get(*row)?.to_vec1::<f32>()?);
                return Ok((rows.iter().map(row).collect::<Result<_, LoadError>>()?, GgmlDType::F32));
            }
        };
        let width = view.shape().last().copied().unwrap_or(0);
        let (format, size) = match view.dtype() {
            Dtype::F16 => (GgmlDType::F16, 2),
            Dtype::BF16 => (GgmlDType::BF16, 2),
            _ => (GgmlDType::F32, 4), // others are not opened
        };
        let number = |bytes: &[u8]| match (format, bytes) {
            (GgmlDType::F16, [a, b]) => half::f16::from_le_bytes([*a, *b]).to_f32(),
            (GgmlDType::BF16, [a, b]) => half::bf16::from_le_bytes([*a, *b]).to_f32(),
            (_, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            _ => f32::NAN,
        };
        let row = |row: &usize| {
            let bytes = view.data().get(row * width * size..(row + 1) * width * size).unwrap_or_default();
            bytes.chunks_exact(size).map(number).collect::<Vec<_>>()
        };
        Ok((rows.iter().map(row).collect(), format))
    }

    fn gguf_file(&self) -> Option<&Gguf> {
        if let Store::Gguf(file) = &self.store { Some(file) } else { None }
    }

    /// Reads a tensor as it is, a quantised one as f32.
    pub(crate) fn read(&self, tensor: &str, backend: &dyn Backend) -> Result<Tensor, LoadError> {
        let missing = || LoadError::MissingTensor { files: self.name.clone(), tensor: tensor.to_owned() };
        let device = &backend.device();
        let loaded = match &self.store {
            Store::Mapped(file) => file.load(tensor, device),
            Store::Embedded(file) => file.load(tensor, device),
            Store::Pickled(file) => {
                file.get(tensor).map_err(|cause| damaged(&self.name, &cause))?.ok_or_else(missing)?.contiguous()
            }
            Store::Gguf(file) => file.tensor(tensor, device)?.dequantize(device),
            Store::Random(seed) => {
                let mut tensors = self.shapes.iter().enumerate();
                let (stream, (_, shape)) = tensors.find(|(_, (name, _))| *name == tensor).ok_or_else(missing)?;
                // gains are near 1, all other weights near 0
                let mean = if shape.len() == 1 && tensor.ends_with(".weight") { 1.0 } else { 0.0 };
                backend.normal(Normal { seed: *seed, stream, mean, deviation: RANDOM_STD }, shape)
            }
        };
        let loaded = loaded.and_then(|tensor| tensor.to_device(device));
        loaded.map_err(|cause| damaged(&self.name, &cause))
    }
}

/// The header of a safetensors file: JSON that follows its length in eight bytes.
#[derive(Default)]
struct Header {
    /// The entries that are no tensors.
    metadata: HashMap<String, String>,
    /// A name that is there twice.
    twice: Option<String>,
}

impl Header {
    /// Reads it; the error says what is wrong.
    fn read(mut file: impl Read) -> Result<Self, String> {
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|cause| cause.to_string())?;
        let length = u64::from_le_bytes(length);
        if length > files::CONFIG_MAX {
            return Err(format!("its header has {length} bytes, at most {} are allowed", files::CONFIG_MAX));
        }
        let mut json = Vec::new();
        file.take(length).read_to_end(&mut json).map_err(|cause| cause.to_string())?;
        let header: Self = serde_json::from_slice(&json).map_err(|cause| format!("its header is no JSON: {cause}"))?;
        match header.twice {
            None => Ok(header),
            Some(name) => Err(format!("`{name}` is in its header twice")),
        }
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Header, A::Error> {
                let (mut header, mut names) = (Header::default(), BTreeSet::new());
                while let Some(name) = entries.next_key::<String>()? {
                    match name.as_str() {
                        "__metadata__" => header.metadata = entries.next_value()?,
                        _ => drop(entries.next_value::<IgnoredAny>()?),
                    }
                    if !names.insert(name.clone()) {
                        header.twice = Some(name);
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn damaged(file: &str, cause: &candle_core::Error) -> LoadError {
    LoadError::malformed(file, format!("is damaged or incomplete: {}", words(cause)))
}

/// Collects headers; an error where a number format is not supported.
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
