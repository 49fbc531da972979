//! A whole model on a GPU against the CPU, and how often the GPU is spoken to.

use super::super::Cuda;
use super::{cuda, distance};
use crate::diffusion::{Canvas, Cell, Reading, Seed, TokenId};
use crate::model::backend::{Backend, Span, counts::Counts, cpu::Cpu};
use crate::model::interface::Denoiser;
use crate::model::load::{Place, Source, load_on};
use crate::model::row::Row;
use crate::model::sampling::{Change, Filter, Sampling};
use candle_core::{DType, Device, Tensor};
use std::path::Path;
use std::sync::Arc;

fn data(name: &str) -> std::path::PathBuf {
    Path::new("tests/data").join(name) // of the repository, or of what `just gpu` packed
}

/// Keys and values that are kept, on both devices.
const CACHE_BYTES: u64 = 1 << 20;

pub(super) fn load(source: &Source, backend: Arc<dyn Backend>, dtype: DType) -> Box<dyn Denoiser> {
    let device = crate::model::Device::Cpu;
    load_on(source, Place { dtype, backend, name: device, allow_foreign_head: false, cache_bytes: Some(CACHE_BYTES) })
        .unwrap()
}

fn canvas(length: u32) -> Canvas {
    let cell = |at: u32| match at % 4 {
        0 => Cell::Fixed(TokenId(at * 7 % 250)),
        1 => Cell::Filled(TokenId(at * 13 % 250)),
        _ => Cell::Blank,
    };
    Canvas::new((0..length).map(cell).collect())
}

fn readings(model: &mut dyn Denoiser, canvases: &[Canvas]) -> Vec<Reading> {
    let has_quality = model.spec().has_quality;
    let full = |canvas: &Canvas| {
        let filled = |cell: &Cell| if *cell == Cell::Blank { Cell::Filled(TokenId(5)) } else { *cell };
        Canvas::new(canvas.cells().iter().map(filled).collect())
    };
    let full: Vec<Canvas> = canvases.iter().map(full).collect();
    let rows: Vec<Row<'_>> = canvases
        .iter()
        .enumerate()
        .map(|(index, canvas)| Row {
            canvas,
            reuse: None,
            shown: (index % 6 == 5).then_some(&full[index]),
            window: 0..canvas.len(),
            sampling: Sampling {
                temperature: if index % 2 == 0 { 0.0 } else { 1.0 },
                seed: Seed(7),
                step: 3,
                filter: Filter { top_p: (index % 4 == 1).then_some(0.8), ..Filter::ALL },
            },
            guidance: (index % 3 == 2).then_some(0.6),
            biases: if canvas.len() > 40 { &BANNED } else { &[] },
            blank_biases: None,
            credit: None,
            distributions: index != 1,
            scores: None,
            block_length: None,
            only: &[],
            review: has_quality,
            exact: false,
            present: index == 1,
            best: index % 3 == 2, // with guidance
        })
        .collect();
    model.read(&rows).unwrap().into_iter().map(Result::unwrap).collect()
}

const BANNED: [(TokenId, Change); 2] =
    [(TokenId(17), Change::Add(f32::NEG_INFINITY)), (TokenId(21), Change::Scale(1.5))];

/// The same tokens and numbers but for rounding; only tokens of nearly equal probability may change
/// places.
pub(super) fn compare(found: &[Reading], expected: &[Reading]) {
    let (mut blanks, mut same) = (0, 0);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let counts = |reading: &Reading| {
            let filled = [reading.reviews.len(), reading.present.len(), reading.best.len()];
            (reading.proposals.len(), reading.distributions.len(), filled)
        };
        assert_eq!(counts(found), counts(expected));
        for (a, b) in found.proposals.iter().zip(&expected.proposals) {
            assert_eq!(a.at, b.at);
            blanks += 1;
            if a.token == b.token {
                same += 1;
                let off = (a.confidence.get() - b.confidence.get()).abs();
                assert!(off < 1e-3 && (a.entropy - b.entropy).abs() < 1e-2, "{a:?} {b:?}");
            }
        }
        for (a, b) in found.distributions.iter().zip(&expected.distributions) {
            let pairs = a.log_probabilities.iter().zip(&*b.log_probabilities);
            assert!(
                a.at == b.at && pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-2 * b.abs().max(1.0)),
                "{:?}",
                a.at
            );
        }
        for (a, b) in found.reviews.iter().zip(&expected.reviews) {
            assert!(a.at == b.at && (a.quality.get() - b.quality.get()).abs() < 1e-3, "{a:?} {b:?}");
        }
        for (a, b) in found.present.iter().zip(&expected.present) {
            assert!(a.at == b.at && (a.confidence.get() - b.confidence.get()).abs() < 1e-3, "{a:?} {b:?}");
        }
        for (a, b) in found.best.iter().zip(&expected.best) {
            assert!(a.at == b.at && (a.confidence.get() - b.confidence.get()).abs() < 1e-3, "{a:?} {b:?}");
        }
    }
    assert!(same * 50 >= blanks * 49, "{same} of {blanks}");
}

/// A model on a GPU reads what it reads on the CPU.
fn check(source: &Source, canvases: &[Canvas]) {
    let expected = readings(load(source, Arc::new(Cpu), DType::F32).as_mut(), canvases);
    let found = readings(load(source, Arc::new(cuda()), DType::F32).as_mut(), canvases);
    compare(&found, &expected);
}

pub(super) fn directory(name: &str) -> Source {
    Source::Directory { dir: data(name), prism_head: None, adapter: None }
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_llada_model_reads_what_the_cpu_reads() {
    check(&directory("llada-tiny"), &[5, 60, 33, 2, 77].map(canvas));
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn in_bf16_a_model_has_nearly_the_numbers_of_the_cpu() {
    let inspect = |backend: Arc<dyn Backend>, dtype| {
        let ids: Vec<TokenId> = (0..90).map(|at| TokenId(at * 7 % 250)).collect();
        load(&directory("llada-tiny"), backend, dtype).inspect(&ids).unwrap()
    };
    let (found, expected) = (inspect(Arc::new(cuda()), DType::BF16), inspect(Arc::new(Cpu), DType::F32));
    let vector = |numbers: Vec<f32>| Tensor::new(numbers, &Device::Cpu).unwrap();
    for (what, found, expected) in [
        ("logits", found.logits.concat(), expected.logits.concat()),
        ("states", found.hidden.concat(), expected.hidden.concat()),
        ("qualities", found.quality_logits.unwrap(), expected.quality_logits.unwrap()),
    ] {
        let off = distance(&vector(found), &vector(expected)).unwrap();
        assert!(off < 3e-2, "{what}: {off}");
        println!("{what}: {off}");
    }
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_dit_reads_what_the_cpu_reads() {
    let head = Some(data("dit-tiny/prism_head_1.safetensors"));
    let canvas = |length: u32| {
        let cell = |at: u32| if at.is_multiple_of(3) { Cell::Blank } else { Cell::Filled(TokenId(at * 5 % 60)) };
        Canvas::new((0..length).map(cell).collect())
    };
    let source = Source::Directory { dir: data("dit-tiny"), prism_head: head, adapter: None };
    let canvases: Vec<Canvas> = [7, 48, 1, 30].map(canvas).into();
    check(&source, &canvases);
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn passes_that_are_filled_up_read_the_same_and_have_few_shapes() {
    let plain = cuda();
    let filled_up = Cuda::new(plain.device(), true);
    let source = directory("llada-tiny");
    let (mut alone, mut graphs) =
        (load(&source, Arc::new(plain), DType::F32), load(&source, Arc::new(filled_up.clone()), DType::F32));
    for lengths in [&[70][..], &[69], &[5, 60, 33, 2], &[1]] {
        let canvases: Vec<Canvas> = lengths.iter().copied().map(canvas).collect();
        for _ in 0..4 {
            // on a GPU the third time is recorded, and the fourth replayed
            let (found, expected) = (readings(graphs.as_mut(), &canvases), readings(alone.as_mut(), &canvases));
            compare(&found, &expected);
        }
    }
    let shape = |tokens: u32| {
        let mut inputs = filled_up.inputs();
        inputs.add(0..tokens);
        filled_up.lay_out(vec![Span::of(0..tokens as usize, 0..tokens as usize)], &mut inputs);
        inputs.shape
    };
    assert_eq!(shape(65), shape(128));
    assert_ne!(shape(64), shape(65));
    assert_ne!(shape(1023), shape(1024), "another kernel takes the long ones");
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_gguf_file_reads_what_the_cpu_reads() {
    check(&Source::Gguf { file: data("llada-tiny/llama_cpp.gguf"), prism_head: None }, &[5, 40].map(canvas));
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_pass_without_blanks_or_with_many_reviews_reads_what_the_cpu_reads() {
    let filled = Canvas::new((0..100).map(|at| Cell::Filled(TokenId(at * 13 % 250))).collect());
    let canvases = [filled, Canvas::new(vec![Cell::Fixed(TokenId(3)); 4])];
    let source = directory("llada-tiny");
    check(&source, &canvases);
    assert_eq!(readings(load(&source, Arc::new(cuda()), DType::F32).as_mut(), &canvases)[0].reviews.len(), 100);
}

/// Nine a layer: two norms with the residual stream, four products, and between them rotary angles,
/// attention and the gated activation. Thirteen a pass: the embedding, four gathers of angles, the
/// first norm, of the last layer three gathers or products and one rotation for the asked queries,
/// then the states of the blanks, their logits and their summaries.
#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_layer_takes_nine_launches_whatever_the_number_of_rows() {
    let counts = |lengths: &[u32]| {
        let backend = cuda();
        let mut model = load(&directory("llada-tiny"), Arc::new(backend.clone()), DType::F32);
        let canvases: Vec<Canvas> = lengths.iter().copied().map(canvas).collect();
        let rows: Vec<Row<'_>> = canvases.iter().map(|canvas| Row::plain(canvas, 0..canvas.len())).collect();
        let before = backend.counts();
        model.read(&rows).unwrap();
        backend.counts() - before
    };
    let config = std::fs::read(data("llada-tiny").join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let layers = config["n_layers"].as_u64().unwrap();
    for lengths in [&[20][..], &[20, 7, 33, 12], &[3; 40]] {
        assert_eq!(counts(lengths), Counts { launches: 9 * layers + 13, copies: 2, waits: 1 }, "{lengths:?}");
    }
}
