//! Autoregressive models that measure texts: their numbers against those of transformers
//! (`tests/data/export_judges.py`), and `remask eval compare --judge`.

mod common;

use remask::model::{Causal, Device};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    log_probabilities: BTreeMap<String, Vec<f32>>,
}

fn judges() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/judges")
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(judges().join("expected.json")).unwrap()).unwrap()
}

fn load(path: &Path) -> Causal {
    Causal::load(path, Device::Cpu).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn check(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-3, "{what}: {found} is not {expected}");
    }
}

#[test]
fn the_probability_of_each_token_is_that_of_transformers() {
    let Expected { tokens, log_probabilities } = expected();
    for (name, expected) in &log_probabilities {
        let mut model = load(&judges().join(name));
        check(&model.log_probabilities(&tokens, 0).unwrap(), expected, name);
        // a prompt is context only, and nothing is left of the text before
        let left = &expected[expected.len() - (tokens.len() - 7)..];
        check(&model.log_probabilities(&tokens, 7).unwrap(), left, name);
    }
    for name in ["llama", "qwen2", "qwen3"] {
        let mut model = load(&judges().join(format!("{name}.gguf")));
        check(&model.log_probabilities(&tokens, 0).unwrap(), &log_probabilities[name], &format!("{name}.gguf"));
    }
    assert_eq!(log_probabilities.len(), 5);
}

#[test]
fn what_is_no_such_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let fault = |path: &Path| Causal::load(path, Device::Cpu).err().unwrap().to_string();
    for (name, words) in [
        ("llama", "cannot find tensor model.layers.0.self_attn.k_proj.weight"),
        ("qwen2", "cannot find tensor model.layers.0.self_attn.k_proj.weight"),
    ] {
        let copy = dir.path().join(name);
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(judges().join(name).join("config.json"), copy.join("config.json")).unwrap();
        let mut weights =
            candle_core::safetensors::load(judges().join(name).join("model.safetensors"), &candle_core::Device::Cpu)
                .unwrap();
        weights.remove("model.layers.0.self_attn.k_proj.weight").unwrap();
        candle_core::safetensors::save(&weights, copy.join("model.safetensors")).unwrap();
        assert!(fault(&copy).contains(words), "{}", fault(&copy));
    }
    let config = |keys: Value| {
        std::fs::write(dir.path().join("config.json"), keys.to_string()).unwrap();
        fault(dir.path())
    };
    for (keys, words) in [
        (json!({"model_type": "gpt2"}), "`model_type` is \"gpt2\", supported is \"llama\", \"mistral\", "),
        (json!({"model_type": "qwen2"}), "config.json is no configuration of this family: missing field `vocab_size`"),
    ] {
        let fault = config(keys);
        assert!(fault.contains(words), "{fault}");
    }
    let file = dir.path().join("x.gguf");
    std::fs::write(&file, b"GGUF").unwrap();
    assert!(fault(&file).contains("is no GGUF file"), "{}", fault(&file));
    let mut model = load(&judges().join("llama"));
    let error = model.log_probabilities(&[1, 2, 48], 1).unwrap_err().to_string();
    assert!(error.contains("token id 48"), "{error}");
    for judge in ["llama", "llama.gguf"] {
        let mut model = load(&judges().join(judge));
        let error = model.log_probabilities(&[48, 1, 2], 2).unwrap_err().to_string();
        assert!(error.contains("token id 48; the judge's ids are below 48: its tokenizer"), "{error}");
    }
    assert!(model.log_probabilities(&[], 0).unwrap().is_empty());
    assert_eq!(model.log_probabilities(&[3; 100], 0).unwrap().len(), 63, "as far as the model goes");
}

/// A tokenizer of the judges' vocabulary: a token for each letter, and one for all else.
fn letters() -> Value {
    let letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRST";
    let known = letters.chars().zip(1..).map(|(letter, id)| (letter.to_string(), json!(id)));
    let vocabulary: serde_json::Map<String, Value> = known.chain([("?".to_owned(), json!(0))]).collect();
    json!({"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "?"}})
}

fn compare(args: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_remask");
    Command::new(binary).args(["eval", "compare", "--model-id", "toy"]).args(args).output().unwrap()
}

#[test]
fn a_comparison_measures_the_texts() {
    let dir = tempfile::tempdir().unwrap();
    let judge = dir.path().join("judge");
    std::fs::create_dir(&judge).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(judges().join("qwen2").join(file), judge.join(file)).unwrap();
    }
    std::fs::write(judge.join("tokenizer.json"), letters().to_string()).unwrap();
    let [data, answers, judge] = ["data.jsonl", "answers.jsonl", "judge"].map(|name| dir.path().join(name));
    let [data, answers, judge] = [&data, &answers, &judge].map(|path| path.to_str().unwrap());
    std::fs::write(data, "{\"prompt\": \"once \"}\n{\"prompt\": \"the sea \"}\n").unwrap();
    let args = ["--policy", "off", "--steps", "4", "--max-tokens", "8", "--data", data, "--judge", judge];
    let output = compare(&[&args[..], &["--answers", answers, "--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["right"].is_null(), "{line}");

    // the same from the answers and the model itself
    let ids = |text: &str| -> Vec<u32> {
        let vocabulary = letters()["model"]["vocab"].clone();
        text.chars().map(|letter| vocabulary[letter.to_string()].as_u64().unwrap_or(0) as u32).collect()
    };
    let (mut logs, mut model) = (Vec::new(), load(&judges().join("qwen2")));
    for (answer, prompt) in std::fs::read_to_string(answers).unwrap().lines().zip(["once ", "the sea "]) {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let text = answer["text"].as_str().unwrap();
        assert!(text.starts_with(prompt) && answer["right"].is_null(), "{answer}");
        logs.extend(model.log_probabilities(&ids(text), prompt.len()).unwrap());
    }
    let perplexity = (-logs.iter().map(|log| f64::from(*log)).sum::<f64>() / logs.len() as f64).exp();
    let found = line["perplexity"].as_f64().unwrap();
    assert!((found / perplexity - 1.0).abs() < 1e-6, "{found} is not {perplexity}");
    assert_eq!(line["tokens"], logs.len());
    assert!(line["entropy"].as_f64().unwrap() > 0.0, "{line}");

    let table = String::from_utf8(compare(&args).stdout).unwrap();
    assert!(table.contains("perplexity entropy") && table.lines().count() == 3, "{table}");
    for (extra, words) in [
        (&["--judge", "toy"][..], "toy is a diffusion model; a judge is an autoregressive one"),
        (&["--judge", judge, "--plot", "x.svg"], "a plot shows the share of right answers"),
    ] {
        let output = compare(&[&args[..8], extra].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{error}");
    }
}
