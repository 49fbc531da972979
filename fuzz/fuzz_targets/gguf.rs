//! GGUF files: header, vocabulary and tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remask::model::{Device, GgufVocabulary, Source, load};
use std::path::PathBuf;
use std::sync::LazyLock;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| tempfile::tempdir().unwrap().keep().join("model.gguf"));

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*FILE, data).unwrap();
    let _ = GgufVocabulary::read(&FILE);
    if let Err(error) = load(&Source::Gguf { file: FILE.clone(), prism_head: None }, Device::Cpu) {
        assert!(!error.to_string().is_empty());
    }
});
