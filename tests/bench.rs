//! What `remask bench` counts of a pass, against numbers that were worked out by hand.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::golden::tiny;
use remask::diffusion::{Canvas, Cell, TokenId};
use remask::model::{Cost, Denoiser, Device, Format, Row, Source, Toy, load, quantise};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn open(dir: PathBuf, head: Option<PathBuf>) -> Box<dyn Denoiser> {
    load(&Source::Directory { dir, prism_head: head, adapter: None }, Device::Cpu).unwrap()
}

/// 3 fixed cells, 2 filled ones and 5 blanks.
fn canvas() -> Canvas {
    let cells = [Cell::Fixed(TokenId(7)); 3].into_iter().chain([Cell::Filled(TokenId(9)); 2]);
    Canvas::new(cells.chain([Cell::Blank; 5]).collect())
}

#[test]
fn the_cost_of_a_llada_pass_is_that_worked_out_by_hand() {
    // d_model 64, mlp 160, 264 tokens, in f32
    let keys_values = 2 * 64 * 64;
    let rest = 2 * 64 * 64 + 3 * 64 * 160; // q_proj and attn_out, ff_proj, up_proj and ff_out
    let output = 264 * 64;
    // the first block computes all 10 tokens, the last one the asked ones from their queries on
    let flop = |asked: u64, read_out: u64| {
        2 * 10 * (keys_values + rest)
            + 4 * 10 * 10 * 64
            + 2 * (10 * keys_values + asked * rest)
            + 4 * asked * 10 * 64
            + 2 * read_out * output
    };
    let weight_bytes = 4 * (2 * (keys_values + rest) + output);
    assert_eq!((flop(5, 5), weight_bytes), (1_702_400, 444_416));

    let (model, canvas) = (open(tiny(""), None), canvas());
    let plain = Row::plain(&canvas, 0..10);
    let cost = |row: &Row<'_>| model.cost(std::slice::from_ref(row)).unwrap();
    assert_eq!(cost(&plain), Cost { weight_bytes, flop: flop(5, 5) });
    // the quality head: a matrix of 64 x 64 and a row of 64, on two states
    let head = 64 * 64 + 64;
    let reviewed = Row { review: true, ..plain.clone() };
    assert_eq!(cost(&reviewed), Cost { weight_bytes: weight_bytes + 4 * head, flop: flop(7, 5) + 2 * 2 * head });
    assert_eq!(cost(&Row { present: true, ..plain.clone() }), Cost { weight_bytes, flop: flop(7, 7) });
    assert_eq!(cost(&Row { best: true, ..plain.clone() }), Cost { weight_bytes, flop: flop(7, 7) });
    let guided = Row { best: true, guidance: Some(0.5), ..plain.clone() };
    assert_eq!(cost(&guided), Cost { weight_bytes, flop: 2 * flop(7, 7) });
    assert_eq!(cost(&Row { guidance: Some(0.5), ..plain.clone() }), Cost { weight_bytes, flop: 2 * flop(5, 5) });
    let both = model.cost(&[plain.clone(), plain.clone()]).unwrap();
    assert_eq!(both, Cost { weight_bytes, flop: 2 * flop(5, 5) });
    // a row without anything to read adds nothing
    assert_eq!(model.cost(&[plain.clone(), Row::plain(&canvas, 0..3)]).unwrap(), cost(&plain));
    assert_eq!(cost(&Row::plain(&canvas, 0..3)), Cost::default());
    assert_eq!(Toy::new().cost(&[plain]), None);
}

#[test]
fn the_cost_of_a_dit_pass_is_that_worked_out_by_hand() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dit-tiny");
    let text = std::fs::read(dir.join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    let sizes = config.get("model").unwrap_or(&config);
    let size = |name: &str| sizes[name].as_u64().unwrap();
    let (hidden, blocks) = (size("hidden_size"), size("n_blocks"));
    let matrices = 12 * hidden * hidden; // qkv, out, and a feed-forward layer four times as wide
    let block = 2 * 10 * matrices + 4 * 10 * 10 * hidden;
    let canvas = canvas();
    let row = Row { review: true, ..Row::plain(&canvas, 0..10) };
    let cost = |head: &str| open(dir.clone(), Some(dir.join(head))).cost(std::slice::from_ref(&row)).unwrap();
    let flop = blocks * block + 2 * 5 * 67 * hidden + 2 * 2 * hidden;
    let weight_bytes = 4 * (blocks * matrices + 67 * hidden + hidden);
    assert_eq!(cost("prism_head_0.safetensors"), Cost { weight_bytes, flop });
    let with_block = Cost { weight_bytes: weight_bytes + 4 * matrices, flop: flop + block };
    assert_eq!(cost("prism_head_1.safetensors"), with_block);
}

#[test]
fn weights_in_few_bits_are_read_as_they_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    quantise(&tiny(""), None, None, Format::Q8_0, &file, false).unwrap();
    let model = load(&Source::Gguf { file, prism_head: None }, Device::Cpu).unwrap();
    let canvas = canvas();
    let parameters = 2 * (2 * 64 * 64 + 38_912) + 264 * 64;
    // 32 numbers of one byte have a scale of two
    let cost = Cost { weight_bytes: parameters / 32 * 34, flop: 1_702_400 };
    assert_eq!(model.cost(&[Row::plain(&canvas, 0..10)]), Some(cost));
}

fn bench(flags: &[&str]) -> Value {
    let done = Command::new(env!("CARGO_BIN_EXE_remask")).arg("bench").args(flags).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_pass_is_reported_beside_its_floors() {
    let dir = tiny("").display().to_string();
    let quick = ["--canvas", "8", "--steps", "2", "--streams", "1", "--repeat", "1", "--json"];
    let line = bench(&[&["--model-id", &dir, "--device", "cpu"], &quick[..]].concat());
    let number = |value: &Value| value.as_f64().unwrap();
    assert_eq!((&line["device"], &line["dtype"], &line["weights"]), (&"cpu".into(), &"f32".into(), &"f32".into()));
    for count in ["launches", "copies", "waits"] {
        assert_eq!(line["per_pass"][count], 0.0, "{count}");
    }
    let floor = &line["floor"];
    let [flop, bytes, copy, speed, memory, arithmetic, ms, ratio] =
        ["flop", "weight_bytes", "copy_bytes_per_s", "flop_per_s", "memory_ms", "arithmetic_ms", "ms", "ratio"]
            .map(|name| number(&floor[name]));
    // 2 fixed cells and 6 blanks, of which the first pass reads 6 and the second 3
    let [keys_values, rest, output] = [2.0 * 64.0 * 64.0, 38_912.0, 264.0 * 64.0];
    let first = 2.0 * 8.0 * (keys_values + rest) + 4.0 * 8.0 * 8.0 * 64.0 + 2.0 * 8.0 * keys_values;
    let asked = |asked: f64| asked * (2.0 * rest + 4.0 * 8.0 * 64.0 + 2.0 * output);
    assert_eq!(flop, first + (asked(6.0) + asked(3.0)) / 2.0);
    assert_eq!(bytes, 444_416.0);
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
    assert!(near(memory, 1e3 * bytes / copy) && near(arithmetic, 1e3 * flop / speed), "{floor}");
    assert!(near(ms, memory.max(arithmetic)) && near(ratio, number(&line["per_pass"]["ms"]) / ms), "{floor}");

    let toy = bench(&[&["--model-id", "toy"], &quick[..]].concat());
    assert_eq!(toy["floor"], Value::Null);
    assert!(number(&toy["per_pass"]["ms"]) > 0.0);
}
