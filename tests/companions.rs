//! The files beside a model's weights go along when the model is trained, converted or quantised:
//! tokenizer, special tokens, chat templates and defaults.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::data;
use remask::model::{GgufVocabulary, put_together};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Each companion that is not `config.json`, and a content that shows where it went.
const COMPANIONS: [(&str, &str); 7] = [
    ("generation_config.json", r#"{"block_length": 16}"#),
    ("tokenizer.json", include_str!("../models/toy/tokenizer.json")),
    ("tokenizer_config.json", r#"{"bos_token": "<s>"}"#),
    ("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#),
    ("chat_template.jinja", "default of a file"),
    ("additional_chat_templates/tool_use.jinja", "tools of a file"),
    ("chat_templates/rag.jinja", "another of a file"),
];

/// Every file of a directory and its folders that is no weight and no record of training.
fn companions(dir: &Path) -> BTreeMap<String, String> {
    let folders = ["", "additional_chat_templates", "chat_templates"];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(dir.join(folder)).into_iter().flatten());
    let files = files.map(|entry| entry.unwrap().path()).filter(|file| file.is_file());
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "json" || end == "jinja"));
    let name = |file: &Path| file.strip_prefix(dir).unwrap().display().to_string();
    files.map(|file| (name(&file), std::fs::read_to_string(&file).unwrap())).collect()
}

/// A model with every companion, a head, and a text to train on.
fn model() -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors", "prism_head.safetensors"] {
        std::fs::copy(data("llada-tiny").join(name), dir.path().join(name)).unwrap();
    }
    for (name, content) in COMPANIONS {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    std::fs::write(dir.path().join("data.txt"), "abcdefgh".repeat(64)).unwrap();
    dir
}

#[test]
fn every_command_that_writes_a_model_takes_its_companions_along() {
    let model = model();
    let expected = companions(model.path());
    assert_eq!(expected.len(), COMPANIONS.len() + 1);
    let whole = model.path().join("whole.safetensors");
    put_together(model.path(), None, None, &whole, false).unwrap();
    let text = model.path().join("data.txt").display().to_string();
    let train = ["--steps", "1", "--batch", "1", "--length", "8", "--learning-rate", "1e-3", "--data", &text];
    let out = TempDir::new().unwrap();
    for (name, args) in [
        ("base", [&["train", "base"], &train[..]].concat()),
        ("deeper", [&["train", "base", "--layers", "4"], &train[..]].concat()),
        ("prism", [&["train", "prism"], &train[..]].concat()),
        ("convert", vec!["convert", "--checkpoint", whole.to_str().unwrap()]),
    ] {
        let out = out.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        let done = command.args(&args).arg("--model-id").arg(model.path()).arg("--out").arg(&out).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        let mut found = companions(&out);
        if name == "deeper" {
            let config: Value = serde_json::from_str(&found["config.json"]).unwrap();
            assert_eq!(config["n_layers"], 4);
            found.insert("config.json".to_owned(), expected["config.json"].clone());
        }
        assert_eq!(found, expected, "{name}");
    }

    let file = out.path().join("model.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    let done = command.arg("quantize").arg("--model-id").arg(model.path()).arg("--out").arg(&file).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let config = GgufVocabulary::read(&file).unwrap().unwrap().tokenizer_config.unwrap();
    for word in ["<s>", "<pad>", "default of a file", "tools of a file", "another of a file"] {
        assert!(config.contains(word), "{word} in {config}");
    }
}

#[test]
fn quantize_takes_no_file_that_is_no_tokenizer() {
    let model = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(data("llada-tiny").join(name), model.path().join(name)).unwrap();
    }
    for content in ["", "{}", "\u{1}\u{2}", "[1, 2]"] {
        fs::write(model.path().join("tokenizer.json"), content).unwrap();
        let file = model.path().join("model.gguf");
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        let done =
            command.arg("quantize").arg("--model-id").arg(model.path()).arg("--out").arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && !file.exists(), "{content:?}");
        assert!(told.contains("tokenizer.json") && told.lines().count() == 1, "{content:?}: {told}");
    }
}
