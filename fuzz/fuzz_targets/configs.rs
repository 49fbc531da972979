//! `config.json` and `generation_config.json`, the first byte says which; the other one is sound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remask::model::Config;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| tempfile::tempdir().unwrap().keep());
const SOUND: [&[u8]; 2] = [
    include_bytes!("../../models/sudoku/config.json"),
    include_bytes!("../../models/sudoku/generation_config.json"),
];

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let files = if which % 2 == 0 { [data, SOUND[1]] } else { [SOUND[0], data] };
    for (name, bytes) in ["config.json", "generation_config.json"].into_iter().zip(files) {
        std::fs::write(DIR.join(name), bytes).unwrap();
    }
    if let Err(error) = Config::read(&DIR) {
        assert!(!error.to_string().is_empty());
    }
});
