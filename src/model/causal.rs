//! Autoregressive models, which write from left to right: how probable a text is to another model.
//! Their networks are those of `candle-transformers`. Out of scope: writing with them.

use super::config::strict;
use super::device::{CudaGraphs, Device, Precision, backend};
use super::error::{LoadError, ModelError};
use super::weights::directory::model_files;
use candle_core::quantized::gguf_file;
use candle_core::{D, DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, quantized_llama, quantized_qwen2, quantized_qwen3, qwen2, qwen3};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;

/// An autoregressive model on a device.
pub struct Causal {
    network: Network,
    device: candle_core::Device,
    /// Tokens of a text at most, if its configuration says.
    length_max: usize,
    /// The token that texts begin with, if it has one.
    begin: Option<u32>,
    /// Tokens that it knows.
    vocabulary: u64,
}

/// A network of one of the families. Each returns the logits of the token after the last one.
enum Network {
    Llama { model: Box<llama::Llama>, config: Box<llama::Config>, cache: Box<llama::Cache>, dtype: DType },
    Mistral(Box<mistral::Model>),
    Qwen2(Box<qwen2::ModelForCausalLM>),
    Qwen3(Box<qwen3::ModelForCausalLM>),
    GgufLlama(Box<quantized_llama::ModelWeights>),
    GgufQwen2(Box<quantized_qwen2::ModelWeights>),
    GgufQwen3(Box<quantized_qwen3::ModelWeights>),
}

/// The families that are known: `model_type` in a config.json, the architecture of a GGUF file.
const FAMILIES: &str = "\"llama\", \"mistral\", \"qwen2\" or \"qwen3\"";
const GGUF_FAMILIES: &str = "\"llama\", \"qwen2\" or \"qwen3\"";
/// Tokens of a text whose model does not say how many it takes.
const LENGTH_MAX: usize = 4096;

impl Causal {
    /// Loads the model in a directory as on the Hugging Face hub (config.json and safetensors), or
    /// in a GGUF file, onto a device; safetensors are computed in bf16 on a GPU, in f32 on a CPU.
    ///
    /// # Errors
    /// When a file is missing or damaged, the family is not known, or the device does not exist.
    pub fn load(path: &Path, device: Device) -> Result<Self, LoadError> {
        let (device, _) = device.open()?;
        if path.is_dir() { Self::from_dir(path, device) } else { Self::from_gguf(path, device) }
    }

    fn from_dir(dir: &Path, device: candle_core::Device) -> Result<Self, LoadError> {
        let (keys, file) = strict::read(&dir.join("config.json"))?;
        let keys = with_old_names(keys);
        let dtype = Precision::Auto.on(&device)?;
        let family = keys.get("model_type").cloned().unwrap_or_default();
        let number = |key: &str| keys.get(key).and_then(Value::as_u64);
        let begin = number("bos_token_id").and_then(|id| u32::try_from(id).ok());
        let length_max = number("max_position_embeddings").and_then(|most| usize::try_from(most).ok());
        let weights = || weights(dir, &device, dtype);
        let network = match family.as_str() {
            Some("llama") => {
                let config = read::<llama::LlamaConfig>(&keys, &file)?.into_config(false);
                let weights = weights()?;
                check_llama(&weights, &config)?;
                let cache = llama::Cache::new(true, dtype, &config, &device)?;
                let model = Box::new(llama::Llama::load(weights, &config)?);
                Network::Llama { model, config: Box::new(config), cache: Box::new(cache), dtype }
            }
            Some("mistral") => Network::Mistral(Box::new(mistral::Model::new(&read(&keys, &file)?, weights()?)?)),
            Some("qwen2") => Network::Qwen2(Box::new(qwen2::ModelForCausalLM::new(&read(&keys, &file)?, weights()?)?)),
            Some("qwen3") => Network::Qwen3(Box::new(qwen3::ModelForCausalLM::new(&read(&keys, &file)?, weights()?)?)),
            _ => return Err(LoadError::unsupported(&file, "model_type", family.to_string(), FAMILIES)),
        };
        let vocabulary = number("vocab_size").unwrap_or(u64::MAX);
        Ok(Self { network, device, length_max: length_max.unwrap_or(LENGTH_MAX), begin, vocabulary })
    }

    fn from_gguf(path: &Path, device: candle_core::Device) -> Result<Self, LoadError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|cause| LoadError::unreadable(&name, &cause))?;
        let mut file = BufReader::new(file);
        let content = gguf_file::Content::read(&mut file)
            .map_err(|cause| LoadError::malformed(&name, format!("is no GGUF file: {cause}")))?;
        file.rewind().map_err(|cause| LoadError::unreadable(&name, &cause))?;
        let value = |key: &str| content.metadata.get(key);
        let family = value("general.architecture").and_then(|family| family.to_string().ok()).cloned();
        let family = family.unwrap_or_default();
        let begin = value("tokenizer.ggml.bos_token_id").and_then(|id| id.to_u32().ok());
        let length_max = value(&format!("{family}.context_length")).and_then(|most| most.to_u32().ok());
        let embedding = content.tensor_infos.get("token_embd.weight").and_then(|table| table.shape.dims().first());
        let vocabulary = embedding.map_or(u64::MAX, |size| *size as u64);
        let network = match family.as_str() {
            "llama" => {
                let model = quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)?;
                Network::GgufLlama(Box::new(model))
            }
            "qwen2" => {
                let model = quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device)?;
                Network::GgufQwen2(Box::new(model))
            }
            "qwen3" => {
                let model = quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device)?;
                Network::GgufQwen3(Box::new(model))
            }
            _ => {
                let given = format!("{family:?}");
                return Err(LoadError::unsupported(&name, "general.architecture", given, GGUF_FAMILIES));
            }
        };
        let length_max = length_max.map_or(LENGTH_MAX, |most| most as usize);
        Ok(Self { network, device, length_max, begin, vocabulary })
    }

    /// The natural logarithms of the probability of each token from number `from` on, each given
    /// all before it. The first token of all has none, unless the model has a token that texts
    /// begin with. A text that is too long for the model is measured as far as it goes.
    ///
    /// # Errors
    /// When a token is not in the vocabulary, or the pass fails.
    pub fn log_probabilities(&mut self, tokens: &[u32], from: usize) -> Result<Vec<f32>, ModelError> {
        let begin = self.begin.filter(|begin| tokens.first() != Some(begin));
        let mut text: Vec<u32> = begin.into_iter().chain(tokens.iter().copied()).collect();
        text.truncate(self.length_max);
        let size = self.vocabulary;
        if let Some(token) = text.iter().find(|token| u64::from(**token) >= size) {
            let message =
                format!("token id {token}; the judge's ids are below {size}: its tokenizer is not that of its weights");
            return Err(ModelError::Failed(message));
        }
        let from = (from + usize::from(begin.is_some())).max(1);
        let mut found = Vec::new();
        self.network.forget(&self.device)?;
        let mut read = 0;
        for at in from..text.len() {
            let logits = self.network.next(&Tensor::new(&text[read..at], &self.device)?.unsqueeze(0)?, read)?;
            read = at;
            let logits = logits.flatten_all()?.to_dtype(DType::F32)?;
            let likely = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
            found.push(likely.get(text[at] as usize)?.to_scalar::<f32>()?);
        }
        Ok(found)
    }
}

impl Network {
    /// Starts a new text.
    fn forget(&mut self, device: &candle_core::Device) -> candle_core::Result<()> {
        match self {
            Self::Llama { config, cache, dtype, .. } => **cache = llama::Cache::new(true, *dtype, config, device)?,
            Self::Mistral(model) => model.clear_kv_cache(),
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
            Self::GgufLlama(model) => model.clear_kv_cache(),
            Self::GgufQwen2(model) => model.clear_kv_cache(),
            Self::GgufQwen3(model) => model.clear_kv_cache(),
        }
        Ok(())
    }

    /// The logits of the token after `tokens` (1, count), which follow `read` others.
    fn next(&mut self, tokens: &Tensor, read: usize) -> candle_core::Result<Tensor> {
        match self {
            Self::Llama { model, cache, .. } => model.forward(tokens, read, cache),
            Self::Mistral(model) => model.forward(tokens, read),
            Self::Qwen2(model) => model.forward(tokens, read),
            Self::Qwen3(model) => model.forward(tokens, read),
            Self::GgufLlama(model) => model.forward(tokens, read),
            Self::GgufQwen2(model) => model.forward(tokens, read),
            Self::GgufQwen3(model) => model.forward(tokens, read),
        }
    }
}

fn read<T: DeserializeOwned>(keys: &Map<String, Value>, file: &str) -> Result<T, LoadError> {
    serde_json::from_value(Value::Object(keys.clone()))
        .map_err(|cause| LoadError::malformed(file, format!("is no configuration of this family: {cause}")))
}

/// The keys as older versions of transformers write them, which `candle-transformers` reads: rotary
/// positions outside of `rope_parameters`, and no null where a number is expected.
fn with_old_names(mut keys: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(rope)) = keys.remove("rope_parameters") {
        if let Some(theta) = rope.get("rope_theta") {
            keys.entry("rope_theta").or_insert_with(|| theta.clone());
        }
        if rope.get("rope_type").is_some_and(|kind| kind != "default") {
            keys.entry("rope_scaling").or_insert(Value::Object(rope));
        }
    }
    keys.retain(|_, value| !value.is_null());
    let whole = keys.get("max_position_embeddings").cloned().unwrap_or_else(|| LENGTH_MAX.into());
    if keys.get("use_sliding_window") != Some(&Value::Bool(true)) && keys.get("model_type") != Some(&"mistral".into()) {
        keys.insert("use_sliding_window".to_owned(), false.into());
        keys.insert("sliding_window".to_owned(), whole);
    }
    if let Some(layers) = keys.get("num_hidden_layers").cloned() {
        keys.entry("max_window_layers").or_insert(layers);
    }
    keys.entry("tie_word_embeddings").or_insert(false.into());
    keys.entry("attention_bias").or_insert(false.into());
    keys
}

/// The tensors of a directory, all in one number format.
fn weights(dir: &Path, device: &candle_core::Device, dtype: DType) -> Result<VarBuilder<'static>, LoadError> {
    let backend = backend(device.clone(), CudaGraphs::Off);
    let mut tensors = HashMap::new();
    for file in model_files(dir)? {
        for name in file.shapes.keys() {
            tensors.insert(name.clone(), file.read(name, &*backend)?.to_dtype(dtype)?);
        }
    }
    Ok(VarBuilder::from_tensors(tensors, dtype, device))
}

/// Whether all tensors of the blocks are there: `candle-transformers` panics where one is not.
fn check_llama(weights: &VarBuilder<'_>, config: &llama::Config) -> Result<(), LoadError> {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let keys = width / config.num_attention_heads.max(1) * config.num_key_value_heads;
    for layer in 0..config.num_hidden_layers {
        let block = weights.pp(format!("model.layers.{layer}"));
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            block.get(width, &format!("{norm}.weight"))?;
        }
        let products = [
            ("self_attn.q_proj", (width, width)),
            ("self_attn.k_proj", (keys, width)),
            ("self_attn.v_proj", (keys, width)),
            ("self_attn.o_proj", (width, width)),
            ("mlp.gate_proj", (inner, width)),
            ("mlp.up_proj", (inner, width)),
            ("mlp.down_proj", (width, inner)),
        ];
        for (name, shape) in products {
            block.get(shape, &format!("{name}.weight"))?;
        }
    }
    Ok(())
}
