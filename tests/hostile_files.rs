//! Files of weights that are made to hurt are refused in a sentence: nothing panics, and no memory
//! is taken for what they promise.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::data;
use remask::model::{Device, Source, load};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const HEAD: &str = "prism_head.safetensors";
/// The memory that a refusal may take.
const ROOM: u64 = 256 << 20;

/// A copy of the tiny model, with these of its other files.
fn copy(files: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in ["config.json", WEIGHTS].iter().chain(files) {
        fs::copy(data("llada-tiny").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[track_caller]
fn check_source(source: &Source, words: &str) {
    let before = resident_most();
    let error = load(source, Device::Cpu).map(drop).unwrap_err().to_string();
    assert!(error.contains(words), "{error:?} lacks {words:?}");
    assert!(!error.contains('\n') && error.len() < 1000, "{error:?} is longer than a sentence");
    assert!(resident_most() < before + ROOM, "{words}: {} bytes", resident_most() - before);
}

#[track_caller]
fn check(dir: &TempDir, words: &str) {
    let dir = dir.path().to_owned();
    let adapter = dir.join("adapter_config.json").symlink_metadata().is_ok().then(|| dir.clone());
    check_source(&Source::Directory { dir, prism_head: None, adapter }, words);
}

/// The most memory that the process had, in bytes.
fn resident_most() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
}

/// A safetensors file with this header, which says it has `length` bytes.
fn safetensors(length: u64, header: &str) -> Vec<u8> {
    [&length.to_le_bytes(), header.as_bytes(), &[0; 64]].concat()
}

fn header(header: &str) -> Vec<u8> {
    safetensors(header.len() as u64, header)
}

#[test]
fn hostile_safetensors() {
    let tensor = |shape: &str, place: &str| {
        header(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{place}}}}}"#))
    };
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let nested = format!(r#"{{"__metadata__":{}}}"#, "[".repeat(100_000));
    let dir = copy(&[]);
    for (bytes, words) in [
        (safetensors(1 << 60, "{}"), "its header has 1152921504606846976 bytes, at most 16777216 are allowed"),
        (safetensors(u64::MAX, "{}"), "its header has 18446744073709551615 bytes"),
        (safetensors(1 << 20, "{}"), "is damaged or incomplete"),
        (header("[]"), "its header is no JSON: invalid type: sequence, expected an object of tensors"),
        (header(&nested), "its header is no JSON"),
        (tensor("[1099511627776,1099511627776]", "[0,64]"), "is damaged or incomplete"),
        (tensor("[16]", "[0,1152921504606846976]"), "is damaged or incomplete"),
        (tensor("[16]", "[64,0]"), "is damaged or incomplete"),
        (tensor("[-16]", "[0,64]"), "is damaged or incomplete"),
        (header(&format!("{{{a},{a}}}")), "`a` is in its header twice"),
        (
            header(&format!("{{\"__metadata__\":{{}},{a},\"__metadata__\":{{}}}}")),
            "`__metadata__` is in its header twice",
        ),
        (header(&a.replace("F32", "F5").replacen('"', "{\"", 1).replace("]}", "]}}")), "is damaged or incomplete"),
    ] {
        fs::write(dir.path().join(WEIGHTS), bytes).unwrap();
        check(&dir, words);
    }
}

/// The beginning of a GGUF file with so many tensors and keys, and what follows.
fn gguf(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    [b"GGUF", &3_u32.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes(), &rest.concat(), &[0; 64]].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A list of `length` values of a type, by GGUF's number.
fn list(kind: u32, length: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat()
}

#[test]
fn hostile_gguf() {
    const U32: [u8; 4] = 4_u32.to_le_bytes();
    const STRING: [u8; 4] = 8_u32.to_le_bytes();
    const LIST: [u8; 4] = 9_u32.to_le_bytes();
    let (a, alignment) = (string("a"), string("general.alignment"));
    let llada = [string("general.architecture"), STRING.to_vec(), string("llada")].concat();
    let one: &[u8] = &1_u32.to_le_bytes();
    let vast = (1_u64 << 62).to_le_bytes();
    let tensor = |name: &str, dimensions: u32| {
        [&string(name)[..], &dimensions.to_le_bytes(), &1_u64.to_le_bytes(), &[0; 12]].concat()
    };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("model.gguf");
    for (bytes, words) in [
        (gguf(0, 1 << 31, &[]), "says it has 2147483648 keys, at most 65536 are allowed"),
        (gguf(1 << 62, 0, &[]), "says it has 4611686018427387904 tensors"),
        (gguf(0, 60_000, &[]), "has the key `` twice"),
        (gguf(0, 1, &[&vast]), "is damaged, incomplete or no GGUF file"),
        (gguf(0, 1, &[&a, &STRING, &vast]), "is damaged, incomplete or no GGUF file"),
        (gguf(0, 1, &[&a, &LIST, &list(8, 1 << 40)]), "lists of more than 4194304 elements"),
        (gguf(0, 1, &[&a, &LIST, &list(0, 1 << 23), &vec![0; 1 << 23]]), "lists of more than 4194304 elements"),
        (gguf(0, 1, &[&a, &LIST, &list(0, 1 << 20)]), "is damaged, incomplete or no GGUF file"),
        (gguf(0, 1, &[&a, &LIST, &list(9, 1).repeat(100_000)]), "has lists in lists, more than 4 deep"),
        (gguf(0, 1, &[&a, &LIST, &list(99, 1)]), "is damaged, incomplete or no GGUF file"),
        (gguf(0, 2, &[&a, &U32, one, &a, &U32, one]), "has the key `a` twice"),
        (gguf(0, 1, &[&alignment, &U32, &[0; 4]]), "says `general.alignment` is 0, it must be a power of two"),
        (gguf(0, 1, &[&alignment, &U32, &3_u32.to_le_bytes()]), "says `general.alignment` is 3"),
        (gguf(2, 0, &[&tensor("a", 1), &tensor("a", 1)]), "has the tensor `a` twice"),
        (gguf(1, 0, &[&tensor("a", u32::MAX)]), "is damaged, incomplete or no GGUF file"),
        (
            gguf(2, 1, &[&llada, &tensor("token_embd.weight", 1), &tensor("model.transformer.wte.weight", 1)]),
            "is there a second time under another name",
        ),
    ] {
        fs::write(&file, bytes).unwrap();
        check_source(&Source::Gguf { file: file.clone(), prism_head: None }, words);
    }
}

#[test]
fn hostile_indices_of_shards() {
    let dir = copy(&[]);
    fs::rename(dir.path().join(WEIGHTS), dir.path().join("a.safetensors")).unwrap();
    let index = |index: &str| fs::write(dir.path().join(INDEX), index).unwrap();
    for shard in
        ["../../etc/passwd", "/etc/passwd", "a/../../b.safetensors", "..", ".hidden", "..\\b", "a/b.safetensors"]
    {
        index(&json!({"weight_map": {"a": "a.safetensors", "b": shard}}).to_string());
        check(&dir, &format!("names {shard:?}, which is no file beside it"));
    }
    for (text, words) in [
        (json!({"weight_map": {"a": "b.safetensors"}}).to_string(), "names b.safetensors, which is not beside it"),
        (json!({"weight_map": {"a": INDEX}}).to_string(), "is no file of weights by its name"),
        (json!({"weight_map": {"a": 7}}).to_string(), "has a wrong `weight_map.a`"),
        (json!({"weight_map": []}).to_string(), "has a wrong `weight_map`"),
        (json!({"metadata": {}}).to_string(), "missing field `weight_map`"),
        ("{\"weight_map\":".repeat(100_000), "is not a JSON object"),
    ] {
        index(&text);
        check(&dir, words);
    }
}

#[test]
fn links_that_lead_nowhere_are_not_taken_for_no_file() {
    let files = [HEAD, "generation_config.json", "adapter_config.json", "adapter_model.safetensors"];
    for (file, is_loop) in ["config.json", WEIGHTS].iter().chain(&files).flat_map(|file| [(file, true), (file, false)])
    {
        let dir = copy(&files);
        let path = dir.path().join(file);
        fs::remove_file(&path).unwrap();
        symlink(if is_loop { &path } else { Path::new("nowhere") }, &path).unwrap();
        check(&dir, file);
    }
    let dir = copy(&[]);
    let shard = dir.path().join("a.safetensors");
    symlink(&shard, &shard).unwrap();
    fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    fs::write(dir.path().join(INDEX), json!({"weight_map": {"a": "a.safetensors"}}).to_string()).unwrap();
    check(&dir, "a.safetensors");
}

#[test]
fn hostile_adapters() {
    let dir = copy(&["adapter_config.json", "adapter_model.safetensors"]);
    let config = dir.path().join("adapter_config.json");
    let good: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    for (key, value, words) in [
        ("r", json!(0), "says `r` is 0, it must be 1 to 262144"),
        ("r", json!(1_u64 << 31), "says `r` is 2147483648, it must be 1 to 262144"),
        ("r", json!(-1), "has a wrong `r`"),
        ("r", json!(1.5), "has a wrong `r`"),
        ("r", json!(u64::MAX), "says `r` is 18446744073709551615"),
        ("rank_pattern", json!({"q_proj": 1_u64 << 31}), "expected [2147483648, 64]"),
        ("rank_pattern", json!({"q_proj": 0}), "a rank is a whole number from 1"),
        ("lora_alpha", json!("8"), "has a wrong `lora_alpha`"),
    ] {
        let mut changed = good.clone();
        changed[key] = value;
        fs::write(&config, changed.to_string()).unwrap();
        check(&dir, words);
    }

    // a rank of no rows, in a checkpoint without a configuration of its adapters
    let dir = copy(&[]);
    let mut tensors = candle_core::safetensors::load(
        data("llada-tiny").join("prism_checkpoint.safetensors"),
        &candle_core::Device::Cpu,
    )
    .unwrap();
    for (name, tensor) in &mut tensors {
        let dimension = usize::from(name.contains("lora_B"));
        if name.contains("lora_") {
            *tensor = tensor.narrow(dimension, 0, 0).unwrap();
        }
    }
    let checkpoint = dir.path().join("checkpoint.safetensors");
    candle_core::safetensors::save(&tensors, &checkpoint).unwrap();
    let source = Source::Directory { dir: dir.path().to_owned(), prism_head: Some(checkpoint), adapter: None };
    check_source(&source, "is of an adapter of rank 0");
}

/// Every fifth byte of the part that describes the tensors, changed.
#[test]
fn damaged_pickles() {
    let dir = copy(&["prism_checkpoint.bin"]);
    let checkpoint = dir.path().join("prism_checkpoint.bin");
    let whole = fs::read(&checkpoint).unwrap();
    let start = whole.windows(8).position(|window| window == b"data.pkl").unwrap() + 8;
    let source = Source::Directory { dir: dir.path().to_owned(), prism_head: Some(checkpoint.clone()), adapter: None };
    let mut refused = 0;
    for at in (start..start + 2000).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&checkpoint, bytes).unwrap();
        refused += usize::from(load(&source, Device::Cpu).is_err());
    }
    assert!(refused > 100, "{refused}");
}
