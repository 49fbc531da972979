//! Reference numbers of published code, and how far ours are from them.

#![allow(clippy::print_stdout)] // differences, with --nocapture

use candle_core::Device as Cpu;
use candle_core::Tensor;
use candle_core::safetensors::load as load_tensors;
use remask::diffusion::TokenId;
use remask::engine::{Event, Session};
use remask::model::{Denoiser, Device, Inspection, Source, load};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub type Tensors = HashMap<String, Tensor>;

pub fn tiny(name: &str) -> PathBuf {
    super::data("llada-tiny").join(name)
}

pub fn model(dir: &Path, prism_head: Option<PathBuf>, adapter: Option<PathBuf>) -> Box<dyn Denoiser> {
    load(&Source::Directory { dir: dir.to_owned(), prism_head, adapter }, Device::Cpu).unwrap()
}

/// Rows of ids and what the published code computed for them.
pub struct Golden {
    pub tensors: Tensors,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        Self { tensors: load_tensors(path, &Cpu::Cpu).unwrap() }
    }

    pub fn ids(&self, row: usize) -> Vec<TokenId> {
        let ids = self.tensors[&format!("{row}.input_ids")].to_vec1::<i64>().unwrap();
        ids.into_iter().map(|id| TokenId(u32::try_from(id).unwrap())).collect()
    }

    /// The numbers of a row under a name.
    pub fn numbers(&self, row: usize, name: &str) -> Vec<f32> {
        self.tensors[&format!("{row}.{name}")].flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Compares `found` with every reference number of the row.
    pub fn check(&self, row: usize, lora: &str, found: &Inspection, tolerance: f64) {
        let numbers = |name: &str| self.numbers(row, name);
        near(&format!("{row} logits"), &found.logits.concat(), &numbers(&format!("{lora}logits")), tolerance);
        let quality = found.quality_logits.as_ref().unwrap();
        near(&format!("{row} quality"), quality, &numbers(&format!("{lora}quality_logit")), tolerance);
        if lora.is_empty() {
            near(&format!("{row} hidden"), &found.hidden.concat(), &numbers("hidden"), tolerance);
        }
    }
}

/// The relative difference of all numbers together, and the largest single difference relative to
/// the largest number.
pub fn near(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let (mut square, mut norm, mut worst, mut largest) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (a, b) in found.iter().map(|a| f64::from(*a)).zip(expected.iter().map(|b| f64::from(*b))) {
        square += (a - b).powi(2);
        norm += b * b;
        worst = worst.max((a - b).abs());
        largest = largest.max(b.abs());
    }
    let (whole, worst) = ((square / norm).sqrt(), worst / largest);
    println!("{what}: {whole:.1e} as a whole, {worst:.1e} at worst");
    assert!(whole <= tolerance && worst <= tolerance, "{what}: {whole:e}, {worst:e}");
}

/// The canvas before each pass and at the end, rebuilt from the events.
pub async fn canvases(mut session: Session, mask: u32) -> Vec<Vec<u32>> {
    let offset = session.start.offset;
    let mut canvas: Vec<u32> =
        session.start.cells.iter().map(|cell| cell.token().map_or(mask, |token| token.0)).collect();
    let mut seen = vec![canvas.clone()];
    while let Some(event) = session.next().await {
        match event {
            Event::Step(step) => {
                for edit in step.edits {
                    let now = edit.written().map_or(mask, |(token, _)| token.0);
                    canvas[edit.at().index() - offset] = now;
                }
                seen.push(canvas.clone());
            }
            Event::Finished(answer) => {
                let tokens: Vec<u32> = answer.written.iter().map(|written| written.token.0).collect();
                assert_eq!(tokens, canvas, "the answer is its edits");
                assert_eq!(answer.forward_passes as usize, seen.len() - 1);
            }
            Event::Failed(failure) => panic!("{failure}"),
        }
    }
    seen
}
