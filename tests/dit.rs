//! The DiT of MDLM against numbers from its published definition, with PRISM heads without blocks
//! and with one; and the errors for models of other kinds.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{DType, Device as Cpu, Tensor};
use common::golden::{Golden, Tensors, near};
use remask::diffusion::{Canvas, Cell, Seed, TokenId};
use remask::model::{Denoiser, Device, Filter, Inspection, LoadError, ModelSpec, Row, Sampling, Source, load};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dit-tiny").join(name)
}

fn open(dir: &Path, head: Option<PathBuf>, adapter: Option<PathBuf>) -> Result<Box<dyn Denoiser>, LoadError> {
    load(&Source::Directory { dir: dir.to_owned(), prism_head: head, adapter }, Device::Cpu)
}

fn model(head: Option<&str>) -> Box<dyn Denoiser> {
    open(&tiny(""), head.map(tiny), None).unwrap()
}

#[test]
fn the_network_and_both_heads_are_the_published_ones() {
    let golden = Golden::open(&tiny("io.safetensors"));
    for (head, quality) in
        [("prism_head_0.safetensors", "quality_logit_0"), ("prism_head_1.safetensors", "quality_logit_1")]
    {
        let mut model = model(Some(head));
        let spec = model.spec();
        assert_eq!((spec.family.as_str(), spec.vocabulary, spec.mask, spec.canvas_max), ("mdlm", 67, TokenId(66), 48));
        assert!(spec.has_quality);
        for row in 0..2 {
            let Inspection { logits, hidden, quality_logits } = model.inspect(&golden.ids(row)).unwrap();
            near("hidden", &hidden.concat(), &golden.numbers(row, "hidden"), 1e-5);
            near("logits", &logits.concat(), &golden.numbers(row, "logits"), 1e-5);
            near(quality, &quality_logits.unwrap(), &golden.numbers(row, quality), 1e-5);
        }
    }
    let mut headless = model(None);
    assert!(!headless.spec().has_quality);
    assert_eq!(headless.inspect(&golden.ids(0)).unwrap().quality_logits, None);
}

#[test]
fn a_row_is_read_the_same_alone_and_in_company() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(Some("prism_head_1.safetensors"));
    let canvas = |(row, length): (usize, usize)| {
        let cells = golden.ids(row).into_iter().take(length).enumerate();
        Canvas::new(
            cells
                .map(|(at, token)| match (at % 3, TokenId(token.0 % 66)) {
                    (0, _) => Cell::Blank,
                    (1, token) => Cell::Filled(token),
                    (_, token) => Cell::Fixed(token),
                })
                .collect(),
        )
    };
    let canvases: Vec<Canvas> = [(0, 48), (1, 31), (0, 1), (1, 7), (0, 20)].map(canvas).into();
    let sampling = Sampling { temperature: 0.7, seed: Seed(3), step: 2, filter: Filter::ALL };
    let rows: Vec<Row<'_>> = canvases
        .iter()
        .map(|canvas| Row {
            canvas,
            shown: None,
            reuse: None,
            window: 0..canvas.len(),
            sampling,
            guidance: Some(0.5),
            biases: &[],
            blank_biases: None,
            credit: None,
            distributions: false,
            scores: None,
            block_length: None,
            only: &[],
            review: true,
            exact: false,
            present: false,
            best: false,
        })
        .collect();
    let together = model.read(&rows).unwrap();
    let readings = || together.iter().flatten();
    assert_eq!(readings().count(), rows.len());
    assert!(readings().take(2).all(|reading| reading.proposals.len() > 5 && reading.reviews.len() > 5));
    for (row, together) in rows.iter().zip(&together) {
        assert_eq!(&model.read(std::slice::from_ref(row)).unwrap()[0], together);
    }
}

/// A copy of the tiny model, changed.
fn altered(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut keys: Value = serde_json::from_slice(&std::fs::read(tiny("config.json")).unwrap()).unwrap();
    config(&mut keys);
    std::fs::write(dir.path().join("config.json"), keys.to_string()).unwrap();
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    tensors(&mut weights);
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

/// The tensors as they are called on the hub.
fn as_on_the_hub(tensors: &mut Tensors) {
    *tensors = tensors.drain().map(|(name, tensor)| (format!("backbone.{name}"), tensor)).collect();
    let angles = Tensor::zeros(8, DType::F32, &Cpu::Cpu).unwrap();
    tensors.insert("backbone.rotary_emb.inv_freq".to_owned(), angles);
}

#[test]
fn the_hubs_layouts_are_read_too() {
    let sizes = json!({
        "_name_or_path": "x", "auto_map": {"AutoConfig": "y"}, "cond_dim": 32, "dropout": 0.1, "hidden_dim": 64,
        "model_length": 48, "n_blocks": 2, "n_heads": 4, "return_dict": false, "time_conditioning": false,
        "torch_dtype": "float32", "transformers_version": "4.38.2", "vocab_size": 67,
    });
    // another name for the width, no name for the mask, keys without effect
    for publisher in [
        json!({"architectures": ["MDLM"], "model_type": "mdlm"}),
        json!({"architectures": ["Proseco"], "model_type": "proseco", "cfg": false, "cfg_num_classes": -1}),
    ] {
        let mut keys = sizes.clone();
        keys.as_object_mut().unwrap().extend(publisher.as_object().unwrap().clone());
        let published = altered(|config| *config = keys, as_on_the_hub);
        let golden = Golden::open(&tiny("io.safetensors"));
        let mut model = open(published.path(), None, None).unwrap();
        assert_eq!((model.spec().family.as_str(), model.spec().mask), ("mdlm", TokenId(66)));
        let logits = model.inspect(&golden.ids(1)).unwrap().logits.concat();
        near("logits", &logits, &golden.numbers(1, "logits"), 1e-5);
    }
}

#[test]
fn what_would_be_computed_wrongly_is_refused_by_name() {
    #[track_caller]
    fn check(dir: &TempDir, words: &str) {
        let error = open(dir.path(), None, None).err().unwrap().to_string();
        assert!(error.contains(words), "{error} lacks {words:?}");
    }
    for (key, value, words) in [
        ("time_conditioning", json!(true), "`time_conditioning` is true, supported is false"),
        ("architectures", json!(["UDLM"]), "`architectures` is [\"UDLM\"]"),
        ("causal", json!(true), "`causal` is true, supported is a model without this key"),
        ("n_heads", json!(3), "`n_heads` = 3 does not cut into even widths"),
        ("n_blocks", json!(0), "`n_blocks` is 0"),
        ("mask_token_id", json!(67), "names token id 67"),
        ("vocab_size", json!(1), "`vocab_size` is 1"),
        ("n_blocks", json!(3), "has no tensor `blocks.2.adaLN_modulation.bias`"),
        ("n_blocks", json!(1), "`blocks.1.adaLN_modulation.bias` has no place in the model"),
        ("cond_dim", json!(16), "has shape [384, 32], expected [384, 16]"),
        ("model_length", json!("long"), "has a wrong `model_length`"),
    ] {
        check(&altered(|config| config[key] = value, |_| ()), words);
    }
    let stray = |tensors: &mut Tensors| {
        let bias = tensors["blocks.0.norm1.weight"].clone();
        tensors.insert("blocks.0.norm1.bias".to_owned(), bias);
    };
    check(&altered(|_| (), stray), "`blocks.0.norm1.bias` has no place in the model");

    let llada = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny");
    let error = open(&tiny(""), Some(llada.join("prism_head.safetensors")), None).err().unwrap().to_string();
    assert!(error.contains("prism_head.safetensors: tensor `norm.bias` has no place"), "{error}");
    let error = open(&tiny(""), None, Some(llada)).err().unwrap().to_string();
    assert!(error.contains("is a LoRA adapter, which a DiT does not take"), "{error}");
}

#[test]
fn random_weights_have_the_shapes_of_the_configuration() {
    let source = Source::DummyDirectory { dir: tiny(""), seed: 3 };
    let mut dummy = load(&source, Device::Cpu).unwrap();
    let real = model(None);
    assert!(dummy.spec().has_quality);
    let shape = |spec: &ModelSpec| (spec.family.clone(), spec.vocabulary, spec.canvas_max, spec.mask);
    assert_eq!(shape(dummy.spec()), shape(real.spec()));
    assert!(dummy.spec().parameters > real.spec().parameters, "a head comes on top");
    let read = dummy.inspect(&[TokenId(1), TokenId(2), dummy.spec().mask]).unwrap();
    assert!(read.logits.iter().flatten().all(|logit| logit.is_finite()));
    assert_eq!(read.quality_logits.map(|qualities| qualities.len()), Some(3));
}
