//! `config.json` of LLaDA and of the families that are made of its blocks, and the shapes of its
//! tensors.

use super::family::Family;
use super::generation::{self, Ids};
use super::names::Names;
use super::strict::{self, BLOCKS_MAX, CHANGES, IDS_MAX, Rules, SEQUENCE_MAX, WIDTH_MAX};
use super::{dream, remedi};
use crate::diffusion::TokenId;
use crate::files;
use crate::model::{
    card::Card,
    error::LoadError,
    spec::{Defaults, PresetsText},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What `model_type` may say, those of a DiT included.
const MODEL_TYPES: &str = "\"llada\", \"Dream\", \"RemeDi\", \"mdlm\" or \"proseco\"";
/// Keys that are read, then keys that do not change a forward pass.
const KNOWN: &str = "\
    d_model n_layers n_heads n_kv_heads head_dim mlp_hidden_size mlp_ratio vocab_size embedding_size \
    max_sequence_length rope rope_theta rms_norm_eps weight_tying mask_token_id eos_token_id \
    pad_token_id bos_token_id _name_or_path alibi_bias_max attention_dropout \
    attention_layer_norm_with_affine auto_map dtype embedding_dropout flash_attention init_cutoff_factor \
    init_device init_fn init_std precision residual_dropout return_dict task_specific_params torch_dtype \
    transformers_version use_cache use_return_dict";

/// A LLaDA model's sizes and ids. Lengths count elements, ids are below the rows of the embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which of the families it is, whose own configuration may have other keys.
    pub family: Family,
    /// Width of the hidden states.
    pub d_model: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads; divides `d_model`.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of the feed-forward layer.
    pub mlp_hidden_size: usize,
    /// Tokens that exist.
    pub vocab_size: usize,
    /// Rows of the embedding, at least `vocab_size`; the rows beyond stand for no token.
    pub embedding_size: usize,
    /// Cells of a canvas at most.
    pub max_sequence_length: usize,
    /// Rotary positions, or else learned absolute ones (`wpe`).
    pub rope: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added to the mean square before its root is taken.
    pub rms_norm_eps: f32,
    /// Whether the output layer is the embedding.
    pub weight_tying: bool,
    /// The id that stands for a blank.
    pub mask: TokenId,
    /// Ids that end a text: `eos_token_id` here and in `generation_config.json`, ascending.
    pub ends: Vec<TokenId>,
    /// The id that fills up short texts in training.
    pub pad: Option<TokenId>,
    /// Options of a request that does not set them.
    pub defaults: Defaults,
    /// As [`ModelSpec::presets`](crate::model::ModelSpec::presets).
    pub presets: Option<PresetsText>,
}

#[derive(Deserialize)]
struct Keys {
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: Option<usize>,
    mlp_hidden_size: Option<usize>,
    mlp_ratio: Option<usize>,
    vocab_size: usize,
    embedding_size: Option<usize>,
    max_sequence_length: usize,
    rope: bool,
    rope_theta: Option<f32>,
    rms_norm_eps: Option<f32>,
    weight_tying: bool,
    mask_token_id: u32,
    eos_token_id: Option<Ids>,
    pad_token_id: Option<Ids>,
    head_dim: Option<usize>,
    rope_parameters: Option<RopeParameters>,
}

/// Positions as transformers writes them from version 5 on.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f32>,
}

impl Config {
    /// Reads `config.json` in `dir`, and `generation_config.json` where there is one.
    ///
    /// # Errors
    /// When a file cannot be read, or has a value that is not supported.
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        Self::read_as(dir, None)
    }

    /// The same of a model whose `family` is known from its tensors; then its keys are LLaDA's.
    pub(crate) fn read_as(dir: &Path, family: Option<Family>) -> Result<Self, LoadError> {
        let (mut keys, file) = strict::read(&dir.join("config.json"))?;
        let path = dir.join("generation_config.json");
        let generation = if files::is_there(&path) { Some(strict::read(&path)?) } else { None };
        let generating = generation.as_ref().map(|(keys, _)| keys.clone()).unwrap_or_default();
        if let Some(card) = Card::of(dir)? {
            card.complete(&mut keys, &generating);
        }
        let config = Self::of_keys(keys, &file, family, &generating)?;
        match generation {
            Some((keys, file)) => config.generating(keys, &file),
            None => Ok(config),
        }
    }

    /// Adds the content of a `generation_config.json`; `file` is its name in error messages.
    ///
    /// # Errors
    /// When it is not JSON, or has a wrong value.
    pub fn parse_generation(self, json: &[u8], file: &str) -> Result<Self, LoadError> {
        self.generating(strict::object(json, file)?, file)
    }

    fn generating(mut self, keys: Map<String, Value>, file: &str) -> Result<Self, LoadError> {
        self.presets = generation::apply(keys, file, &mut self.ends, &mut self.defaults)?;
        self.check(file)?;
        Ok(self)
    }

    /// Reads the content of a `config.json`; `file` is its name in error messages.
    ///
    /// # Errors
    /// When it is not JSON, lacks a key, or has a value that is not supported.
    pub fn parse(json: &[u8], file: &str) -> Result<Self, LoadError> {
        Self::of_keys(strict::object(json, file)?, file, None, &Map::new())
    }

    /// The same for the keys that LLaDA has, of a model whose `family` is known otherwise.
    pub(crate) fn parse_as(family: Family, json: &[u8], file: &str) -> Result<Self, LoadError> {
        Self::of_keys(strict::object(json, file)?, file, Some(family), &Map::new())
    }

    /// `generating` are the keys of `generation_config.json`, where a family has some of its ids.
    /// Where the `family` is given, the keys are LLaDA's.
    fn of_keys(
        mut keys: Map<String, Value>,
        file: &str,
        family: Option<Family>,
        generating: &Map<String, Value>,
    ) -> Result<Self, LoadError> {
        let named = Family::named(&keys);
        let model_type = keys.get("model_type");
        if family.is_none() && named == Family::Llada && model_type.is_none_or(|name| name != "llada") {
            let given = model_type.map_or_else(|| "missing".to_owned(), Value::to_string);
            return Err(LoadError::unsupported(file, "model_type", given, MODEL_TYPES));
        }
        if family.is_none() && named == Family::Dream {
            keys = dream::as_llada(keys, file)?;
        }
        let family = family.unwrap_or(named);
        if family == Family::Remedi {
            remedi::complete(&mut keys, generating);
        }
        let off_or_null = [json!(false), Value::Null];
        let optional: [(_, &[Value]); 12] = [
            ("architectures", &[json!(["LLaDAModelLM"]), Value::Null]),
            ("alibi", &[json!(false)]),
            ("attention_layer_norm", &[json!(false)]),
            ("bias_for_layer_norm", &off_or_null),
            ("block_group_size", &[json!(1)]),
            ("include_bias", &[json!(false)]),
            ("include_qkv_bias", &off_or_null),
            ("input_emb_norm", &[json!(false)]),
            ("layer_norm_with_affine", &[json!(true)]),
            ("multi_query_attention", &off_or_null),
            ("rope_full_precision", &[json!(true)]),
            ("scale_logits", &[json!(false)]),
        ];
        let required =
            [("model_type", "llada"), ("block_type", "llama"), ("layer_norm_type", "rms"), ("activation_type", "silu")];
        let keys: Keys =
            Rules { required: &required, optional: &optional, changes: &[&CHANGES], known: KNOWN }.take(keys, file)?;
        let theta = keys.rope_parameters.and_then(|parameters| parameters.rope_theta);
        if let (Some(one), Some(other)) = (keys.rope_theta, theta)
            && (one - other).abs() > f32::EPSILON * one.abs()
        {
            let problem = format!("says `rope_theta` is {one}, and in `rope_parameters` {other}");
            return Err(LoadError::malformed(file, problem));
        }
        let mlp_hidden_size = || keys.mlp_ratio.unwrap_or(4).saturating_mul(keys.d_model);
        let config = Self {
            family,
            d_model: keys.d_model,
            n_layers: keys.n_layers,
            n_heads: keys.n_heads,
            n_kv_heads: keys.n_kv_heads.unwrap_or(keys.n_heads),
            mlp_hidden_size: keys.mlp_hidden_size.unwrap_or_else(mlp_hidden_size),
            vocab_size: keys.vocab_size,
            embedding_size: keys.embedding_size.unwrap_or(keys.vocab_size),
            max_sequence_length: keys.max_sequence_length,
            rope: keys.rope,
            rope_theta: keys.rope_theta.or(theta).unwrap_or(10_000.0),
            rms_norm_eps: keys.rms_norm_eps.unwrap_or(1e-5),
            weight_tying: keys.weight_tying,
            mask: TokenId(keys.mask_token_id),
            ends: keys.eos_token_id.map(Ids::ascending).unwrap_or_default(),
            pad: keys.pad_token_id.map(Ids::ascending).unwrap_or_default().first().copied(),
            defaults: family.features().defaults,
            presets: None,
        };
        config.check(file)?;
        if let Some(width) = keys.head_dim.filter(|width| *width != config.head_dim()) {
            let (size, heads) = (family.key("d_model"), family.key("n_heads"));
            let problem = format!("says `head_dim` is {width}, but `{size}` / `{heads}` is {}", config.head_dim());
            return Err(LoadError::malformed(file, problem));
        }
        Ok(config)
    }

    /// Width of one head.
    pub const fn head_dim(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Name and shape of every tensor of the backbone, as the published checkpoints have them.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let (d, names) = (self.d_model, self.names());
        let blocks = (0..self.n_layers).flat_map(|n| self.block_tensors(&format!("{}{n}", names.blocks)));
        let wpe = (!self.rope).then(|| ("wpe", vec![self.max_sequence_length, d]));
        let ff_out = (!self.weight_tying).then(|| ("ff_out", vec![self.embedding_size, d]));
        [Some(("wte", vec![self.embedding_size, d])), wpe, Some(("ln_f", vec![d])), ff_out]
            .into_iter()
            .flatten()
            .map(|(part, shape)| (format!("{}.weight", names.outside(part)), shape))
            .chain(blocks)
            .chain(match self.family {
                Family::Llada | Family::Dream => Vec::new(),
                Family::Remedi => remedi::tensors(self.d_model, |prefix| self.block_tensors(prefix)),
            })
    }

    /// What its tensors are called.
    pub(crate) const fn names(&self) -> &'static Names {
        self.family.features().names
    }

    /// The same of one block, whose tensors are called `prefix` and then a part of it.
    fn block_tensors(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        let (d, kv, mlp) = (self.d_model, self.n_kv_heads * self.head_dim(), self.mlp_hidden_size);
        let biases = [("q_proj", d), ("k_proj", kv), ("v_proj", kv)];
        let biases = biases.into_iter().filter(|_| self.family.features().has_qkv_bias);
        let name = |part: &str, kind: &str| format!("{prefix}.{}.{kind}", self.names().inside(part));
        let weights = [
            ("attn_norm", vec![d]),
            ("q_proj", vec![d, d]),
            ("k_proj", vec![kv, d]),
            ("v_proj", vec![kv, d]),
            ("attn_out", vec![d, d]),
            ("ff_norm", vec![d]),
            ("ff_proj", vec![mlp, d]),
            ("up_proj", vec![mlp, d]),
            ("ff_out", vec![d, mlp]),
        ]
        .map(|(part, shape)| (name(part, "weight"), shape));
        weights.into_iter().chain(biases.map(|(part, width)| (name(part, "bias"), vec![width]))).collect()
    }

    /// The relations between the numbers.
    fn check(&self, file: &str) -> Result<(), LoadError> {
        let refuse = |problem: String| Err(LoadError::malformed(file, problem));
        let sizes = [
            ("d_model", self.d_model, WIDTH_MAX),
            ("n_layers", self.n_layers, BLOCKS_MAX),
            ("n_heads", self.n_heads, WIDTH_MAX),
            ("n_kv_heads", self.n_kv_heads, WIDTH_MAX),
            ("mlp_hidden_size", self.mlp_hidden_size, WIDTH_MAX),
            ("max_sequence_length", self.max_sequence_length, SEQUENCE_MAX),
            ("embedding_size", self.embedding_size.max(1), IDS_MAX),
            ("vocab_size", self.vocab_size.max(1), IDS_MAX),
        ];
        let key = |key| self.family.key(key);
        strict::check_sizes(&sizes.map(|(name, size, max)| (key(name), size, max)), file)?;
        if self.family == Family::Remedi {
            remedi::check(self.n_layers, file)?;
        }
        let (length, width) = (self.max_sequence_length, self.head_dim());
        for (name, size, by, divisor) in [
            ("d_model", self.d_model, "n_heads", self.n_heads),
            ("n_heads", self.n_heads, "n_kv_heads", self.n_kv_heads),
        ] {
            if !size.is_multiple_of(divisor) {
                let (name, by) = (key(name), key(by));
                return refuse(format!("says `{name}` is {size}, which `{by}` = {divisor} does not divide"));
            }
        }
        if self.rope && !width.is_multiple_of(2) {
            return refuse(format!("says `rope` is true with heads of odd width {width}; they are rotated in halves"));
        }
        strict::check_table(key("max_sequence_length"), length, if self.rope { width } else { self.d_model }, file)?;
        let (rows, tokens) = (self.embedding_size, self.vocab_size);
        if rows < tokens {
            return refuse(format!("says `embedding_size` is {rows}, fewer than `vocab_size` = {tokens}"));
        }
        let ids = self.ends.iter().chain(&self.pad).chain([&self.mask]);
        if let Some(TokenId(id)) = ids.into_iter().find(|id| id.0 as usize >= rows) {
            return refuse(format!("names token id {id}, but the embedding has {rows} rows"));
        }
        // the mask is never proposed, so at least one other token is needed
        if self.vocab_size <= usize::from((self.mask.0 as usize) < self.vocab_size) {
            return refuse(format!(
                "says `vocab_size` is {}: no token but the mask could be proposed",
                self.vocab_size
            ));
        }
        Ok(())
    }
}
