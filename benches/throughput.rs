//! `cargo bench`: passes and tokens a second of the small models, and what the engine adds to each pass.
//!
//! Compare with `benches/torch_llada.py`, which runs the same weights through plain PyTorch.

use remask::cmd::bench::{STREAMS, Workload, dummy_model, measure, print_table, sudoku_model};
use remask::model::{Device, Source, Threads, load, settle_threads};
use std::path::Path;

const STEPS: u32 = 32;
const REPEAT: usize = 5;

#[allow(unsafe_code)]
fn main() -> anyhow::Result<()> {
    // SAFETY: no other thread runs yet.
    unsafe { settle_threads(Threads::ShareProducts) };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny");
    let tiny = load(&Source::Directory { dir, prism_head: None, adapter: None }, Device::Cpu)?;
    let mut figures = measure("llada-tiny", tiny, Workload::greedy(STEPS), &STREAMS, REPEAT)?;
    figures.extend(measure("sudoku", sudoku_model()?, Workload::greedy(STEPS), &STREAMS, REPEAT)?);
    figures.extend(measure("dummy-100m", dummy_model()?, Workload::greedy(STEPS), &STREAMS, REPEAT)?);
    print_table(&figures)
}
