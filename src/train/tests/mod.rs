//! Training as a whole: the trained network equals the served one, gradients are the slopes of the
//! losses, ten steps agree with PyTorch, and a resumed run equals an uninterrupted one.

mod gradients;
mod head_alone;
mod kernels;
mod runs;
mod several_heads;

use super::data::Data;
use super::init::Start;
use super::net::{Computation, Net};
use super::parameters::{Gradients, Parameters};
use super::progress::Sums;
use super::run::{Objective, Scored};
use super::samples::Recipe;
use super::tuning::{Learns, Tuning};
use crate::diffusion::TokenId;
use crate::model::{self, Config, Precision, Source, Tensors, Training, load};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn tiny() -> PathBuf {
    const PLACE: &str = "tests/data/llada-tiny";
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(PLACE);
    // tests that were built elsewhere, for a GPU, have it beside them
    if built.exists() { built } else { PLACE.into() }
}

/// llada-tiny with its head; all parameters are trained.
fn trainable() -> (Config, Parameters) {
    let Tensors { config, backbone, head, .. } = model::tensors(&tiny(), None, model::Device::Cpu, false).unwrap();
    let mut parameters = Parameters::default();
    for (name, tensor) in backbone.into_iter().chain(head.unwrap()) {
        parameters.train(name, &tensor).unwrap();
    }
    (config, parameters)
}

/// The operations of the CPU.
pub(super) fn cpu() -> Arc<dyn Training> {
    model::training(model::Device::Cpu).unwrap()
}

/// On the CPU in f32.
fn plainly() -> Computation {
    Computation { device: cpu(), dtype: DType::F32, lora_scale: 0.5, recomputes: false }
}

/// What an objective learns of some rows: figures, gradients and feedback.
fn learned<O: Objective>(task: &O, net: &Net<'_>, rows: &[O::Sample]) -> (Sums, Gradients, Vec<O::Feedback>) {
    let mut gradients = Gradients::default();
    let Scored { told, pending } = task.score(net, rows, Some(&mut gradients)).unwrap();
    let (sums, feedback) = task.told(rows, pending, &told.map_or_else(Vec::new, |told| numbers(&told)));
    (sums, gradients, feedback)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_network_that_learns_is_the_one_that_serves() {
    for dir in [tiny(), Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sudoku")] {
        let Tensors { config, backbone, head, .. } = model::tensors(&dir, None, model::Device::Cpu, false).unwrap();
        let mut parameters = Parameters::default();
        for (name, tensor) in backbone.into_iter().chain(head.unwrap()) {
            parameters.frozen.insert(name, tensor);
        }
        let net = Net::new(&config, &parameters, 60, &plainly()).unwrap();
        let vocabulary = u32::try_from(config.vocab_size).unwrap();
        let row = |first: u32| (0..60).map(|at| (first + 7 * at) % vocabulary).collect::<Vec<u32>>();
        let pass = net.forward([row(1), row(5)].concat(), &[60, 60]).unwrap();
        let logits = numbers(&net.logits(&pass.hidden).unwrap());
        let judgement = net.judge("", &pass.hidden, &[0.0; 120], None).unwrap();
        let quality = numbers(&judgement.logits);

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

#[test]
fn a_model_with_more_blocks_computes_what_it_did() {
    let Tensors { config, backbone: weights, .. } = model::tensors(&tiny(), None, model::Device::Cpu, false).unwrap();
    let ids: Vec<u32> = (0..24).map(|at| 7 * at % 60).collect();
    let logits = |config: &Config, weights: &BTreeMap<String, Tensor>| {
        let mut parameters = Parameters::default();
        weights.iter().for_each(|(name, tensor)| parameters.train(name.clone(), tensor).unwrap());
        let net = Net::new(config, &parameters, 24, &plainly()).unwrap();
        let (pass, mut gradients) = (net.forward(ids.clone(), &[24]).unwrap(), Gradients::default());
        let logits = net.logits(&pass.hidden).unwrap();
        let of_hidden = net.logits_gradients(&pass.hidden, &logits, &mut gradients).unwrap();
        net.backward(pass, &of_hidden, &mut gradients).unwrap();
        let learns = |name: &str| numbers(&gradients.0[name]).iter().any(|slope| *slope != 0.0);
        (numbers(&logits), learns("model.transformer.blocks.1.attn_out.weight"))
    };
    let layers = config.n_layers;
    let start = Start::From(weights.clone());
    let (deeper, expanded) = start.clone().expanded(&config, 3 * layers).unwrap();
    let Start::From(more) = expanded else { panic!("it goes on from weights") };
    assert_eq!(deeper.n_layers, 3 * layers);
    assert_eq!(more.keys().cloned().collect::<BTreeSet<_>>(), deeper.tensors().map(|(name, _)| name).collect());
    let (after, copy_learns) = logits(&deeper, &more);
    assert_eq!(logits(&config, &weights).0, after);
    assert!(copy_learns);

    for layers in [0, layers - 1, layers + 1] {
        let error = start.clone().expanded(&config, layers).unwrap_err().to_string();
        assert!(error.contains(&format!("{layers} layers cannot be made of the model's 2")), "{error}");
    }
    let error = Start::Fresh.expanded(&config, 4).unwrap_err().to_string();
    assert!(error.contains("no weights"), "{error}");
}

/// Tunes the model in `base` on all of `data`, which it is also measured on.
fn tuning(base: &Path, data: Data, recipe: Recipe, learns: Learns) -> Tuning {
    Tuning {
        base: base.to_owned(),
        held_out: data.clone(),
        data,
        batch: 4,
        recipe,
        learns,
        heads: Vec::new(),
        seed: 2,
        allow_foreign_head: false,
        precision: Precision::Auto,
        has_dummy_weights: false,
    }
}
