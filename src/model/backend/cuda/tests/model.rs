//! A whole model on a GPU against the CPU, and how often the GPU is spoken to.

use super::cuda;
use crate::diffusion::{Canvas, Cell, Reading, Seed, TokenId};
use crate::model::backend::{Backend, counts::Counts, cpu::Cpu};
use crate::model::interface::{Denoiser, Filter, Row, Sampling};
use crate::model::load::{Place, Source, load_on};
use candle_core::DType;
use std::path::Path;
use std::sync::Arc;

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn load(source: &Source, backend: Arc<dyn Backend>, dtype: DType) -> Box<dyn Denoiser> {
    let device = crate::model::Device::Cpu;
    load_on(source, Place { dtype, backend, name: device, allow_foreign_head: false }).unwrap()
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
    let rows: Vec<Row<'_>> = canvases
        .iter()
        .enumerate()
        .map(|(index, canvas)| Row {
            canvas,
            window: 0..canvas.len(),
            sampling: Sampling {
                temperature: if index % 2 == 0 { 0.0 } else { 1.0 },
                seed: Seed(7),
                step: 3,
                filter: Filter { top_p: (index % 4 == 1).then_some(0.8), ..Filter::ALL },
            },
            guidance: (index % 3 == 2).then_some(0.6),
            biases: if canvas.len() > 40 { &BANNED } else { &[] },
            only: &[],
            review: has_quality,
            present: index == 1,
        })
        .collect();
    model.read(&rows).unwrap().into_iter().map(Result::unwrap).collect()
}

const BANNED: [(TokenId, f32); 1] = [(TokenId(17), f32::NEG_INFINITY)];

/// The same tokens and numbers but for rounding; only tokens of nearly equal probability may change
/// places.
fn compare(source: &Source, lengths: &[u32]) {
    let canvases: Vec<Canvas> = lengths.iter().copied().map(canvas).collect();
    let expected = readings(load(source, Arc::new(Cpu), DType::F32).as_mut(), &canvases);
    let found = readings(load(source, Arc::new(cuda()), DType::F32).as_mut(), &canvases);
    let (mut blanks, mut same) = (0, 0);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!((found.proposals.len(), found.reviews.len()), (expected.proposals.len(), expected.reviews.len()));
        for (a, b) in found.proposals.iter().zip(&expected.proposals) {
            assert_eq!(a.at, b.at);
            blanks += 1;
            if a.token == b.token {
                same += 1;
                let off = (a.confidence.get() - b.confidence.get()).abs();
                assert!(off < 1e-3 && (a.entropy - b.entropy).abs() < 1e-2, "{a:?} {b:?}");
            }
        }
        for (a, b) in found.reviews.iter().zip(&expected.reviews) {
            assert!(a.at == b.at && (a.quality.get() - b.quality.get()).abs() < 1e-3, "{a:?} {b:?}");
        }
        for (a, b) in found.present.iter().zip(&expected.present) {
            assert!(a.at == b.at && (a.confidence.get() - b.confidence.get()).abs() < 1e-3, "{a:?} {b:?}");
        }
    }
    assert!(blanks > 0 && same * 50 >= blanks * 49, "{same} of {blanks}");
}

fn directory(name: &str) -> Source {
    Source::Directory { dir: data(name), prism_head: None, adapter: None }
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_llada_model_reads_what_the_cpu_reads() {
    compare(&directory("llada-tiny"), &[5, 60, 33, 2, 77]);
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_gguf_file_reads_what_the_cpu_reads() {
    compare(&Source::Gguf { file: data("llada-tiny/llama_cpp.gguf"), prism_head: None }, &[5, 40]);
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_pass_without_blanks_or_with_many_reviews_reads_what_the_cpu_reads() {
    let filled = Canvas::new((0..100).map(|at| Cell::Filled(TokenId(at * 13 % 250))).collect());
    let canvases = [filled, Canvas::new(vec![Cell::Fixed(TokenId(3)); 4])];
    let source = directory("llada-tiny");
    let expected = readings(load(&source, Arc::new(Cpu), DType::F32).as_mut(), &canvases);
    let found = readings(load(&source, Arc::new(cuda()), DType::F32).as_mut(), &canvases);
    assert_eq!(found[0].reviews.len(), 100);
    for (a, b) in found[0].reviews.iter().zip(&expected[0].reviews) {
        assert!(a.at == b.at && (a.quality.get() - b.quality.get()).abs() < 1e-3, "{a:?} {b:?}");
    }
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
