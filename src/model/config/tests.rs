//! Configurations as they are published, and those that are refused.

use super::family::Family;
use super::llada::Config;
use super::strict;
use crate::diffusion::TokenId;
use crate::model::error::LoadError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn hub(version: &str) -> Config {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-hub");
    Config::read(&data.join(version)).unwrap()
}

#[test]
fn the_published_models_are_read_as_they_are() {
    let config = hub("instruct");
    assert_eq!((config.mask, config.pad), (TokenId(126_336), Some(TokenId(126_081))));
    assert_eq!(config.ends, [TokenId(126_081)]);
    assert_eq!((config.head_dim(), config.max_sequence_length, config.rope), (128, 4096, true));
    let numbers = config.tensors().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>();
    assert_eq!(numbers, 8_015_581_184);
    assert_eq!([hub("base"), hub("1.5")], [config.clone(), config]);
}

#[test]
fn the_tensors_are_those_of_the_published_index() {
    let index = include_bytes!("../../../tests/data/llada-hub/instruct/model.safetensors.index.json");
    let index = strict::object(index, "index").unwrap();
    let published: BTreeSet<&String> = index["weight_map"].as_object().unwrap().keys().collect();
    let ours: Vec<String> = hub("instruct").tensors().map(|(name, _)| name).collect();
    assert_eq!(ours.iter().collect::<BTreeSet<_>>(), published);
}

/// The published configuration with one key changed, or removed for `None`.
fn changed(key: &str, value: Option<Value>) -> Result<Config, LoadError> {
    let json = include_bytes!("../../../tests/data/llada-hub/instruct/config.json");
    let mut keys = strict::object(json, "config.json").unwrap();
    match value {
        Some(value) => keys.insert(key.to_owned(), value),
        None => keys.remove(key),
    };
    Config::parse(Value::Object(keys).to_string().as_bytes(), "config.json")
}

#[test]
fn what_would_be_computed_wrongly_is_refused_by_name() {
    for (key, value, message) in [
        ("model_type", json!("dream"), r#"`model_type` is "dream", supported is "llada""#),
        ("architectures", json!(["LLaDAMoEModel"]), r#"`architectures` is ["LLaDAMoEModel"], supported is"#),
        ("block_type", json!("sequential"), r#"`block_type` is "sequential", supported is "llama""#),
        ("layer_norm_type", json!("default"), r#"supported is "rms""#),
        ("activation_type", json!("swiglu"), r#"supported is "silu""#),
        ("alibi", json!(true), "`alibi` is true, supported is false"),
        ("include_bias", json!(true), "`include_bias` is true"),
        ("include_qkv_bias", json!(true), "`include_qkv_bias` is true, supported is false or null"),
        ("block_group_size", json!(4), "`block_group_size` is 4, supported is 1"),
        ("attention_layer_norm", json!(true), "`attention_layer_norm` is true"),
        ("input_emb_norm", json!(true), "`input_emb_norm` is true"),
        ("scale_logits", json!(true), "`scale_logits` is true"),
        ("multi_query_attention", json!(true), "`multi_query_attention` is true"),
        ("rope_scaling", json!({"type": "linear"}), "`rope_scaling` is {\"type\":\"linear\"}"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0}), "it changes the angles of positions"),
        ("rope_parameters", json!({"rope_type": "llama3", "rope_theta": 1e4}), "changes the angles of positions"),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 1e4}), "and in `rope_parameters` 10000"),
        ("sliding_window", json!(1024), "attention does not reach every position"),
        ("quantization_config", json!({"quant_method": "gptq"}), "stored in a quantised format"),
        ("final_logit_softcapping", json!(30.0), "`final_logit_softcapping` is 30.0, supported is a model without"),
        ("clip_qkv", json!(8), "queries, keys and values are clipped"),
        ("head_dim", json!(64), "`head_dim` is 64, but `d_model` / `n_heads` is 128"),
        ("n_heads", json!(33), "`d_model` is 4096, which `n_heads` = 33 does not divide"),
        ("n_kv_heads", json!(5), "`n_heads` is 32, which `n_kv_heads` = 5 does not divide"),
        ("n_layers", json!(0), "`n_layers` is 0, it must be 1 to 1024"),
        ("n_layers", json!(1u64 << 31), "`n_layers` is 2147483648, it must be 1 to 1024"),
        ("d_model", json!(1u64 << 40), "`d_model` is 1099511627776, it must be 1 to 262144"),
        ("n_heads", json!(1u64 << 40), "`n_heads` is 1099511627776, it must be 1 to 262144"),
        ("n_kv_heads", json!(1u64 << 40), "`n_kv_heads` is 1099511627776, it must be 1 to 262144"),
        ("mlp_hidden_size", json!(1u64 << 40), "`mlp_hidden_size` is 1099511627776, it must be 1 to 262144"),
        ("vocab_size", json!(1u64 << 31), "`vocab_size` is 2147483648, it must be 1 to 16777216"),
        ("embedding_size", json!(1u64 << 31), "`embedding_size` is 2147483648, it must be 1 to 16777216"),
        ("n_layers", json!("two"), "has a wrong `n_layers`"),
        ("max_sequence_length", json!(1u64 << 40), "it must be 1 to 1048576"),
        ("embedding_size", json!(1000), "`embedding_size` is 1000, fewer than `vocab_size` = 126464"),
        ("mask_token_id", json!(126_464), "names token id 126464, but the embedding has 126464 rows"),
        ("vocab_size", json!(0), "no token but the mask could be proposed"),
    ] {
        let error = changed(key, Some(value)).unwrap_err().to_string();
        assert!(error.starts_with("config.json") && error.contains(message), "{key}: {error}");
    }
    for key in ["model_type", "block_type", "mask_token_id", "weight_tying", "rope", "vocab_size"] {
        let error = changed(key, None).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
}

#[test]
fn what_is_left_out_has_the_published_default() {
    let published = hub("instruct");
    let widest = Config { mlp_hidden_size: 4 * 4096, ..published.clone() };
    assert_eq!(changed("mlp_hidden_size", Some(json!(null))), Ok(widest), "mlp_ratio times d_model");
    for (key, value) in [("n_kv_heads", json!(null)), ("embedding_size", json!(null)), ("alibi_bias_max", json!(1.0))] {
        assert_eq!(changed(key, Some(value)), Ok(published.clone()), "{key}");
    }
    for (key, value) in [
        ("a_switch_that_is_off", json!(false)),
        ("train_max_sequence_length", json!(4096)),
        ("a_number_of_training", json!(0)),
        ("a_key_of_tomorrow", json!({"x": [1]})),
        ("llada_version", json!("1.5")),
        ("attention_dropout", json!(0.1)),
        ("rope_scaling", json!({"type": "default"})),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 500_000.0})),
        ("use_sliding_window", json!(false)),
        ("sliding_window", Value::Null),
        ("logits_scaling", json!(1.0)),
        ("num_experts", json!(0)),
        ("head_dim", json!(128)),
        ("quantization_config", json!({})),
        ("transformers_version", json!("5.24.0")),
    ] {
        assert_eq!(changed(key, Some(value)), Ok(published.clone()), "{key}");
    }
    let nobody = changed("pad_token_id", Some(json!(-1))).unwrap();
    assert_eq!((nobody.pad, published.pad.is_some()), (None, true));
    let several = changed("eos_token_id", Some(json!([126_348, 126_081]))).unwrap();
    assert_eq!(several.ends, [TokenId(126_081), TokenId(126_348)]);
}

/// The keys that Dream-v0-Instruct-7B has according to programs that read it; the file itself was
/// not to be had. The number of parameters is that of Qwen2.5-7B on the hub.
#[test]
fn dream_has_the_tensors_of_qwen2_7b() {
    let keys = json!({
        "architectures": ["DreamModel"], "attention_dropout": 0.0, "bos_token_id": 151_643, "eos_token_id": 151_643,
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18_944,
        "mask_token_id": 151_666, "max_position_embeddings": 131_072, "max_window_layers": 28, "model_type": "Dream",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "pad_token_id": 151_643,
        "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1_000_000.0, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": false,
        "use_sliding_window": false, "vocab_size": 152_064,
    });
    let config = Config::parse(keys.to_string().as_bytes(), "config.json").unwrap();
    assert_eq!((config.family, config.head_dim(), config.rope_theta), (Family::Dream, 128, 1e6));
    assert_eq!((config.mask, config.pad, config.rms_norm_eps), (TokenId(151_666), Some(TokenId(151_643)), 1e-6));
    assert_eq!((config.ends.as_slice(), config.max_sequence_length), (&[TokenId(151_643)][..], 131_072));
    let tensors: BTreeMap<String, Vec<usize>> = config.tensors().collect();
    // twelve of a block, embedding, last norm and output layer
    assert_eq!(tensors.len(), 28 * 12 + 3);
    assert_eq!(tensors.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>(), 7_615_616_512);
    for (name, shape) in [
        ("model.embed_tokens.weight", vec![152_064, 3584]),
        ("model.layers.0.input_layernorm.weight", vec![3584]),
        ("model.layers.13.self_attn.q_proj.bias", vec![3584]),
        ("model.layers.27.self_attn.k_proj.weight", vec![512, 3584]),
        ("model.layers.27.self_attn.v_proj.bias", vec![512]),
        ("model.layers.27.self_attn.o_proj.weight", vec![3584, 3584]),
        ("model.layers.27.post_attention_layernorm.weight", vec![3584]),
        ("model.layers.27.mlp.gate_proj.weight", vec![18_944, 3584]),
        ("model.layers.27.mlp.down_proj.weight", vec![3584, 18_944]),
        ("model.norm.weight", vec![3584]),
        ("lm_head.weight", vec![152_064, 3584]),
    ] {
        assert_eq!(tensors[name], shape, "{name}");
    }
}
