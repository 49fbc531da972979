//! `model.safetensors` beside a sound `config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remask::model::{Device, Source, load};
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap().keep();
    std::fs::write(dir.join("config.json"), include_bytes!("../../tests/data/llada-tiny/config.json")).unwrap();
    dir
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(DIR.join("model.safetensors"), data).unwrap();
    let source = Source::Directory { dir: DIR.clone(), prism_head: None, adapter: None };
    if let Err(error) = load(&source, Device::Cpu) {
        assert!(!error.to_string().is_empty());
    }
});
