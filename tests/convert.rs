//! A published PRISM checkpoint gives the same model whole, taken apart and put together again.

mod common;

use common::data;
use remask::diffusion::TokenId;
use remask::model::{Device, Inspection, Source, load, put_together, take_apart};
use std::path::{Path, PathBuf};

fn inspect(dir: &Path, prism_head: Option<PathBuf>, adapter: Option<PathBuf>) -> Inspection {
    let mut model = load(&Source::Directory { dir: dir.to_owned(), prism_head, adapter }, Device::Cpu).unwrap();
    model.inspect(&[5, 263, 7, 8, 263, 200].map(TokenId)).unwrap()
}

#[test]
fn a_checkpoint_survives_the_way_there_and_back() {
    let tiny = data("llada-tiny");
    let dir = tempfile::tempdir().unwrap();
    let (out, back) = (dir.path().join("apart"), dir.path().join("together.safetensors"));
    for name in ["prism_checkpoint.safetensors", "prism_checkpoint.bin"] {
        let checkpoint = tiny.join(name);
        let published = inspect(&tiny, Some(checkpoint.clone()), None);
        take_apart(&checkpoint, &tiny, &out, false).unwrap();
        for file in ["config.json", "model.safetensors", "prism_head.safetensors", "adapter/adapter_model.safetensors"]
        {
            assert!(out.join(file).exists(), "{file}");
        }
        let adapter = out.join("adapter");
        assert_eq!(inspect(&out, None, Some(adapter.clone())), published, "{name}, apart");
        put_together(&out, None, Some(&adapter), &back, false).unwrap();
        std::fs::copy(adapter.join("adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
        assert_eq!(inspect(&out, Some(back.clone()), None), published, "{name}, together again");
    }
}

#[test]
fn what_is_no_checkpoint_of_the_model_is_not_converted() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = data("llada-tiny");
    let error = |checkpoint: &Path, of: &Path| take_apart(checkpoint, of, dir.path(), false).unwrap_err().to_string();
    let sudoku = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sudoku");
    let message = error(&tiny.join("prism_checkpoint.safetensors"), &sudoku);
    assert!(message.contains("has no place in the model") || message.contains("has shape"), "{message}");
    let message = error(&tiny.join("model.safetensors"), &tiny);
    assert!(message.contains("norm.*, proj1.* and proj2.*"), "{message}");
    let headless = dir.path().join("headless");
    std::fs::create_dir(&headless).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny.join(name), headless.join(name)).unwrap();
    }
    let message =
        put_together(&headless, None, None, &dir.path().join("x.safetensors"), false).unwrap_err().to_string();
    assert!(message.contains("has no quality head"), "{message}");
}
