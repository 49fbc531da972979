//! What only shows with everything together: the network is the one that serves, gradients are slopes, ten steps are
//! PyTorch's, and a run that was stopped is the run that was not.

mod gradients;
mod runs;

use super::net::Net;
use super::parameters::Parameters;
use crate::diffusion::TokenId;
use crate::model::{self, Config, Source, Tensors, load};
use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny")
}

/// llada-tiny with its head, everything to be trained.
fn trainable() -> (Config, Parameters) {
    let Tensors { config, backbone, head, .. } = model::tensors(&tiny(), None, model::Device::Cpu).unwrap();
    let mut parameters = Parameters::default();
    for (name, tensor) in backbone.into_iter().chain(head.unwrap()) {
        parameters.train(name, &tensor).unwrap();
    }
    (config, parameters)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_network_that_learns_is_the_one_that_serves() {
    for dir in [tiny(), Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sudoku")] {
        let Tensors { config, backbone, head, .. } = model::tensors(&dir, None, model::Device::Cpu).unwrap();
        let mut parameters = Parameters::default();
        for (name, tensor) in backbone.into_iter().chain(head.unwrap()) {
            parameters.freeze(name, tensor);
        }
        let net = Net::new(&config, &parameters, 60, 0.0, &Device::Cpu).unwrap();
        let vocabulary = u32::try_from(config.vocab_size).unwrap();
        let row = |first: u32| (0..60).map(|at| (first + 7 * at) % vocabulary).collect::<Vec<u32>>();
        let hidden = net.hidden(&[row(1), row(5)].concat(), 2).unwrap();
        let logits = numbers(&net.logits(&hidden).unwrap());
        let quality = numbers(&net.quality(&hidden).unwrap());

        let source = Source::Directory { dir, prism_head: None, adapter: None };
        let mut served = load(&source, model::Device::Cpu).unwrap();
        let inspections =
            [1, 5].map(|first| served.inspect(&row(first).into_iter().map(TokenId).collect::<Vec<_>>()).unwrap());
        let width = config.embedding_size;
        for (at, expected) in inspections.iter().flat_map(|inspection| &inspection.logits).enumerate() {
            for (a, b) in logits[at * width..].iter().zip(expected) {
                assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{a} {b}");
            }
        }
        let expected = inspections.iter().flat_map(|inspection| inspection.quality_logits.as_ref().unwrap());
        assert!(quality.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + b.abs())));
    }
}
