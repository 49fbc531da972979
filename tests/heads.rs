//! A quality head goes with the weights it was made for, however they are stored. With others it is
//! refused unless that is allowed.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use candle_core::quantized::gguf_file::Content;
use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{DType, Device as Cpu, Tensor};
use common::data;
use remask::model::{
    Device, Format, HeadEntry, LoadError, LoadOptions, Source, annotate_head, load_with, put_together, quantise,
    take_apart,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const OTHER: &str = "was made for the model";

/// A model that was trained with an adapter and a head: the published checkpoint, taken apart.
fn apart() -> TempDir {
    let (tiny, out) = (data("llada-tiny"), TempDir::new().unwrap());
    take_apart(&tiny.join("prism_checkpoint.safetensors"), &tiny, out.path(), false).unwrap();
    out
}

/// The weights of `from`, each changed, as a model without a head.
fn changed(from: &Path, change: &dyn Fn(&str, &Tensor) -> Tensor) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = load_tensors(from.join("model.safetensors"), &Cpu::Cpu).unwrap();
    tensors.iter_mut().for_each(|(name, tensor)| *tensor = change(name, tensor));
    save(&tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn other(_: &str, tensor: &Tensor) -> Tensor {
    (tensor * 1.05).unwrap()
}

fn open(source: &Source, allow_foreign_head: bool) -> Result<bool, LoadError> {
    let options = LoadOptions { allow_foreign_head, ..LoadOptions::default() };
    load_with(source, Device::Cpu, options).map(|model| model.spec().has_quality)
}

fn directory(dir: &Path, prism_head: Option<&Path>, adapter: Option<&Path>) -> Source {
    let [prism_head, adapter] = [prism_head, adapter].map(|path| path.map(Path::to_owned));
    Source::Directory { dir: dir.to_owned(), prism_head, adapter }
}

fn gguf(file: &Path, prism_head: Option<&Path>) -> Source {
    Source::Gguf { file: file.to_owned(), prism_head: prism_head.map(Path::to_owned) }
}

#[track_caller]
fn check_refused<T: std::fmt::Debug, E: std::fmt::Display>(result: Result<T, E>) {
    let error = result.map_err(|error| error.to_string()).unwrap_err();
    assert!(error.contains(OTHER) && error.contains("--allow-foreign-head"), "{error}");
}

/// Writes a safetensors file again with this header.
fn with_header(file: &Path, header: &[(&str, &str)]) {
    let tensors = load_tensors(file, &Cpu::Cpu).unwrap();
    let header: HashMap<String, String> = header.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    std::fs::write(file, safetensors::serialize(&tensors, Some(header)).unwrap()).unwrap();
}

#[test]
fn a_head_goes_with_its_weights_and_their_adapter_however_they_are_stored() {
    let out = apart();
    let (head, adapter) = (out.path().join("prism_head.safetensors"), out.path().join("adapter"));
    let load_from =
        |dir: &Path, adapter: Option<&Path>, allow: bool| open(&directory(dir, Some(&head), adapter), allow);
    assert_eq!(load_from(out.path(), Some(&adapter), false), Ok(true));
    let error = load_from(out.path(), None, false).unwrap_err().to_string();
    assert!(error.contains("more tensors differ") && error.contains("the adapter that it was trained with"), "{error}");
    assert_eq!(load_from(out.path(), None, true), Ok(true));

    let parts = load_tensors(adapter.join("adapter_model.safetensors"), &Cpu::Cpu).unwrap();
    let merged = |name: &str, tensor: &Tensor| {
        let name = |part: &str| format!("base_model.model.{}", name.replace(".weight", &format!(".{part}.weight")));
        let Some(a) = parts.get(&name("lora_A")) else { return tensor.clone() };
        (tensor + parts[&name("lora_B")].matmul(a).unwrap()).unwrap()
    };
    let same = |tensor: &Tensor| tensor.clone();
    let bf16 = |tensor: &Tensor| tensor.to_dtype(DType::BF16).unwrap();
    let rounded = |tensor: &Tensor| bf16(tensor).to_dtype(DType::F32).unwrap();
    let f16 = |tensor: &Tensor| tensor.to_dtype(DType::F16).unwrap();
    for change in [&same as &dyn Fn(&Tensor) -> Tensor, &bf16, &rounded, &f16] {
        let stored = changed(out.path(), &|_, tensor| change(tensor));
        assert_eq!(load_from(stored.path(), Some(&adapter), false), Ok(true));
        check_refused(load_from(stored.path(), None, false));
        let stored = changed(out.path(), &|name, tensor| change(&merged(name, tensor)));
        assert_eq!(load_from(stored.path(), None, false), Ok(true), "merged into the weights");
    }
    let others = changed(out.path(), &|name, tensor| other(name, &merged(name, tensor)));
    check_refused(load_from(others.path(), None, false));

    // as llama.cpp stores them: in blocks, the rows of queries and keys in another order
    for format in [Format::F16, Format::Q8_0, Format::Q4_0] {
        let file = out.path().join("model.gguf");
        let quantised = |dir: &TempDir| {
            quantise(dir.path(), None, None, format, &file, false).unwrap();
            open(&gguf(&file, Some(&head)), false)
        };
        assert_eq!(quantised(&changed(out.path(), &merged)), Ok(true), "{format}");
        if format != Format::Q4_0 {
            check_refused(quantised(&changed(out.path(), &|_, tensor| same(tensor))));
        }
    }

    // files of earlier versions have a fingerprint alone
    with_header(&head, &[("base", "0123456789abcdef")]);
    let error = load_from(out.path(), None, false).unwrap_err();
    let LoadError::WrongBase { made_for, found, .. } = error else { panic!("{error}") };
    assert_eq!(made_for, "0123456789abcdef");
    with_header(&head, &[("base", &found)]);
    assert_eq!(load_from(out.path(), None, false), Ok(true));
    with_header(&head, &[("weights", "{\"a\": [1, ")]);
    let error = load_from(out.path(), None, true).unwrap_err().to_string();
    assert!(error.contains("has a damaged `weights` in its header"), "{error}");
}

#[test]
fn a_head_inside_a_gguf_file_goes_with_the_weights_of_the_file() {
    let out = apart();
    let (head, adapter) = (out.path().join("prism_head.safetensors"), out.path().join("adapter"));
    let others = changed(out.path(), &other);
    let file = out.path().join("model.gguf");
    for format in [Format::F16, Format::Q8_0, Format::Q4_0, Format::Q4K] {
        quantise(out.path(), None, Some(&adapter), format, &file, false).unwrap();
        assert_eq!(open(&gguf(&file, None), false), Ok(true), "{format}");
        // two matrices of one shape exchanged
        let content = Content::read(&mut std::fs::File::open(&file).unwrap()).unwrap();
        let mut exchanged = std::fs::read(&file).unwrap();
        let [gate, up] = ["gate", "up"].map(|name| {
            let info = &content.tensor_infos[&format!("blk.1.ffn_{name}.weight")];
            let length = info.shape.elem_count() / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
            let start = usize::try_from(content.tensor_data_offset + info.offset).unwrap();
            start..start + length
        });
        let bytes = exchanged[gate.clone()].to_vec();
        exchanged.copy_within(up.clone(), gate.start);
        exchanged[up].copy_from_slice(&bytes);
        std::fs::write(&file, &exchanged).unwrap();
        check_refused(open(&gguf(&file, None), false));
        assert_eq!(open(&gguf(&file, None), true), Ok(true));
    }

    check_refused(quantise(out.path(), None, None, Format::Q8_0, &file, false));
    for (dir, format) in [(out.path(), Format::Q8_0), (others.path(), Format::Q8_0), (others.path(), Format::F16)] {
        check_refused(quantise(dir, Some(&head), None, format, &file, false));
        quantise(dir, Some(&head), None, format, &file, true).unwrap();
        check_refused(open(&gguf(&file, None), false));
        assert_eq!(open(&gguf(&file, None), true), Ok(true), "the file says that its head is of others");
    }

    // a head with a fingerprint alone, of these and of other weights
    let error = open(&directory(others.path(), Some(&head), None), false).unwrap_err();
    let LoadError::WrongBase { made_for, .. } = error else { panic!("{error}") };
    with_header(&head, &[("base", &made_for)]);
    quantise(out.path(), None, None, Format::Q8_0, &file, false).unwrap();
    assert_eq!(open(&gguf(&file, None), false), Ok(true));
    check_refused(quantise(others.path(), Some(&head), None, Format::Q8_0, &file, false));
    quantise(others.path(), Some(&head), None, Format::Q8_0, &file, true).unwrap();
    check_refused(open(&gguf(&file, None), false));

    // a head that says nothing: from then on it goes with the weights it was stored with
    with_header(&head, &[]);
    quantise(others.path(), Some(&head), None, Format::Q8_0, &file, false).unwrap();
    assert_eq!(open(&gguf(&file, None), false), Ok(true));
}

#[test]
fn a_checkpoint_keeps_what_its_head_was_made_for() {
    let (out, tiny) = (apart(), data("llada-tiny"));
    let (head, adapter) = (out.path().join("prism_head.safetensors"), out.path().join("adapter"));
    let whole = out.path().join("whole.safetensors");
    put_together(out.path(), None, Some(&adapter), &whole, false).unwrap();
    assert_eq!(open(&directory(&tiny, Some(&whole), None), false), Ok(true));
    check_refused(put_together(out.path(), None, None, &whole, false));
    let others = changed(out.path(), &other);
    check_refused(put_together(others.path(), Some(&head), None, &whole, false));

    put_together(others.path(), Some(&head), None, &whole, true).unwrap();
    check_refused(open(&directory(&tiny, Some(&whole), None), false));
    let again = TempDir::new().unwrap();
    check_refused(take_apart(&whole, &tiny, again.path(), false));
    take_apart(&whole, &tiny, again.path(), true).unwrap();
    check_refused(open(&directory(again.path(), None, None), false));
    assert_eq!(open(&directory(again.path(), None, None), true), Ok(true));
}

#[test]
fn a_head_of_a_dit_goes_with_its_weights_too() {
    let dit = data("dit-tiny");
    for name in ["prism_head_0.safetensors", "prism_head_1.safetensors"] {
        let dir = TempDir::new().unwrap();
        let head = dir.path().join("head.safetensors");
        std::fs::copy(dit.join(name), &head).unwrap();
        let one = changed(&dit, &|name, tensor| {
            if name == "blocks.1.mlp.0.weight" { other(name, tensor) } else { tensor.clone() }
        });
        let open = |dir: &Path, allow| open(&directory(dir, Some(&head), None), allow);
        assert_eq!((open(&dit, false), open(one.path(), false)), (Ok(true), Ok(true)), "it says nothing");

        annotate_head(&head, HeadEntry::MadeFor { dir: &dit, adapter: None }).unwrap();
        assert_eq!(open(&dit, false), Ok(true));
        let rounded = changed(&dit, &|_, tensor| tensor.to_dtype(DType::BF16).unwrap());
        assert_eq!(open(rounded.path(), false), Ok(true));
        let error = open(one.path(), false).unwrap_err().to_string();
        assert!(error.contains(OTHER) && error.contains("`blocks.1.mlp.0.weight` differs"), "{error}");
        assert_eq!(open(one.path(), true), Ok(true));
    }
}

fn remask(args: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    paths.iter().fold(command.args(args), |command, (flag, path)| command.arg(flag).arg(path)).output().unwrap()
}

#[test]
fn every_command_that_takes_a_head_refuses_a_foreign_one_unless_it_is_allowed() {
    let out = apart();
    let head = out.path().join("prism_head.safetensors");
    let others = changed(out.path(), &other);
    let place = |name: &str| -> PathBuf { others.path().join(name) };
    let whole = place("whole.safetensors");
    put_together(others.path(), Some(&head), None, &whole, true).unwrap();
    let text = place("data.txt");
    std::fs::write(&text, "abcdefgh".repeat(64)).unwrap();
    std::fs::copy("models/toy/tokenizer.json", place("tokenizer.json")).unwrap();
    std::fs::copy(&head, place("prism_head.safetensors")).unwrap();
    let model = ("--model-id", others.path());
    let train = ["--steps", "1", "--batch", "1", "--length", "8", "--learning-rate", "1e-3"];
    let prism = [&["train", "prism", "--learns", "head"], &train[..]].concat();
    for (args, paths) in [
        (&["read", "--prompt-ids", "5", "--json"][..], &[model][..]),
        (&["quantize", "--format", "q8_0"], &[model, ("--out", &place("a.gguf"))]),
        (&["convert"], &[model, ("--to", &place("b.safetensors"))]),
        (&["convert"], &[model, ("--checkpoint", &whole), ("--out", &place("c"))]),
        (&prism, &[model, ("--data", &text), ("--out", &place("d"))]),
    ] {
        let refused = remask(args, paths);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && error.contains(OTHER), "{args:?}: {error}");
        let taken = remask(&[args, &["--allow-foreign-head"]].concat(), paths);
        assert!(taken.status.success(), "{args:?}: {}", String::from_utf8_lossy(&taken.stderr));
    }
    // training a base model does not use the head
    let base = [&["train", "base"], &train[..]].concat();
    let trained = remask(&base, &[model, ("--data", &text), ("--out", &place("e"))]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    // the head that was trained from it is this model's
    assert_eq!(open(&directory(others.path(), Some(&place("d")), None), false), Ok(true));
}

#[test]
fn a_head_that_says_nothing_is_taken_with_one_warning() {
    let tiny = data("llada-tiny");
    let file = TempDir::new().unwrap();
    let (gguf, head) = (file.path().join("model.gguf"), file.path().join("head.safetensors"));
    quantise(&tiny, None, None, Format::Q8_0, &gguf, false).unwrap();
    std::fs::copy(data("dit-tiny/prism_head_0.safetensors"), &head).unwrap();
    let count = |model: &Path, prism_head: Option<&Path>| {
        let mut paths = vec![("--model-id", model)];
        paths.extend(prism_head.map(|head| ("--prism-head", head)));
        let output = remask(&["read", "--prompt-ids", "5", "--json"], &paths);
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{log}");
        log.matches("does not say for which weights it was made").count()
    };
    assert_eq!(count(&tiny, None), 1);
    assert_eq!(count(&data("dit-tiny"), Some(&head)), 1);
    assert_eq!(count(&gguf, None), 0, "our own files say so");
    // a file as earlier versions wrote it
    let mut bytes = std::fs::read(&gguf).unwrap();
    let key = b"remask.head.weights";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(b"remask.head.WEIGHTS");
    std::fs::write(&gguf, bytes).unwrap();
    assert_eq!(count(&gguf, None), 1);
    let recorded =
        remask(&["convert", "--record-weights"], &[("--model-id", &data("dit-tiny")), ("--prism-head", &head)]);
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    assert_eq!(count(&data("dit-tiny"), Some(&head)), 0);
}
