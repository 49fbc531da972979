//! Models on a GPU against the CPU. `just gpu` copies this program and the models to a machine that
//! has a GPU. `REMASK_TEST_DEVICE=cpu` tries the tests themselves where there is none.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::safetensors::load as load_tensors;
use common::golden::Golden;
use remask::diffusion::{Canvas, Cell, Reading, Seed, TokenId};
use remask::model::{
    Change, Config, Denoiser, Device, Filter, Format, Precision, Row, Sampling, Source, load_in, quantise,
};
use remask::train::data::Data;
use remask::train::sudoku::Split;
use remask::train::{Base, Products, Progress, RunConfig, Schedule, Start};
use serde_json::{Map, json};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// The device under test.
fn gpu() -> Device {
    std::env::var("REMASK_TEST_DEVICE").map_or(Device::Cuda(0), |device| device.parse().unwrap())
}

/// A model of the tests, in the directory that cargo or `just gpu` runs this in.
fn data(name: &str) -> PathBuf {
    Path::new("tests/data").join(name)
}

fn directory(dir: PathBuf, prism_head: Option<PathBuf>) -> Source {
    Source::Directory { dir, prism_head, adapter: None }
}

fn tiny() -> Source {
    directory(data("llada-tiny"), None)
}

fn model(source: &Source, device: Device, precision: Precision) -> Box<dyn Denoiser> {
    load_in(source, device, precision).unwrap()
}

/// A quarter fixed, a quarter filled, the rest blank.
fn canvas(length: u32, ids: u32) -> Canvas {
    let cell = |at: u32| match at % 4 {
        0 => Cell::Fixed(TokenId(at * 7 % ids)),
        1 => Cell::Filled(TokenId(at * 13 % ids)),
        _ => Cell::Blank,
    };
    Canvas::new((0..length).map(cell).collect())
}

/// Rows of all kinds: the most probable token or a drawn one, filtered, guided, biased, reviewed.
fn row(index: usize, canvas: &Canvas, review: bool) -> Row<'_> {
    const FILTERS: [Filter; 4] = [
        Filter::ALL,
        Filter { top_k: NonZeroU32::new(5), ..Filter::ALL },
        Filter { top_p: Some(0.8), ..Filter::ALL },
        Filter { min_p: Some(0.2), ..Filter::ALL },
    ];
    const BIASES: [(TokenId, Change); 3] = [
        (TokenId(17), Change::Add(f32::NEG_INFINITY)),
        (TokenId(3), Change::Scale(1.3)),
        (TokenId(3), Change::Add(1.5)),
    ];
    Row {
        sampling: Sampling {
            // three rows of four are drawn, so that filters apply
            temperature: if index.is_multiple_of(4) { 0.0 } else { 1.0 },
            seed: Seed(7),
            step: 3,
            filter: FILTERS[index % 4],
        },
        guidance: (index % 3 == 2).then_some(0.6),
        biases: if canvas.len() > 40 { &BIASES } else { &[] },
        review,
        exact: false,
        present: index == 1,
        best: index % 3 == 2, // with guidance
        ..Row::plain(canvas, 0..canvas.len())
    }
}

fn readings(model: &mut dyn Denoiser, canvases: &[Canvas]) -> Vec<Reading> {
    let review = model.spec().has_quality;
    let rows: Vec<Row<'_>> = canvases.iter().enumerate().map(|(n, canvas)| row(n, canvas, review)).collect();
    model.read(&rows).unwrap().into_iter().map(Result::unwrap).collect()
}

/// What a model reads on the GPU is what it reads on the CPU, in f32 but for rounding. Only tokens
/// of nearly equal probability may change places.
fn compare(source: &Source, canvases: &[Canvas]) {
    let expected = readings(model(source, Device::Cpu, Precision::F32).as_mut(), canvases);
    let found = readings(model(source, gpu(), Precision::F32).as_mut(), canvases);
    let (mut blanks, mut same, mut reviews) = (0, 0, 0);
    let near = |a: f32, b: f32, tolerance: f32| assert!((a - b).abs() < tolerance, "{a} {b}");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!((found.proposals.len(), found.reviews.len()), (expected.proposals.len(), expected.reviews.len()));
        for (a, b) in found.proposals.iter().zip(&expected.proposals) {
            assert_eq!(a.at, b.at);
            blanks += 1;
            if a.token == b.token {
                same += 1;
                near(a.confidence.get(), b.confidence.get(), 1e-3);
                near(a.entropy, b.entropy, 1e-2);
            }
        }
        for (a, b) in found.reviews.iter().zip(&expected.reviews) {
            assert_eq!(a.at, b.at);
            reviews += 1;
            near(a.quality.get(), b.quality.get(), 1e-3);
        }
        for (a, b) in found.present.iter().zip(&expected.present) {
            assert_eq!(a.at, b.at);
            near(a.confidence.get(), b.confidence.get(), 1e-3);
        }
        assert_eq!(found.best.len(), expected.best.len());
        for (a, b) in found.best.iter().zip(&expected.best) {
            assert_eq!(a.at, b.at);
            near(a.confidence.get(), b.confidence.get(), 1e-3);
        }
    }
    println!("{same} of {blanks} tokens, {reviews} reviews");
    assert!(blanks + reviews > 0 && same * 100 >= blanks * 99, "{same} of {blanks}");
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn the_published_numbers_come_out_in_f32_and_nearly_in_bf16() {
    let golden = Golden::open(&data("llada-tiny/io.safetensors"));
    for (precision, tolerance) in [(Precision::F32, 1e-3), (Precision::Auto, 3e-2)] {
        let mut model = model(&tiny(), gpu(), precision);
        println!("{} on {}", model.spec().dtype, model.spec().device);
        assert_eq!(model.spec().device, gpu().to_string());
        assert_eq!(model.spec().dtype == "bf16", precision == Precision::Auto && gpu() != Device::Cpu);
        for row in 0..3 {
            golden.check(row, "", &model.inspect(&golden.ids(row)).unwrap(), tolerance);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_reading_is_the_cpus_whatever_is_asked_of_its_row() {
    compare(&tiny(), &[5, 60, 33, 128, 77, 512, 1, 2].map(|length| canvas(length, 250)));
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_head_that_reads_an_earlier_block_judges_as_on_the_cpu() {
    let (dir, layer) = (TempDir::new().unwrap(), Some([("layer".to_owned(), "1".to_owned())].into()));
    let head = load_tensors(data("llada-tiny/prism_head.safetensors"), &candle_core::Device::Cpu).unwrap();
    let file = dir.path().join("head.safetensors");
    std::fs::write(&file, safetensors::serialize(&head, layer).unwrap()).unwrap();
    let canvases = [5, 60, 33, 128, 77, 512, 1, 2].map(|length| canvas(length, 250));
    compare(&directory(data("llada-tiny"), Some(file)), &canvases);
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_batch_without_blanks_has_its_reviews_in_any_number() {
    let filled = |length: u32| Canvas::new((0..length).map(|at| Cell::Filled(TokenId(at * 13 % 250))).collect());
    compare(&tiny(), &[filled(500), filled(1), Canvas::new(vec![Cell::Fixed(TokenId(3)); 4])]);
    // more than the states whose logits are computed at once
    compare(&tiny(), &[filled(512), filled(511), filled(512), canvas(512, 250), canvas(512, 250)]);
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_score_is_the_same_every_time_and_the_cpus_among_others() {
    let text = Canvas::new((0..512).map(|at| Cell::Filled(TokenId(at * 31 % 250))).collect());
    let others: Vec<Canvas> = (1..16).map(|n| canvas(n * 30, 250)).collect();
    let score = |model: &mut dyn Denoiser, others: &[Canvas]| {
        let text = Row { review: true, ..Row::plain(&text, 0..512) };
        let others = others.iter().map(|canvas| Row::plain(canvas, 0..canvas.len()));
        let reading = model.read(&std::iter::once(text).chain(others).collect::<Vec<_>>()).unwrap().remove(0).unwrap();
        reading.reviews.iter().map(|review| review.quality.get()).collect::<Vec<f32>>()
    };
    let expected = score(model(&tiny(), Device::Cpu, Precision::F32).as_mut(), &[]);
    assert_eq!(expected.len(), 512);
    for (precision, tolerance) in [(Precision::F32, 1e-3), (Precision::Auto, 3e-2)] {
        let mut model = model(&tiny(), gpu(), precision);
        for others in [&[][..], &others] {
            let first = score(model.as_mut(), others);
            for (a, b) in first.iter().zip(&expected) {
                assert!((a - b).abs() < tolerance, "{a} {b} among {} in {}", others.len(), model.spec().dtype);
            }
            for _ in 0..50 {
                assert_eq!(score(model.as_mut(), others), first, "among {}", others.len());
            }
        }
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_gguf_file_reads_what_the_cpu_reads() {
    let canvases = [5, 40, 300].map(|length| canvas(length, 250));
    compare(&Source::Gguf { file: data("llada-tiny/llama_cpp.gguf"), prism_head: None }, &canvases);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("q8_0.gguf");
    quantise(&data("llada-tiny"), None, None, Format::Q8_0, &file, false).unwrap();
    // a GPU and a CPU round the inputs of products in few bits differently
    let read = |device, precision| {
        let source = Source::Gguf { file: file.clone(), prism_head: None };
        readings(model(&source, device, precision).as_mut(), &canvases)
    };
    let expected = read(Device::Cpu, Precision::F32);
    for precision in [Precision::F32, Precision::Auto] {
        for (found, expected) in read(gpu(), precision).iter().zip(&expected) {
            for (a, b) in found.reviews.iter().zip(&expected.reviews) {
                assert!(a.at == b.at && (a.quality.get() - b.quality.get()).abs() < 5e-2, "{a:?} {b:?}");
            }
            assert_eq!(found.proposals.len(), expected.proposals.len());
        }
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_dit_reads_what_the_cpu_reads() {
    for head in ["prism_head_0.safetensors", "prism_head_1.safetensors"] {
        let dir = data("dit-tiny");
        let source = directory(dir.clone(), Some(dir.join(head)));
        compare(&source, &[5, 48, 33, 2, 17].map(|length| canvas(length, 60)));
    }
}

/// The reports of three steps, and the weights after them.
fn trained(device: Device, products: Products) -> (Vec<Progress>, Vec<(String, Vec<f32>)>) {
    let dir = TempDir::new().unwrap();
    let json = json!({
        "model_type": "llada", "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms",
        "d_model": 64, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 160, "vocab_size": 11, "max_sequence_length": 89,
        "rope": true, "weight_tying": false, "mask_token_id": 0,
    });
    let base = Base {
        config: Config::parse(json.to_string().as_bytes(), "config.json").unwrap(),
        data: Data::Sudoku { seed: 1, split: Split::Train, puzzles: 0.0 },
        held_out: Data::Sudoku { seed: 1, split: Split::Validation, puzzles: 0.0 },
        batch: 8,
        ratio_max: 0.7,
        seed: 3,
    };
    let betas = [0.9, 0.98];
    let schedule =
        Schedule { steps: 3, learning_rate: 1e-3, warmup: 1, betas, weight_decay: 0.05, clip: 1.0, ema: 0.9 };
    let run = RunConfig {
        schedule,
        piece: Some(4),
        threads: 2,
        save_every: 10,
        report_every: 1,
        evaluate_every: None,
        recompute: false,
        products,
        device,
        trial: None,
    };
    let (mut reports, stop) = (Vec::new(), AtomicBool::new(false));
    let checkpoint = dir.path().join("checkpoint");
    let report = |progress: &Progress| reports.push(progress.clone());
    let finished = base.run(&run, Start::Fresh, &checkpoint, &Map::new(), &stop, report).unwrap();
    let file = dir.path().join("model.safetensors");
    finished.write_backbone(&file).unwrap();
    let tensors = load_tensors(&file, &candle_core::Device::Cpu).unwrap();
    let numbers = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let mut weights: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), numbers(tensor))).collect();
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    (reports, weights)
}

/// Compares three steps on a GPU with those on the CPU: losses, norms and weights may be off by
/// these shares.
fn check_training(products: Products, [loss, weight]: [f64; 2]) {
    let ((expected, expected_weights), (found, weights)) = (trained(Device::Cpu, products), trained(gpu(), products));
    assert_eq!((expected.len(), found.len()), (3, 3));
    for (a, b) in found.iter().zip(&expected) {
        let entropies = (a.means.cross_entropy.unwrap(), b.means.cross_entropy.unwrap());
        for (a, b) in [(a.loss, b.loss), entropies, (a.gradient_norm, b.gradient_norm)] {
            assert!((a - b).abs() < loss * b.abs(), "{a} {b} in step {}", found.len());
        }
    }
    for ((name, a), (expected_name, b)) in weights.iter().zip(&expected_weights) {
        assert_eq!(name, expected_name);
        let squares = |pairs: &mut dyn Iterator<Item = f32>| pairs.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let off = squares(&mut a.iter().zip(b).map(|(a, b)| a - b)) / squares(&mut b.iter().copied());
        // AdamW moves a weight whose gradient is nearly 0 by its sign
        assert!(a.len() == b.len() && off < weight, "{name} is off by {off}");
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn three_steps_of_training_are_the_cpus() {
    check_training(Products::F32, [1e-3, 5e-3]);
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn three_steps_in_mixed_precision_are_the_cpus() {
    check_training(Products::Bf16, [2e-2, 2e-2]);
}
