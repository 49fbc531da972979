//! What a configuration of Dream (arXiv 2508.15487) says: Qwen2's keys and a mask. The network is
//! LLaDA's with biases of queries, keys and values, and with outputs that are shifted by one cell,
//! which the configuration does not say: the published code has it so.

use super::generation::Ids;
use super::strict::{self, CHANGES, Rules};
use crate::model::error::LoadError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// `model_type` in `config.json`.
const MODEL_TYPE: &str = "Dream";
/// Keys that are read, then keys that do not change a forward pass.
const KNOWN: &str = "\
    hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size \
    max_position_embeddings rope_theta rms_norm_eps tie_word_embeddings mask_token_id eos_token_id pad_token_id \
    bos_token_id _name_or_path attention_dropout auto_map dtype initializer_range max_window_layers torch_dtype \
    transformers_version use_cache";

/// LLaDA's keys, and what Qwen2 calls them.
pub(super) static KEYS: [[&str; 2]; 8] = [
    ["d_model", "hidden_size"],
    ["n_layers", "num_hidden_layers"],
    ["n_heads", "num_attention_heads"],
    ["n_kv_heads", "num_key_value_heads"],
    ["mlp_hidden_size", "intermediate_size"],
    ["max_sequence_length", "max_position_embeddings"],
    ["weight_tying", "tie_word_embeddings"],
    ["embedding_size", "vocab_size"],
];

#[derive(Deserialize)]
struct Keys {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rope_theta: Option<f32>,
    rope_parameters: Option<Value>,
    rms_norm_eps: Option<f32>,
    tie_word_embeddings: Option<bool>,
    mask_token_id: u32,
    eos_token_id: Option<Ids>,
    pad_token_id: Option<Ids>,
}

/// Whether the keys of a `config.json` name the family.
pub(super) fn is_named(keys: &Map<String, Value>) -> bool {
    keys.get("model_type").is_some_and(|name| name == MODEL_TYPE)
}

/// The keys as LLaDA has them, once they keep the rules. What may be missing has the value
/// that the published configuration class gives it.
pub(super) fn as_llada(keys: Map<String, Value>, file: &str) -> Result<Map<String, Value>, LoadError> {
    let off_or_null = [json!(false), Value::Null];
    let optional: [(_, &[Value]); 5] = [
        // a model in blocks, whose outputs are not shifted, has another class
        ("architectures", &[json!(["DreamModel"]), Value::Null]),
        ("attention_bias", &[json!(true), Value::Null]),
        ("hidden_act", &[json!("silu")]),
        ("use_mrope", &off_or_null),
        ("use_sliding_window", &off_or_null),
    ];
    let changes: Vec<_> = CHANGES.into_iter().filter(|(key, _)| *key != "attention_bias").collect();
    let required = [("model_type", MODEL_TYPE)];
    let Keys {
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        intermediate_size,
        vocab_size,
        max_position_embeddings,
        rope_theta,
        rope_parameters,
        rms_norm_eps,
        tie_word_embeddings,
        mask_token_id,
        eos_token_id,
        pad_token_id,
    } = Rules { required: &required, optional: &optional, changes: &[&changes], known: KNOWN }.take(keys, file)?;
    let ids = |ids: Option<Ids>| ids.map(Ids::ascending).unwrap_or_default().into_iter().map(|id| id.0);
    let keys = json!({
        "model_type": "llada", "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu",
        "d_model": hidden_size,
        "n_layers": num_hidden_layers,
        "n_heads": num_attention_heads,
        "n_kv_heads": num_key_value_heads,
        "head_dim": head_dim,
        "mlp_hidden_size": intermediate_size,
        "vocab_size": vocab_size,
        "max_sequence_length": max_position_embeddings,
        "rope": true,
        "rope_theta": rope_theta,
        "rope_parameters": rope_parameters,
        "rms_norm_eps": rms_norm_eps.unwrap_or(1e-6),
        "weight_tying": tie_word_embeddings.unwrap_or(false),
        "mask_token_id": mask_token_id,
        "eos_token_id": ids(eos_token_id).collect::<Vec<u32>>(),
        "pad_token_id": ids(pad_token_id).next(),
    });
    strict::object(keys.to_string().as_bytes(), file)
}
