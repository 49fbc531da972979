//! iLLaDA: LLaDA's network with fewer key and value heads than query heads, and with the embedding
//! as output layer. Its traces are in `tests/reference.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{DType, Device as Cpu};
use common::data;
use common::golden::{Golden, model, near};
use remask::diffusion::TokenId;
use remask::model::{Config, Denoiser, Device, Family, Format, Source, load, quantise};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn tiny(name: &str) -> PathBuf {
    data("illada-tiny").join(name)
}

fn check(model: &mut dyn Denoiser, tolerance: f64) {
    let golden = Golden::open(&tiny("io.safetensors"));
    for row in 0..3 {
        let found = model.inspect(&golden.ids(row)).unwrap();
        near("logits", &found.logits.concat(), &golden.numbers(row, "logits"), tolerance);
        near("hidden", &found.hidden.concat(), &golden.numbers(row, "hidden"), tolerance);
    }
}

fn as_gguf(dir: &Path, format: Format, check: impl Fn(&mut dyn Denoiser)) {
    let out = TempDir::new().unwrap();
    let file = out.path().join("model.gguf");
    quantise(dir, None, None, format, &file, false).unwrap();
    check(&mut *load(&Source::Gguf { file, prism_head: None }, Device::Cpu).unwrap());
}

#[test]
fn logits_and_states_are_those_of_the_published_code() {
    let mut model = model(&tiny(""), None, None);
    let spec = model.spec();
    assert_eq!((spec.family.as_str(), spec.mask, &spec.ends[..]), ("llada", TokenId(5), &[TokenId(257)][..]));
    assert_eq!(spec.parameters, 112_576);
    check(&mut *model, 1e-5);
}

/// The hub's file may hold the output layer as a copy of the embedding, which the published code
/// does not read. Here the copy is another matrix.
#[test]
fn an_output_layer_in_the_file_of_a_tied_model_is_not_read() {
    let dir = TempDir::new().unwrap();
    fs::copy(tiny("config.json"), dir.path().join("config.json")).unwrap();
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    let other = (&weights["model.transformer.wte.weight"] * -3.0).unwrap();
    weights.insert("model.transformer.ff_out.weight".to_owned(), other);
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    check(&mut *model(dir.path(), None, None), 1e-5);
    as_gguf(dir.path(), Format::F16, |model| check(model, 5e-3));
}

#[test]
fn in_a_gguf_file_it_is_the_same_model() {
    for (format, tolerance) in [(Format::F16, 5e-3), (Format::Q8_0, 8e-2)] {
        as_gguf(&tiny(""), format, |model| {
            assert_eq!((model.spec().mask, model.spec().parameters), (TokenId(5), 112_576));
            check(model, tolerance);
        });
    }
    // also from weights in half precision
    let dir = TempDir::new().unwrap();
    fs::copy(tiny("config.json"), dir.path().join("config.json")).unwrap();
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    weights.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(DType::BF16).unwrap());
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    as_gguf(dir.path(), Format::F16, |model| check(model, 4e-2));
}

/// Sizes of iLLaDA-8B's model card (arXiv 2606.25331).
#[test]
fn the_published_sizes_are_read() {
    let mut keys = serde_json::from_slice::<serde_json::Value>(&fs::read(tiny("config.json")).unwrap()).unwrap();
    for (key, size) in [
        ("d_model", 4096),
        ("n_layers", 32),
        ("n_heads", 32),
        ("n_kv_heads", 8),
        ("mlp_hidden_size", 14_336),
        ("vocab_size", 155_136),
        ("embedding_size", 155_136),
        ("max_sequence_length", 8192),
    ] {
        keys[key] = json!(size);
    }
    let config = Config::parse(keys.to_string().as_bytes(), "config.json").unwrap();
    assert_eq!((config.family, config.head_dim(), config.weight_tying), (Family::Llada, 128, true));
}
