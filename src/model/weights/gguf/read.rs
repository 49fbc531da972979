//! Reading GGUF files of models of the LLaDA family: one file with sizes, vocabulary and weights,
//! as llama.cpp converts the published checkpoints and `remask quantize` writes them
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

use super::{GENERATION_CONFIG, SHIFT_LOGITS, canonical, header, interleaved, is_shuffled, reordered};
use crate::files;
use crate::model::config::{family::Family, llada::Config};
use crate::model::network::Outputs;
use crate::model::{error::LoadError, error::words};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};
use std::{borrow::Cow, collections::BTreeMap, path::Path};

/// An open file.
pub(crate) struct Gguf {
    name: String,
    content: Content,
    file: Mutex<BufReader<File>>,
    /// Rows of a head, where rows are shuffled.
    shuffled: Option<usize>,
    /// GGUF names by canonical ones.
    names: BTreeMap<String, String>,
}

impl Gguf {
    /// Reads the header of a diffusion model's file.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let mut gguf = Self::of_any_model(path)?;
        let names = gguf.family()?.features().names;
        for theirs in gguf.content.tensor_infos.keys() {
            if gguf.names.insert(canonical(theirs, names), theirs.clone()).is_some() {
                return Err(LoadError::stray(&gguf.name, theirs, "is there a second time under another name"));
            }
        }
        let config = gguf.config()?;
        gguf.shuffled = (config.rope && config.family.features().is_shuffled).then(|| config.head_dim());
        Ok(gguf)
    }

    /// Reads the header of a file, whatever its model is; its tensors have no names here.
    pub(super) fn of_any_model(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let unreadable = |cause: std::io::Error| LoadError::unreadable(&name, &cause);
        let file = files::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut file = BufReader::new(file);
        header::check(&mut file).map_err(|problem| LoadError::malformed(&name, problem))?;
        file.rewind().map_err(unreadable)?;
        let content = Content::read(&mut file).map_err(|cause| {
            LoadError::malformed(&name, format!("is damaged, incomplete or no GGUF file: {}", words(&cause)))
        })?;
        let gguf = Self { name, content, file: Mutex::new(file), shuffled: None, names: BTreeMap::new() };
        gguf.check_length(length)?;
        Ok(gguf)
    }

    /// Finds a file that is cut short now, not when the last tensor is read.
    fn check_length(&self, length: u64) -> Result<(), LoadError> {
        for (name, info) in &self.content.tensor_infos {
            let (shape, format, block) = (info.shape.dims(), info.ggml_dtype, info.ggml_dtype.block_size());
            let numbers = shape.iter().try_fold(1_usize, |numbers, dim| numbers.checked_mul(*dim));
            let bytes = numbers.and_then(|numbers| (numbers / block).checked_mul(format.type_size()));
            let Some(bytes) = bytes.filter(|_| shape.last().is_some_and(|row| row.is_multiple_of(block))) else {
                let problem = format!("is damaged: tensor `{name}` of shape {shape:?} cannot be {format:?}");
                return Err(LoadError::malformed(&self.name, problem));
            };
            let end = self.content.tensor_data_offset.saturating_add(info.offset).saturating_add(bytes as u64);
            if end > length {
                let problem =
                    format!("is incomplete: tensor `{name}` ends at byte {end}, the file at {length}; fetch it again");
                return Err(LoadError::malformed(&self.name, problem));
            }
        }
        Ok(())
    }

    /// The family that the file names.
    fn family(&self) -> Result<Family, LoadError> {
        const KEY: &str = "general.architecture";
        let given = self.text(KEY)?;
        Family::ALL.into_iter().find(|family| given == Some(family.name())).ok_or_else(|| {
            let given = given.map_or_else(|| "missing".to_owned(), |given| format!("{given:?}"));
            let supported = Family::ALL.map(|family| format!("{:?}", family.name())).join(" or ");
            LoadError::unsupported(&self.name, KEY, given, &supported)
        })
    }

    /// The model's sizes and ids, and the defaults that the file contains.
    pub(crate) fn config(&self) -> Result<Config, LoadError> {
        let family = self.family()?;
        let own = |key: &str| format!("{}.{key}", family.name());
        let needed = |key: &str| self.number(key)?.ok_or_else(|| self.wrong(key, "missing"));
        let needed_own = |key: &str| needed(&own(key));
        let shape = |name: &str| self.content.tensor_infos.get(name).map(|info| info.shape.dims().to_vec());
        let (d_model, heads) = (needed_own("embedding_length")?, needed_own("attention.head_count")?);
        if let Some(Value::Bool(true)) = self.content.metadata.get(&own("attention.causal")) {
            return Err(self.wrong(&own("attention.causal"), "true, supported is false"));
        }
        let is_shifted = family.features().outputs == Outputs::Shifted;
        if let Some(Value::Bool(given)) = self.content.metadata.get(SHIFT_LOGITS)
            && *given != is_shifted
        {
            return Err(self.wrong(SHIFT_LOGITS, &format!("{given}, supported is {is_shifted}")));
        }
        let rope = shape("position_embd.weight").is_none();
        let rotated = self.number(&own("rope.dimension_count"))?.filter(|_| rope);
        if let (Some(width), Some(whole)) = (rotated, d_model.checked_div(heads))
            && width != whole
        {
            return Err(self.wrong(&own("rope.dimension_count"), &format!("{width}, supported is {whole}")));
        }
        let rows = shape("token_embd.weight").and_then(|shape| shape.first().copied()).unwrap_or(0);
        let ends = ["eos", "eot"].map(|end| self.number(&format!("tokenizer.ggml.{end}_token_id")));
        let ends = ends.into_iter().collect::<Result<Vec<_>, _>>()?;
        let keys = json!({
            "model_type": "llada", "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu",
            "d_model": d_model,
            "n_layers": needed_own("block_count")?,
            "n_heads": heads,
            "n_kv_heads": self.number(&own("attention.head_count_kv"))?,
            "mlp_hidden_size": needed_own("feed_forward_length")?,
            "max_sequence_length": needed_own("context_length")?,
            "vocab_size": self.number(&own("vocab_size"))?.unwrap_or(rows as u64),
            "embedding_size": rows,
            "rope": rope,
            "rope_theta": self.float(&own("rope.freq_base"))?,
            "rms_norm_eps": self.float(&own("attention.layer_norm_rms_epsilon"))?,
            "weight_tying": shape("output.weight").is_none(),
            "mask_token_id": needed("tokenizer.ggml.mask_token_id")?,
            "eos_token_id": ends.into_iter().flatten().collect::<Vec<_>>(),
            "pad_token_id": self.number("tokenizer.ggml.padding_token_id")?,
        });
        let config = Config::parse_as(family, keys.to_string().as_bytes(), &self.name)?;
        match self.text(GENERATION_CONFIG)? {
            None => Ok(config),
            Some(text) => config.parse_generation(text.as_bytes(), &format!("{}: {GENERATION_CONFIG}", self.name)),
        }
    }

    /// The shape of each tensor by its canonical name.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |theirs: &String| self.content.tensor_infos[theirs].shape.dims().to_vec();
        self.names.iter().map(|(ours, theirs)| (ours.clone(), shape(theirs))).collect()
    }

    fn info(&self, canonical: &str) -> Option<&TensorInfo> {
        self.content.tensor_infos.get(self.names.get(canonical)?)
    }

    /// Whether a tensor is stored in fewer bits than a float.
    pub(crate) fn is_quantised(&self, canonical: &str) -> bool {
        self.info(canonical)
            .is_some_and(|info| !matches!(info.ggml_dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16))
    }

    /// The number format of most weights, as `q4_k`, where it has fewer bits than a float.
    pub(crate) fn format(&self) -> Option<String> {
        let mut weights: BTreeMap<String, usize> = BTreeMap::new();
        for info in self.names.keys().filter(|name| self.is_quantised(name)).filter_map(|name| self.info(name)) {
            *weights.entry(format!("{:?}", info.ggml_dtype).to_lowercase()).or_default() += info.shape.elem_count();
        }
        weights.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format)
    }

    /// Reads a tensor as it is stored, its rows in the order of the checkpoint.
    pub(crate) fn tensor(&self, canonical: &str, device: &Device) -> Result<QTensor, LoadError> {
        let missing = || LoadError::MissingTensor { files: self.name.clone(), tensor: canonical.to_owned() };
        let info = self.info(canonical).ok_or_else(missing)?;
        let (format, shape) = (info.ggml_dtype, info.shape.dims().to_vec());
        let mut bytes = vec![0; info.shape.elem_count() / format.block_size() * format.type_size()];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = SeekFrom::Start(self.content.tensor_data_offset + info.offset);
        file.seek(start)
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|cause| LoadError::unreadable(&self.name, &cause))?;
        drop(file);
        if let (Some(width), [rows, _], true) = (self.shuffled, shape.as_slice(), is_shuffled(canonical)) {
            bytes = reordered(&bytes, *rows, |row| interleaved(row, width));
        }
        Ok(QTensor::new(QStorage::from_data(Cow::Owned(bytes), device, format)?, shape)?)
    }

    /// Reads some rows of a tensor in f32, and the format they are stored in. A vector is one row.
    pub(crate) fn rows(&self, canonical: &str, rows: &[usize]) -> Result<(Vec<Vec<f32>>, GgmlDType), LoadError> {
        let missing = || LoadError::MissingTensor { files: self.name.clone(), tensor: canonical.to_owned() };
        let info = self.info(canonical).ok_or_else(missing)?;
        let (format, shape) = (info.ggml_dtype, info.shape.dims());
        let width = shape.last().copied().unwrap_or(0);
        let bytes = width / format.block_size() * format.type_size();
        let read = |row: &usize| {
            let row = match self.shuffled {
                Some(width) if is_shuffled(canonical) => interleaved(*row, width),
                _ => *row,
            };
            let mut row_bytes = vec![0; bytes];
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let start = self.content.tensor_data_offset + info.offset + (row * bytes) as u64;
            file.seek(SeekFrom::Start(start))
                .and_then(|_| file.read_exact(&mut row_bytes))
                .map_err(|cause| LoadError::unreadable(&self.name, &cause))?;
            let row = QTensor::new(QStorage::from_data(Cow::Owned(row_bytes), &Device::Cpu, format)?, width)?;
            Ok(row.dequantize(&Device::Cpu)?.to_vec1::<f32>()?)
        };
        Ok((rows.iter().map(read).collect::<Result<_, LoadError>>()?, format))
    }

    /// The string of a key; `None` without the key.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.value(key, "no text", |value| value.to_string().ok().map(String::as_str))
    }

    /// The list of a key, each value through `take`; `None` without the key.
    pub(crate) fn list<T>(&self, key: &str, take: fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, LoadError> {
        let Some(values) = self.value(key, "no list", |value| value.to_vec().ok())? else { return Ok(None) };
        let taken = values.iter().map(take).collect::<Option<Vec<T>>>();
        taken.map(Some).ok_or_else(|| self.wrong(key, "a list of something else"))
    }

    /// The whole number of a key; `None` without the key.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, LoadError> {
        self.value(key, "no whole number", whole)
    }

    fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.value(key, "no f32", |value| value.to_f32().ok())
    }

    /// The value of a key through `take`, which answers `None` where it is `wrong`.
    fn value<'a, T>(
        &'a self,
        key: &str,
        wrong: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let value = self.content.metadata.get(key);
        value.map(|value| take(value).ok_or_else(|| self.wrong(key, wrong))).transpose()
    }

    /// Checks that the string of a key is `text`, the only one that is `supported`.
    pub(super) fn require(&self, key: &str, text: &str, supported: &str) -> Result<(), LoadError> {
        match self.text(key)? {
            Some(given) if given == text => Ok(()),
            given => {
                let given = given.map_or_else(|| "missing".to_owned(), |given| format!("{given:?}"));
                Err(LoadError::unsupported(&self.name, key, given, supported))
            }
        }
    }

    fn wrong(&self, key: &str, what: &str) -> LoadError {
        LoadError::malformed(&self.name, format!("says `{key}` is {what}"))
    }
}

/// A whole number of any type that is not negative.
pub(super) fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::I32(number) => u64::try_from(*number).ok(),
        Value::I64(number) => u64::try_from(*number).ok(),
        value => value.to_u64().ok(),
    }
}
