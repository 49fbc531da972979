//! Reading GGUF files of LLaDA models: one file with sizes, vocabulary and weights, quantised or
//! not, as llama.cpp converts the published checkpoints and `remask quantize` writes them
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). The header is read first, tensors
//! one by one.

use super::names::{ARCHITECTURE, GENERATION_CONFIG, canonical, interleaved, is_shuffled, reordered};
use crate::model::config::llada::Config;
use crate::model::error::LoadError;
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

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
    /// Whether the path has the extension of a GGUF file.
    pub(crate) fn is_named(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When the file is missing, damaged, incomplete or of another architecture.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let unreadable = |cause: std::io::Error| LoadError::unreadable(&name, &cause);
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file)
            .map_err(|cause| LoadError::malformed(&name, format!("is damaged, incomplete or no GGUF file: {cause}")))?;
        let names = content.tensor_infos.keys().map(|theirs| (canonical(theirs), theirs.clone())).collect();
        let mut gguf = Self { name, content, file: Mutex::new(file), shuffled: None, names };
        match gguf.text("general.architecture")? {
            Some(ARCHITECTURE) => {}
            found => {
                let given = found.map_or_else(|| "missing".to_owned(), |found| format!("{found:?}"));
                let (key, supported) = ("general.architecture".to_owned(), format!("{ARCHITECTURE:?}"));
                return Err(LoadError::Unsupported { file: gguf.name.clone(), key, given, supported });
            }
        }
        gguf.check_length(length)?;
        let config = gguf.config()?;
        gguf.shuffled = config.rope.then(|| config.head_dim());
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

    /// The model's sizes and ids, and the defaults that the file contains.
    ///
    /// # Errors
    /// When a key is missing, of another type, or has a value that is not supported.
    pub(crate) fn config(&self) -> Result<Config, LoadError> {
        let own = |key: &str| format!("{ARCHITECTURE}.{key}");
        let needed = |key: &str| {
            let key = own(key);
            self.number(&key)?.ok_or_else(|| self.wrong(&key, "missing"))
        };
        let shape = |name: &str| self.content.tensor_infos.get(name).map(|info| info.shape.dims().to_vec());
        let (d_model, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
        if let Some(Value::Bool(true)) = self.content.metadata.get(&own("attention.causal")) {
            return Err(self.wrong(&own("attention.causal"), "true, supported is false"));
        }
        let rope = shape("position_embd.weight").is_none();
        match self.number(&own("rope.dimension_count"))? {
            Some(width) if rope && heads > 0 && width != d_model / heads => {
                let whole = d_model / heads;
                return Err(self.wrong(&own("rope.dimension_count"), &format!("{width}, supported is {whole}")));
            }
            Some(_) | None => {}
        }
        let rows = shape("token_embd.weight").and_then(|shape| shape.first().copied()).unwrap_or(0);
        let ends = ["eos", "eot"].map(|end| self.number(&format!("tokenizer.ggml.{end}_token_id")));
        let ends = ends.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mask = "tokenizer.ggml.mask_token_id";
        let keys = json!({
            "model_type": "llada", "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu",
            "d_model": d_model,
            "n_layers": needed("block_count")?,
            "n_heads": heads,
            "n_kv_heads": self.number(&own("attention.head_count_kv"))?,
            "mlp_hidden_size": needed("feed_forward_length")?,
            "max_sequence_length": needed("context_length")?,
            "vocab_size": self.number(&own("vocab_size"))?.unwrap_or(rows as u64),
            "embedding_size": rows,
            "rope": rope,
            "rope_theta": self.float(&own("rope.freq_base"))?,
            "rms_norm_eps": self.float(&own("attention.layer_norm_rms_epsilon"))?,
            "weight_tying": shape("output.weight").is_none(),
            "mask_token_id": self.number(mask)?.ok_or_else(|| self.wrong(mask, "missing"))?,
            "eos_token_id": ends.into_iter().flatten().collect::<Vec<_>>(),
            "pad_token_id": self.number("tokenizer.ggml.padding_token_id")?,
        });
        let config = Config::parse(keys.to_string().as_bytes(), &self.name)?;
        match self.text(GENERATION_CONFIG)? {
            None => Ok(config),
            Some(text) => config.parse_generation(text.as_bytes(), &format!("{}: {GENERATION_CONFIG}", self.name)),
        }
    }

    /// The shape of each tensor by its canonical name.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |(ours, theirs): (&String, &String)| (ours.clone(), self.content.tensor_infos[theirs].shape.dims());
        self.names.iter().map(shape).map(|(name, shape)| (name, shape.to_vec())).collect()
    }

    /// Whether a tensor is stored in fewer bits than a float.
    pub(crate) fn is_quantised(&self, canonical: &str) -> bool {
        let info = self.names.get(canonical).and_then(|theirs| self.content.tensor_infos.get(theirs));
        info.is_some_and(|info| !matches!(info.ggml_dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16))
    }

    /// The number format of most weights, as `q4_k`, where it has fewer bits than a float.
    pub(crate) fn format(&self) -> Option<String> {
        let mut weights: BTreeMap<String, usize> = BTreeMap::new();
        for (_, theirs) in self.names.iter().filter(|(ours, _)| self.is_quantised(ours)) {
            let info = &self.content.tensor_infos[theirs];
            *weights.entry(format!("{:?}", info.ggml_dtype).to_lowercase()).or_default() += info.shape.elem_count();
        }
        weights.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format)
    }

    /// Reads a tensor as it is stored, its rows in the order of the checkpoint.
    ///
    /// # Errors
    /// When there is no tensor of this name, or the file cannot be read.
    pub(crate) fn tensor(&self, canonical: &str, device: &Device) -> Result<QTensor, LoadError> {
        let missing = || LoadError::MissingTensor { files: self.name.clone(), tensor: canonical.to_owned() };
        let info = self.names.get(canonical).and_then(|theirs| self.content.tensor_infos.get(theirs));
        let info = info.ok_or_else(missing)?;
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

    /// The string of a key; `None` without the key.
    ///
    /// # Errors
    /// When the value is no string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "no text")),
        }
    }

    /// The list of a key, each value through `take`; `None` without the key.
    ///
    /// # Errors
    /// When the value is no list, or `take` rejects one of its values.
    pub(crate) fn list<T>(&self, key: &str, take: fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let taken = values.iter().map(take).collect::<Option<Vec<T>>>();
                taken.map(Some).ok_or_else(|| self.wrong(key, "a list of something else"))
            }
            Some(_) => Err(self.wrong(key, "no list")),
        }
    }

    /// The whole number of a key; `None` without the key.
    ///
    /// # Errors
    /// When the value is something else.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::I32(number)) if *number >= 0 => Ok(Some(u64::from(number.unsigned_abs()))),
            Some(Value::I64(number)) if *number >= 0 => Ok(Some(number.unsigned_abs())),
            Some(value) => value.to_u64().map(Some).map_err(|_| self.wrong(key, "no whole number")),
        }
    }

    fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(value) => value.to_f32().map(Some).map_err(|_| self.wrong(key, "no f32")),
        }
    }

    fn wrong(&self, key: &str, what: &str) -> LoadError {
        LoadError::malformed(&self.name, format!("says `{key}` is {what}"))
    }
}
