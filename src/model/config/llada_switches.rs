//! Which values of the LLaDA family's switches the forward pass supports. Out of scope: sizes.

use super::strict::Rule;
use serde_json::json;

/// Values for which the forward pass in `families/llada.rs` is that of the model. A key is optional
/// where LLaDA's published configuration class defaults to a supported value.
pub(super) fn rules() -> [Rule; 16] {
    [
        ("model_type", vec![json!("llada")], false),
        ("block_type", vec![json!("llama")], false),
        ("layer_norm_type", vec![json!("rms")], false),
        ("activation_type", vec![json!("silu")], false),
        ("architectures", vec![json!(["LLaDAModelLM"]), json!(null)], true),
        ("alibi", vec![json!(false)], true),
        ("attention_layer_norm", vec![json!(false)], true),
        ("bias_for_layer_norm", vec![json!(false), json!(null)], true),
        ("block_group_size", vec![json!(1)], true),
        ("include_bias", vec![json!(false)], true),
        ("include_qkv_bias", vec![json!(false), json!(null)], true),
        ("input_emb_norm", vec![json!(false)], true),
        ("layer_norm_with_affine", vec![json!(true)], true),
        ("multi_query_attention", vec![json!(false), json!(null)], true),
        ("rope_full_precision", vec![json!(true)], true),
        ("scale_logits", vec![json!(false)], true),
    ]
    .map(|(key, values, optional)| Rule { key, values, optional })
}

/// Keys that `llada.rs` reads, then keys that do not change a forward pass: training,
/// initialisation, bookkeeping of the publisher.
pub(super) const KNOWN: &str = "\
    d_model n_layers n_heads n_kv_heads mlp_hidden_size mlp_ratio vocab_size embedding_size \
    max_sequence_length rope rope_theta rms_norm_eps weight_tying mask_token_id eos_token_id \
    pad_token_id bos_token_id _name_or_path alibi_bias_max attention_dropout \
    attention_layer_norm_with_affine auto_map dtype embedding_dropout flash_attention init_cutoff_factor \
    init_device init_fn init_std precision residual_dropout return_dict task_specific_params torch_dtype \
    transformers_version use_cache use_return_dict";
