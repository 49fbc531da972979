//! Dream's files: checkpoints, GGUF files, adapters, configurations, and which of them are refused.
//! What is computed is in `dream.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::Device as Cpu;
use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{DType, Tensor};
use common::data;
use common::golden::{Golden, Tensors, model, near};
use remask::diffusion::TokenId;
use remask::model::{Config, Denoiser, Device, Family, Format, Source, load, put_together, quantise};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MASK: u32 = 60;

fn tiny(name: &str) -> PathBuf {
    data("dream-tiny").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The tiny model, without its head, after a change to its configuration and tensors.
fn altered(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut keys = read_json(&tiny("config.json"));
    config(&mut keys);
    fs::write(dir.path().join("config.json"), keys.to_string()).unwrap();
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    tensors(&mut weights);
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn check(model: &mut dyn Denoiser, tolerance: f64) {
    let golden = Golden::open(&tiny("io.safetensors"));
    (0..3).for_each(|row| golden.check(row, "", &model.inspect(&golden.ids(row)).unwrap(), tolerance));
}

#[test]
fn in_a_gguf_file_it_is_the_same_model_head_included() {
    for (format, tolerance) in [(Format::F16, 5e-3), (Format::Q8_0, 0.12)] {
        let out = TempDir::new().unwrap();
        let file = out.path().join("model.gguf");
        quantise(&tiny(""), None, None, format, &file, false).unwrap();
        let mut model = load(&Source::Gguf { file, prism_head: None }, Device::Cpu).unwrap();
        assert_eq!((model.spec().family.as_str(), model.spec().mask), ("dream", TokenId(MASK)));
        assert_eq!((model.spec().defaults.block_length, model.spec().has_quality), (None, true));
        check(&mut *model, tolerance);
    }
}

/// Written with llama.cpp's library, names from its own table. Nothing is shuffled in it.
#[test]
fn a_gguf_file_of_llama_cpp_is_read() {
    let source = Source::Gguf { file: tiny("llama_cpp.gguf"), prism_head: Some(tiny("prism_head.safetensors")) };
    check(&mut *load(&source, Device::Cpu).unwrap(), 1e-5);
    let bytes = fs::read(tiny("llama_cpp.gguf")).unwrap();
    // the key that says whether attention is causal becomes that of the shift: both are false
    let (key, other) = (&b"dream.attention.causal"[..], &b"diffusion.shift_logits"[..]);
    assert_eq!(key.len(), other.len());
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("model.gguf");
    fs::write(&file, [&bytes[..at], other, &bytes[at + key.len()..]].concat()).unwrap();
    let error = load(&Source::Gguf { file, prism_head: None }, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("says `diffusion.shift_logits` is false, supported is true"), "{error}");
}

#[test]
fn random_weights_have_the_shapes_of_the_configuration() {
    let config = Config::read(&tiny("")).unwrap();
    assert_eq!(config.family, Family::Dream);
    let mut model = load(&Source::Dummy { config, seed: 1 }, Device::Cpu).unwrap();
    let numbers = |path| load_tensors(path, &Cpu::Cpu).unwrap().values().map(Tensor::elem_count).sum::<usize>();
    let expected = numbers(tiny("model.safetensors")) + numbers(tiny("prism_head.safetensors"));
    assert_eq!(model.spec().parameters, expected as u64);
    let logits = model.inspect(&[1, MASK, 3].map(TokenId)).unwrap().logits;
    assert_eq!(logits[0], logits[1], "both are read from the first cell");
    assert_ne!(logits[1], logits[2]);
}

/// As Dream's files do not, but those of small Qwen2 models.
#[test]
fn a_tied_output_layer_is_the_embedding_whatever_else_is_in_the_file() {
    const OUTPUT: &str = "lm_head.weight";
    let tied = |keys: &mut Value| keys["tie_word_embeddings"] = json!(true);
    let embedding = |weights: &Tensors| weights["model.embed_tokens.weight"].clone();
    let untied = altered(|_| (), |weights| drop(weights.insert(OUTPUT.to_owned(), embedding(weights))));
    let without = altered(tied, |weights| drop(weights.remove(OUTPUT)));
    let with_another = altered(tied, |_| ());
    let logits = |dir: &TempDir| model(dir.path(), None, None).inspect(&[5, MASK, 7].map(TokenId)).unwrap().logits;
    assert_eq!([logits(&without), logits(&with_another)], [logits(&untied), logits(&untied)]);
}

/// As PEFT saves adapters of Qwen2 models.
#[test]
fn adapters_are_merged_under_the_names_of_the_family() {
    let modules =
        ["model.layers.1.self_attn.o_proj", "model.layers.2.mlp.gate_proj", "model.layers.0.self_attn.q_proj"];
    let weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    let some = |rows: usize, columns: usize| {
        let numbers = (0..rows * columns).map(|at| (at * 7 % 11) as f32 / 40.0 - 0.1);
        Tensor::from_iter(numbers, &Cpu::Cpu).unwrap().reshape((rows, columns)).unwrap()
    };
    let (mut adapter, mut merged) = (Tensors::new(), weights.clone());
    for module in modules {
        let name = format!("{module}.weight");
        let (rows, columns) = weights[&name].dims2().unwrap();
        let (a, b) = (some(2, columns), some(rows, 2));
        merged.insert(name.clone(), (&weights[&name] + (b.matmul(&a).unwrap() * 2.0).unwrap()).unwrap());
        adapter.insert(format!("base_model.model.{module}.lora_A.weight"), a);
        adapter.insert(format!("base_model.model.{module}.lora_B.weight"), b);
    }
    let dir = TempDir::new().unwrap();
    save(&adapter, dir.path().join("adapter_model.safetensors")).unwrap();
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4,
                        "target_modules": ["q_proj", "o_proj", "gate_proj"]});
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let base = altered(|_| (), |_| ());
    let merged = altered(|_| (), |weights| *weights = merged);
    let ids = [5, MASK, 7, 9].map(TokenId);
    let mut adapted = model(base.path(), None, Some(dir.path().to_owned()));
    assert!(adapted.spec().adapters_folded);
    let expected = model(merged.path(), None, None).inspect(&ids).unwrap().logits.concat();
    near("adapted", &adapted.inspect(&ids).unwrap().logits.concat(), &expected, 1e-5);
}

#[test]
fn weights_in_half_precision_are_read() {
    let halved = altered(
        |_| (),
        |weights| weights.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(DType::BF16).unwrap()),
    );
    let golden = Golden::open(&tiny("io.safetensors"));
    let found = model(halved.path(), None, None).inspect(&golden.ids(2)).unwrap();
    near("bf16", &found.logits.concat(), &golden.numbers(2, "logits"), 4e-2);
}

#[test]
fn what_would_be_computed_wrongly_is_refused_by_the_familys_own_keys() {
    for (key, value, message) in [
        ("use_sliding_window", json!(true), "`use_sliding_window` is true, supported is false or null"),
        ("sliding_window", json!(64), ""),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0}), "it changes the angles of positions"),
        ("use_mrope", json!(true), "`use_mrope` is true"),
        ("hidden_act", json!("gelu"), "`hidden_act` is \"gelu\", supported is \"silu\""),
        ("attention_bias", json!(false), "`attention_bias` is false, supported is true or null"),
        ("attention_bias", json!(true), ""),
        ("architectures", json!(["DreamForCausalLM"]), "`architectures` is [\"DreamForCausalLM\"], supported is"),
        ("num_experts", json!(8), "mixtures of experts"),
        ("num_attention_heads", json!(3), "`hidden_size` is 32, which `num_attention_heads` = 3 does not divide"),
        ("num_key_value_heads", json!(3), "`num_attention_heads` is 4, which `num_key_value_heads` = 3 does not"),
        ("head_dim", json!(16), "`head_dim` is 16, but `hidden_size` / `num_attention_heads` is 8"),
        ("num_hidden_layers", json!(0), "`num_hidden_layers` is 0, it must be 1 to"),
        ("intermediate_size", json!("wide"), "has a wrong `intermediate_size`"),
        ("max_position_embeddings", json!(1u64 << 40), "`max_position_embeddings` is 1099511627776"),
        ("mask_token_id", json!(64), "names token id 64, but the embedding has 64 rows"),
        ("mask_token_id", Value::Null, "`mask_token_id`"),
        ("vocab_size", json!(0), "the embedding has 0 rows"),
    ] {
        let mut keys = read_json(&tiny("config.json"));
        keys[key] = value.clone();
        // a window that is switched off has no effect
        match Config::parse(keys.to_string().as_bytes(), "config.json") {
            Ok(config) => assert_eq!((config.family, message), (Family::Dream, ""), "{key}: {value}"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("config.json") && error.contains(message), "{key}: {error}");
                assert_ne!(message, "", "{key}: {error}");
            }
        }
    }
    for key in ["num_key_value_heads", "mask_token_id", "max_position_embeddings"] {
        let mut keys = read_json(&tiny("config.json"));
        keys.as_object_mut().unwrap().remove(key);
        let error = Config::parse(keys.to_string().as_bytes(), "config.json").unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let refusal = |dir: &TempDir| {
        let source = Source::Directory { dir: dir.path().to_owned(), prism_head: None, adapter: None };
        load(&source, Device::Cpu).unwrap_err().to_string()
    };
    let bias = "model.layers.1.self_attn.k_proj.bias";
    let without = altered(|_| (), |weights| drop(weights.remove(bias)));
    assert!(refusal(&without).contains(bias), "{}", refusal(&without));
    let more = altered(
        |_| (),
        |weights| {
            let width = weights["model.norm.weight"].clone();
            weights.insert("model.layers.1.self_attn.o_proj.bias".to_owned(), width);
        },
    );
    assert!(refusal(&more).contains("`model.layers.1.self_attn.o_proj.bias` has no place"), "{}", refusal(&more));
    let out = TempDir::new().unwrap();
    let error = put_together(&tiny(""), None, None, &out.path().join("prism.safetensors"), false).unwrap_err();
    assert!(error.to_string().contains("PRISM checkpoints, are for LLaDA models"));
    assert!(fs::read_dir(out.path()).unwrap().next().is_none(), "nothing is written");
}
