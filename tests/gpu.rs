//! The numbers of `llada-tiny` on a GPU. `just gpu` copies this program and the model to a machine
//! that has one.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::golden::Golden;
use remask::diffusion::{Canvas, Cell, Reading, Seed, TokenId};
use remask::model::{Denoiser, Device, Filter, Precision, Row, Sampling, Source, load_in};
use std::path::PathBuf;

/// The directory of the tiny model: beside this program where it was copied.
fn tiny(name: &str) -> PathBuf {
    let carried = PathBuf::from("tests/data/llada-tiny");
    if carried.exists() { carried.join(name) } else { common::golden::tiny(name) }
}

fn model(device: Device, precision: Precision) -> Box<dyn Denoiser> {
    load_in(&Source::Directory { dir: tiny(""), prism_head: None, adapter: None }, device, precision).unwrap()
}

#[test]
fn the_published_numbers_come_out_in_f32_and_nearly_in_bf16() {
    let golden = Golden::open(&tiny("io.safetensors"));
    for (precision, dtype, tolerance) in [(Precision::F32, "f32", 1e-3), (Precision::Auto, "bf16", 3e-2)] {
        let mut model = model(Device::Cuda(0), precision);
        assert_eq!((model.spec().dtype.as_str(), model.spec().device.as_str()), (dtype, "cuda:0"));
        for row in 0..3 {
            println!("{dtype}");
            golden.check(row, "", &model.inspect(&golden.ids(row)).unwrap(), tolerance);
        }
    }
}

fn readings(model: &mut dyn Denoiser, canvases: &[Canvas]) -> Vec<Reading> {
    let banned = [(TokenId(257), f32::NEG_INFINITY)];
    let row = |(index, canvas): (usize, &'_ Canvas)| -> (Sampling, Option<f32>, bool) {
        let temperature = if index % 2 == 0 { 0.0 } else { 1.0 };
        (
            Sampling { temperature, seed: Seed(7), step: 3, filter: Filter::ALL },
            (index % 3 == 2).then_some(0.6),
            canvas.len() > 40,
        )
    };
    let wishes: Vec<_> = canvases.iter().enumerate().map(row).collect();
    let rows: Vec<Row<'_>> = canvases
        .iter()
        .zip(wishes)
        .map(|(canvas, (sampling, guidance, bans))| Row {
            canvas,
            window: 0..canvas.len(),
            sampling,
            guidance,
            biases: if bans { &banned } else { &[] },
            only: &[],
            review: true,
            present: false,
        })
        .collect();
    model.read(&rows).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn a_reading_is_the_cpus_drawn_guided_or_biased() {
    let canvas = |length: u32| {
        let cell = |at: u32| match at % 4 {
            0 => Cell::Fixed(TokenId(at * 7 % 250)),
            1 => Cell::Filled(TokenId(at * 13 % 250)),
            _ => Cell::Blank,
        };
        Canvas::new((0..length).map(cell).collect())
    };
    let canvases: Vec<Canvas> = [5, 60, 33, 128, 77, 512].map(canvas).into();
    let expected = readings(model(Device::Cpu, Precision::F32).as_mut(), &canvases);
    let found = readings(model(Device::Cuda(0), Precision::F32).as_mut(), &canvases);
    let (mut blanks, mut same) = (0, 0);
    for (found, expected) in found.iter().zip(&expected) {
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
    }
    // only tokens of nearly equal probability may change places
    assert!(blanks > 300 && same * 200 >= blanks * 199, "{same} of {blanks}");
}
