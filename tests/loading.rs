//! Damaged model files and files of other models: one sentence that names the file and the fault.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{DType, Device as Cpu, Tensor};
use remask::model::{Device, Source, load};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Tensors = HashMap<String, Tensor>;

const Q_PROJ: &str = "model.transformer.blocks.1.q_proj.weight";

/// A copy of the tiny model's files, to be damaged.
struct Copy {
    dir: TempDir,
}

impl Copy {
    fn of(files: &[&str]) -> Self {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny");
        let dir = TempDir::new().unwrap();
        for file in ["config.json", "model.safetensors"].iter().chain(files) {
            std::fs::copy(data.join(file), dir.path().join(file)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn remove(self, file: &str) -> Self {
        std::fs::remove_file(self.path(file)).unwrap();
        self
    }

    fn cut(self, file: &str, bytes: usize) -> Self {
        let whole = std::fs::read(self.path(file)).unwrap();
        std::fs::write(self.path(file), &whole[..bytes]).unwrap();
        self
    }

    fn tensors(self, file: &str, change: impl FnOnce(&mut Tensors)) -> Self {
        let mut tensors = load_tensors(self.path(file), &Cpu::Cpu).unwrap();
        change(&mut tensors);
        save(&tensors, self.path(file)).unwrap();
        self
    }

    fn json(self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::from_slice(&std::fs::read(self.path(file)).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(self.path(file), value.to_string()).unwrap();
        self
    }

    /// Loads the copy, with a head and an adapter where they are named, and expects this error.
    fn refused(&self, head: Option<&str>, adapter: bool, words: &[&str]) {
        let dir = self.dir.path().to_owned();
        let source = Source::Directory {
            prism_head: head.map(|file| self.path(file)),
            adapter: adapter.then(|| dir.clone()),
            dir,
        };
        let error = load(&source, Device::Cpu).unwrap_err().to_string();
        println!("{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error:?} lacks one of {words:?}");
        assert!(!error.contains('\n'), "{error:?} is longer than a sentence");
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Cpu::Cpu).unwrap()
}

#[test]
fn a_directory_without_a_model() {
    Copy::of(&[]).remove("config.json").refused(None, false, &["cannot read", "config.json", "No such file"]);
    Copy::of(&[]).remove("model.safetensors").refused(None, false, &["cannot read", "model.safetensors"]);
    let copy = Copy::of(&[]);
    std::fs::write(copy.path("config.json"), "{").unwrap();
    copy.refused(None, false, &["config.json is not a JSON object", "line 1"]);
}

#[test]
fn another_architecture() {
    let other = |key: &str, value: Value| Copy::of(&[]).json("config.json", |config| config[key] = value);
    let words = "`model_type` is \"qwen2\", supported is \"llada\", \"Dream\", \"RemeDi\", \"mdlm\" or \"proseco\"";
    other("model_type", json!("qwen2")).refused(None, false, &["config.json", words]);
    other("model_type", json!("Dream")).refused(None, false, &["`architectures` is [\"LLaDAModelLM\"]", "DreamModel"]);
    other("block_type", json!("sequential")).refused(None, false, &["`block_type` is \"sequential\"", "\"llama\""]);
}

#[test]
fn truncated_weights() {
    for bytes in [0, 7, 100, 5000, 515_503] {
        let words = ["model.safetensors is damaged or incomplete"];
        Copy::of(&[]).cut("model.safetensors", bytes).refused(None, false, &words);
    }
    let checkpoint = "prism_checkpoint.bin";
    for bytes in [0, 1000, 569_474] {
        let words = ["prism_checkpoint.bin is damaged or incomplete"];
        Copy::of(&[checkpoint]).cut(checkpoint, bytes).refused(Some(checkpoint), false, &words);
    }
}

#[test]
fn weights_of_another_model() {
    let file = "model.safetensors";
    let changed = |change: fn(&mut Tensors)| Copy::of(&[]).tensors(file, change);
    changed(|tensors| drop(tensors.remove(Q_PROJ))).refused(None, false, &[file, "has no tensor", Q_PROJ]);
    changed(|tensors| drop(tensors.insert(Q_PROJ.into(), zeros(&[64, 32])))).refused(
        None,
        false,
        &[file, Q_PROJ, "has shape [64, 32], expected [64, 64]"],
    );
    changed(|tensors| drop(tensors.insert(Q_PROJ.into(), zeros(&[64, 64]).to_dtype(DType::I64).unwrap()))).refused(
        None,
        false,
        &[file, Q_PROJ, "stored as I64", "F32, F16 and BF16"],
    );
    changed(|tensors| drop(tensors.insert(Q_PROJ.replace("weight", "bias"), zeros(&[64])))).refused(
        None,
        false,
        &[file, "q_proj.bias", "has no place in the model that config.json describes"],
    );
    changed(|tensors| drop(tensors.insert("lm_head.weight".into(), zeros(&[64])))).refused(
        None,
        false,
        &[file, "`lm_head.weight` has no place in the model"],
    );
}

#[test]
fn a_shard_that_is_not_there() {
    let copy = Copy::of(&[]).remove("model.safetensors");
    let index = json!({"weight_map": {Q_PROJ: "model-00002-of-00002.safetensors"}});
    std::fs::write(copy.path("model.safetensors.index.json"), index.to_string()).unwrap();
    let words = ["model.safetensors.index.json names model-00002-of-00002.safetensors, which is not beside it"];
    copy.refused(None, false, &words);
}

#[test]
fn a_tensor_given_twice() {
    let files = ["prism_checkpoint.safetensors", "adapter_config.json", "adapter_model.safetensors"];
    let words = ["adapter_model.safetensors: tensor", "lora_A", "is in", "prism_checkpoint.safetensors as well"];
    Copy::of(&files).refused(Some("prism_checkpoint.safetensors"), true, &words);
}

#[test]
fn adapters_that_do_not_fit() {
    let copy = || Copy::of(&["adapter_config.json", "adapter_model.safetensors"]);
    let config = |key: &str, value: Value| copy().json("adapter_config.json", |config| config[key] = value);
    config("r", json!(4)).refused(
        None,
        true,
        &["adapter_model.safetensors", "lora_A", "shape [8, 64], expected [4, 64]"],
    );
    config("r", json!(0)).refused(None, true, &["adapter_config.json says `r` is 0"]);
    config("peft_type", json!("LOHA")).refused(None, true, &["`peft_type` is \"LOHA\", supported is \"LORA\""]);
    config("bias", json!("all")).refused(None, true, &["`bias` is \"all\", supported is \"none\""]);
    config("use_dora", json!(true)).refused(None, true, &["adapter_config.json: `use_dora` is true"]);
    config("rank_pattern", json!({"q_proj": 4})).refused(None, true, &["q_proj", "shape [8, 64], expected [4, 64]"]);
    config("modules_to_save", json!(["ff_out"])).refused(None, true, &["`modules_to_save` is [\"ff_out\"]"]);
    config("init_lora_weights", json!("pissa")).refused(None, true, &["`init_lora_weights` is \"pissa\""]);
    config("target_modules", json!(["q_proj", "k_proj"])).refused(None, true, &["v_proj", "does not list"]);
    config("exclude_modules", json!(["1.v_proj"])).refused(None, true, &["1.v_proj", "does not list"]);
    let lora = "base_model.model.model.transformer.blocks.1.q_proj.lora_B.weight";
    let tensors = |change: fn(&mut Tensors, &str)| copy().tensors("adapter_model.safetensors", |t| change(t, lora));
    tensors(|tensors, lora| drop(tensors.remove(lora))).refused(None, true, &["has no tensor", "1.q_proj.lora_B"]);
    tensors(|tensors, lora| drop(tensors.insert(lora.replace(".1.", ".7."), zeros(&[64, 8])))).refused(
        None,
        true,
        &["blocks.7.q_proj.lora_B.weight", "adapts no matrix"],
    );
    copy().tensors("adapter_model.safetensors", Tensors::clear).refused(None, true, &["none of the tensors *.lora_A"]);
}

/// As PEFT 0.21 writes the configurations of adapters, and names their modules.
#[test]
fn adapters_as_peft_saves_them() {
    let logits = |adapter: Option<&Path>| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny");
        let source = Source::Directory { dir, prism_head: None, adapter: adapter.map(Path::to_owned) };
        load(&source, Device::Cpu).unwrap().inspect(&[5, 3, 7].map(remask::diffusion::TokenId)).unwrap().logits
    };
    let copy = || Copy::of(&["adapter_config.json", "adapter_model.safetensors"]);
    let expected = logits(Some(copy().dir.path()));
    assert_ne!(expected, logits(None));
    let full: Vec<String> = ["q_proj", "k_proj", "v_proj"]
        .iter()
        .flat_map(|module| (0..2).map(move |block| format!("transformer.blocks.{block}.{module}")))
        .collect();
    let defaults = json!({
        "task_type": "CAUSAL_LM", "auto_mapping": null, "peft_version": "0.21.2", "revision": null,
        "base_model_name_or_path": "GSAI-ML/LLaDA-8B-Instruct", "inference_mode": true, "exclude_modules": null,
        "lora_dropout": 0.05, "fan_in_fan_out": false, "use_rslora": false, "modules_to_save": null,
        "init_lora_weights": true, "layers_to_transform": null, "layers_pattern": null, "rank_pattern": {},
        "alpha_pattern": {}, "megatron_config": null, "megatron_core": "megatron.core",
        "trainable_token_indices": null, "loftq_config": {}, "eva_config": null, "use_dora": false,
        "use_qalora": false, "qalora_group_size": 16, "layer_replication": null, "lora_bias": false,
        "target_parameters": null, "use_bdlora": null, "ensure_weight_tying": false,
    });
    for targets in [
        json!(["v_proj", "q_proj", "k_proj"]),
        json!(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]),
        json!(full),
        json!("all-linear"),
        json!(r".*\.(q|k|v)_proj"),
    ] {
        let copy = copy().json("adapter_config.json", |config| {
            config.as_object_mut().unwrap().extend(defaults.as_object().unwrap().clone());
            config["target_modules"] = targets.clone();
        });
        assert_eq!(logits(Some(copy.dir.path())), expected, "{targets}");
    }
    let doubled = copy().json("adapter_config.json", |config| {
        config["lora_alpha"] = json!(4);
        config["alpha_pattern"] = json!({r"blocks\.\d\..*": 8});
    });
    assert_eq!(logits(Some(doubled.dir.path())), expected, "alpha by module");
}

#[test]
fn heads_that_do_not_fit() {
    let file = "prism_head.safetensors";
    let head = |change: fn(&mut Tensors)| Copy::of(&[file]).tensors(file, change);
    let narrow = head(|tensors| {
        tensors.insert("proj1.weight".into(), zeros(&[32, 32]));
    });
    narrow.refused(None, false, &[file, "`proj1.weight` has shape [32, 32], expected [SIZE, 64]"]);
    head(|tensors| drop(tensors.remove("proj2.bias"))).refused(Some(file), false, &["has no tensor `proj2.bias`"]);
    head(|tensors| drop(tensors.insert("proj2.scale".into(), zeros(&[1])))).refused(
        None,
        false,
        &["`proj2.scale` has no place"],
    );
    Copy::of(&[]).refused(Some("model.safetensors"), false, &["none of the tensors norm.*, proj1.* and proj2.*"]);
    Copy::of(&[]).refused(Some("config.json"), false, &["config.json is no file of weights by its name"]);
    Copy::of(&[]).refused(Some("nowhere.safetensors"), false, &["cannot read", "nowhere.safetensors"]);
}

#[test]
fn a_gain_that_is_not_a_number() {
    for (file, name) in
        [("model.safetensors", "model.transformer.ln_f.weight"), ("prism_head.safetensors", "norm.bias")]
    {
        let damaged = Copy::of(&["prism_head.safetensors"]).tensors(file, |tensors| {
            tensors.insert(name.into(), (&tensors[name] * f64::NAN).unwrap());
        });
        damaged.refused(None, false, &[file, name, "holds a number that is not finite"]);
    }
}

#[test]
fn devices_by_name() {
    for (word, device) in
        [("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
    {
        assert_eq!(word.parse(), Ok(device));
    }
    for word in ["gpu", "cuda:", "cuda:-1", "cpu:0", ""] {
        let error = word.parse::<Device>().unwrap_err().to_string();
        assert!(error.contains("none of auto, cpu, cuda and cuda:N"), "{error}");
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_this_binary_cannot_use() {
    let dir = Copy::of(&[]).dir;
    let source = Source::Directory { dir: dir.path().to_owned(), prism_head: None, adapter: None };
    let error = load(&source, Device::Cuda(1)).unwrap_err().to_string();
    assert!(error.contains("`cuda:1`") && error.contains("--features cuda"), "{error}");
    assert_eq!(load(&source, Device::Auto).unwrap().spec().device, "cpu");
}
