//! JSON objects of model files: a key that is known to change what is computed is an error that
//! names it and says why; other unknown keys are taken with one warning. Out of scope: what the
//! keys mean.

use crate::files;
use crate::model::error::LoadError;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// The object in the file at `path`, and the file's name in errors.
pub(crate) fn read(path: &Path) -> Result<(Map<String, Value>, String), LoadError> {
    let file = path.display().to_string();
    let json = files::read(path, files::CONFIG_MAX).map_err(|cause| LoadError::unreadable(&file, &cause))?;
    Ok((object(&json, &file)?, file))
}

/// Parses an object; `file` is its name in errors.
pub(crate) fn object(json: &[u8], file: &str) -> Result<Map<String, Value>, LoadError> {
    serde_json::from_slice(json).map_err(|cause| LoadError::malformed(file, format!("is not a JSON object: {cause}")))
}

/// The values of keys for which the computation is that of the model.
pub(crate) struct Rules<'a> {
    /// Keys that must be there.
    pub(crate) required: &'a [(&'static str, &'static str)],
    /// Keys that may be missing, because their publisher's default is one of the values.
    pub(crate) optional: &'a [(&'static str, &'a [Value])],
    /// Lists of keys that change the computation unless they are neutral, and why.
    pub(crate) changes: &'a [&'a [(&'static str, &'static str)]],
    /// Keys without a rule, separated by blanks.
    pub(crate) known: &'static str,
}

impl Rules<'_> {
    /// Takes the keys that `T` names, once all keys keep the rules. Unknown keys are taken not to
    /// change the computation; one line of the log lists them.
    pub(crate) fn take<T: for<'a> Deserialize<'a>>(
        &self,
        keys: Map<String, Value>,
        file: &str,
    ) -> Result<T, LoadError> {
        let refuse = |key: &str, given: Option<&Value>, supported: &str| {
            let given = given.map_or_else(|| "missing".to_owned(), Value::to_string);
            Err(LoadError::unsupported(file, key, given, supported))
        };
        for (key, value) in self.required {
            if keys.get(*key) != Some(&Value::from(*value)) {
                return refuse(key, keys.get(*key), &Value::from(*value).to_string());
            }
        }
        for (key, values) in self.optional {
            if keys.get(*key).is_some_and(|given| !values.contains(given)) {
                let supported: Vec<String> = values.iter().map(Value::to_string).collect();
                return refuse(key, keys.get(*key), &supported.join(" or "));
            }
        }
        for (key, why) in self.changes.iter().copied().flatten() {
            let is_switched_off = keys.get(&format!("use_{key}")).is_some_and(is_off);
            if keys.get(*key).is_some_and(|given| !is_neutral(given)) && !is_switched_off {
                return refuse(key, keys.get(*key), &format!("a model without this key: {why}"));
            }
        }
        let unknown: Vec<&str> = keys.keys().map(String::as_str).filter(|key| !self.names(key)).collect();
        if !unknown.is_empty() {
            tracing::warn!(file, keys = unknown.join(", "), "unknown keys are taken not to change what is computed");
        }
        take(keys, file)
    }

    /// Whether there is a rule for the key, or none is needed.
    pub(crate) fn names(&self, key: &str) -> bool {
        let changes = self.changes.iter().copied().flatten().map(|(key, _)| *key);
        let ruled = self.required.iter().map(|(key, _)| *key).chain(self.optional.iter().map(|(key, _)| *key));
        ruled.chain(changes).chain(self.known.split_whitespace()).any(|known| known == key)
    }
}

/// Keys of `config.json`, of several families, that change a forward pass.
pub(crate) const CHANGES: [(&str, &str); 32] = [
    ("rope_scaling", "it changes the angles of positions"),
    ("rope_parameters", "it changes the angles of positions"),
    ("partial_rotary_factor", "only a part of a head is rotated"),
    ("rotary_pct", "only a part of a head is rotated"),
    ("sliding_window", "attention does not reach every position"),
    ("causal", "attention does not reach later positions"),
    ("is_causal", "attention does not reach later positions"),
    ("clip_qkv", "queries, keys and values are clipped"),
    ("qk_norm", "queries and keys are normalised"),
    ("use_qk_norm", "queries and keys are normalised"),
    ("qk_layernorm", "queries and keys are normalised"),
    ("attention_bias", "projections have biases"),
    ("qkv_bias", "projections have biases"),
    ("mlp_bias", "projections have biases"),
    ("lm_head_bias", "the output layer has a bias"),
    ("attn_logit_softcapping", "attention scores are capped"),
    ("final_logit_softcapping", "logits are capped"),
    ("logit_scale", "logits are scaled"),
    ("logits_scaling", "logits are scaled"),
    ("attention_multiplier", "attention scores are scaled"),
    ("embedding_multiplier", "embeddings are scaled"),
    ("residual_multiplier", "residual branches are scaled"),
    ("scale_emb", "embeddings are scaled"),
    ("emb_scale", "embeddings are scaled"),
    ("scale_depth", "residual branches are scaled"),
    ("embedding_layer_norm", "embeddings are normalised"),
    ("norm_after", "norms stand after the layers"),
    ("parallel_residual", "attention and feed-forward layers work side by side"),
    ("num_experts", "feed-forward layers are mixtures of experts"),
    ("n_experts", "feed-forward layers are mixtures of experts"),
    ("num_local_experts", "feed-forward layers are mixtures of experts"),
    ("quantization_config", "weights are stored in a quantised format; GGUF files are supported"),
];

/// Whether a value switches its key off.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// Whether a value changes nothing: off, a factor of one, or the default kind of positions.
fn is_neutral(value: &Value) -> bool {
    let has_default_kind = |members: &Map<String, Value>| {
        let is_one = |value: &Value| value.as_f64() == Some(1.0);
        let kind = members.get("rope_type").or_else(|| members.get("type"));
        kind.is_some_and(|kind| kind == "default") && members.get("factor").is_none_or(is_one)
    };
    is_off(value) || value.as_f64() == Some(1.0) || value.as_object().is_some_and(has_default_kind)
}

/// Takes the keys that `T` names; the error names a wrong one.
pub(crate) fn take<T: for<'a> Deserialize<'a>>(keys: Map<String, Value>, file: &str) -> Result<T, LoadError> {
    serde_path_to_error::deserialize(Value::Object(keys)).map_err(|cause| match cause.path().to_string().as_str() {
        "." => LoadError::malformed(file, format!("is incomplete: {}", cause.inner())),
        key => LoadError::malformed(file, format!("has a wrong `{key}`: {}", cause.inner())),
    })
}

/// Largest number of blocks.
pub(crate) const BLOCKS_MAX: usize = 1 << 10;
/// Largest width of hidden states and inside a block, and largest number of heads.
pub(crate) const WIDTH_MAX: usize = 1 << 18;
/// Largest number of token ids.
pub(crate) const IDS_MAX: usize = 1 << 24;
/// The longest canvas, so that a mistyped limit does not allocate terabytes of rotary tables.
pub(crate) const SEQUENCE_MAX: usize = 1 << 20;
/// Largest number of elements of a table of positions: 1 GiB in f32.
const TABLE_MAX: usize = 1 << 28;

/// Checks that each size, given with its key and the largest allowed one, is in 1 to that.
pub(crate) fn check_sizes(sizes: &[(&str, usize, usize)], file: &str) -> Result<(), LoadError> {
    match sizes.iter().find(|(_, size, max)| !(1..=*max).contains(size)) {
        Some((key, size, max)) => {
            Err(LoadError::malformed(file, format!("says `{key}` is {size}, it must be 1 to {max}")))
        }
        None => Ok(()),
    }
}

/// Checks the size of a table with `width` numbers for each position of a canvas.
pub(crate) fn check_table(key: &str, length: usize, width: usize, file: &str) -> Result<(), LoadError> {
    if length.saturating_mul(width) <= TABLE_MAX {
        return Ok(());
    }
    let most = TABLE_MAX / width;
    Err(LoadError::malformed(file, format!("says `{key}` is {length}, with {width} numbers for each at most {most}")))
}
