//! The losses: gradients are slopes, ten steps are PyTorch's (`tests/data/export_training.py`).

use super::super::data::{Data, Example};
use super::super::masking::Masked;
use super::super::net::{Computation, Net};
use super::super::optimiser::{Optimiser, Schedule};
use super::super::parameters::{Gradients, Parameters};
use super::super::pretrain::Base;
use super::super::prism::Prism;
use super::super::random::Normals;
use super::super::samples::{Feedback, Recipe, Sample};
use super::{cpu, learned, numbers, plainly, tiny, trainable};
use crate::diffusion::policy::order;
use crate::diffusion::{Canvas, Cell, Choice, Seed, TokenId};
use crate::model::Config;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

fn near(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * b.abs()
}

/// The output of the PyTorch script.
#[derive(Deserialize)]
pub(super) struct Reference {
    pub(super) schedule: Schedule,
    pub(super) lambda: f64,
    pub(super) fills: u32,
    pub(super) batches: Vec<Vec<Drawn>>,
    base: Losses,
    prism: Losses,
    base_bf16: Losses,
    prism_bf16: Losses,
}

#[derive(Deserialize)]
pub(super) struct Drawn {
    tokens: Vec<u32>,
    masked: Vec<u32>,
    weight: f32,
}

#[derive(Deserialize)]
struct Losses {
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
}

pub(super) fn reference() -> Reference {
    serde_json::from_slice(&std::fs::read(tiny().join("training.json")).unwrap()).unwrap()
}

impl Drawn {
    fn masked(&self, mask: u32) -> Masked {
        let mut ids = self.tokens.clone();
        let hidden = self.masked.iter().map(|at| (*at, std::mem::replace(&mut ids[*at as usize], mask))).collect();
        Masked { ids, hidden, weight: self.weight }
    }

    fn row(&self, mask: u32) -> Sample {
        let mut cells: Vec<Cell> = self.tokens.iter().map(|token| Cell::Fixed(TokenId(*token))).collect();
        self.masked.iter().for_each(|at| cells[*at as usize] = Cell::Blank);
        let (canvas, masked, truth) = (Canvas::new(cells), self.masked(mask), self.tokens.clone());
        Sample { canvas, masked, truth, temperature: 0.0, seed: Seed(1), step: 0, is_fresh: true }
    }
}

fn prism(config: &Config, fills: u32, lambda: f64, batch: usize) -> Prism {
    let rows = vec![Example { tokens: vec![0; 24], free: (0..24).collect() }];
    let recipe = Recipe {
        fills,
        order: Choice::of(&order::CONFIDENCE),
        temperature: 0.0,
        lambda,
        carried: 0.0,
        rounds: NonZeroU32::MIN,
        ratio_min: 0.1,
        ratio_max: 0.9,
    };
    Prism::new(config.clone(), [Data::of(rows.clone(), 0), Data::of(rows, 0)], batch, recipe, 0)
}

/// The loss of some rows, and its gradients.
pub(super) type Loss<'a> = &'a dyn Fn(&Net<'_>, &[Drawn]) -> (f64, Gradients);

pub(super) fn base_loss(config: &Config) -> impl Fn(&Net<'_>, &[Drawn]) -> (f64, Gradients) + use<> {
    let data = || Data::of(vec![Example { tokens: vec![0; 24], free: (0..24).collect() }], 0);
    let (data, held_out) = (data(), data());
    let task = Base { config: config.clone(), data, held_out, batch: 1, ratio_max: 1.0, seed: 0 };
    let mask = config.mask.0;
    move |net, rows| {
        let rows: Vec<Masked> = rows.iter().map(|row| row.masked(mask)).collect();
        let (sums, gradients, _) = learned(&task, net, &rows);
        (sums.loss, gradients)
    }
}

pub(super) fn prism_loss(
    config: &Config,
    fills: u32,
    lambda: f64,
) -> impl Fn(&Net<'_>, &[Drawn]) -> (f64, Gradients) + use<> {
    let (config, mask) = (config.clone(), config.mask.0);
    move |net, rows| {
        let mut task = prism(&config, fills, lambda, rows.len());
        task.judged = fills as usize * rows.len();
        let rows: Vec<Sample> = rows.iter().map(|row| row.row(mask)).collect();
        let (sums, gradients, _) = learned(&task, net, &rows);
        (sums.loss, gradients)
    }
}

/// The filled rows, as the next step learns from them.
fn continued_from(filled: Vec<Feedback>, mask: u32) -> Vec<Sample> {
    let row = |feedback| match feedback {
        Feedback::Read(_) => panic!("was not filled"),
        Feedback::Filled { canvas, truth, seed } => {
            let ids = canvas.cells().iter().map(|cell| cell.token().map_or(mask, |token| token.0)).collect();
            let hidden = canvas.blanks(0..canvas.len()).map(|at| (at.0, truth[at.index()])).collect();
            let masked = Masked { ids, hidden, weight: 0.05 };
            Sample { canvas, masked, truth, temperature: 0.0, seed, step: 1, is_fresh: false }
        }
    };
    filled.into_iter().map(row).collect()
}

/// How far losses and norms may be from PyTorch's, as shares of them.
const F32: [f64; 2] = [1e-3, 5e-3];
const BF16: [f64; 2] = [4e-3, 1e-2];

/// Takes steps from llada-tiny and compares them with PyTorch's.
fn check_steps(loss: Loss<'_>, expected: &Losses, steps: usize, dtype: DType, allowed: [f64; 2]) {
    let reference = reference();
    let (config, mut parameters) = trainable();
    let optimiser = Optimiser::new(reference.schedule.clone(), &mut parameters, None, cpu()).unwrap();
    for (step, rows) in (0u32..).zip(&reference.batches).take(steps) {
        let net = Net::new(&config, &parameters, 24, &Computation { dtype, ..plainly() }).unwrap();
        let (loss, gradients) = loss(&net, rows);
        let norm = f64::from(numbers(&optimiser.step(&gradients, step).unwrap())[0]);
        let (expected, expected_norm) = (expected.losses[step as usize], expected.gradient_norms[step as usize]);
        assert!(near(loss, expected, allowed[0]), "{dtype:?}, step {step}: loss {loss}, PyTorch's {expected}");
        assert!(
            near(norm, expected_norm, allowed[1]),
            "{dtype:?}, step {step}: norm {norm}, PyTorch's {expected_norm}"
        );
    }
}

#[test]
fn ten_steps_are_pytorchs() {
    let reference = reference();
    let (config, _) = trainable();
    let prism = prism_loss(&config, reference.fills, reference.lambda);
    check_steps(&base_loss(&config), &reference.base, 10, DType::F32, F32);
    check_steps(&prism, &reference.prism, 10, DType::F32, F32);
    check_steps(&base_loss(&config), &reference.base_bf16, 10, DType::BF16, BF16);
    // later fills depend on the order of confidences that bf16 cannot tell apart
    check_steps(&prism, &reference.prism_bf16, 1, DType::BF16, BF16);
}

/// Compares the slope of the loss computed from the gradient with one measured from two values of
/// the loss, for each parameter. The direction is half the gradient's own and half random.
fn check_slopes(loss: Loss<'_>, only: fn(&str) -> bool) {
    const STEP: f64 = 5e-3;
    let rows = &reference().batches[0][..2];
    let (config, mut parameters) = trainable();
    adapt(&mut parameters);
    let value = |parameters: &Parameters| {
        let net = Net::new(&config, parameters, 24, &plainly()).unwrap();
        loss(&net, rows)
    };
    let gradients = value(&parameters).1.0;
    let names: Vec<String> = parameters.trained.keys().filter(|name| only(name)).cloned().collect();
    let mut checked = 0;
    for name in names {
        let gradient = &gradients[&name];
        let unit = |tensor: &Tensor| {
            let norm = tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            tensor.affine(1.0 / f64::from(norm.max(1e-12)), 0.0).unwrap()
        };
        let random = Normals::new(checked).tensor(gradient.dims(), 1.0, &Device::Cpu).unwrap();
        let direction = (unit(gradient) + unit(&random)).unwrap();
        let slope = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let start = parameters.trained[&name].clone();
        let mut at = |distance: f64| {
            let moved = (&start + direction.affine(distance, 0.0).unwrap()).unwrap();
            parameters.train(name.clone(), &moved).unwrap();
            value(&parameters).0
        };
        let measured = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        parameters.train(name.clone(), &start).unwrap();
        // the loss is known to about 5e-7, which the division by 1e-2 makes 5e-5
        let slope = f64::from(slope);
        assert!((measured - slope).abs() < 0.02 * slope.abs() + 2e-4, "{name}: {measured} measured, {slope} computed");
        checked += 1;
    }
    assert!(checked > 5, "{checked} parameters");
}

#[test]
fn the_gradient_of_the_denoising_loss_is_its_slope() {
    let (config, _) = trainable();
    check_slopes(&base_loss(&config), |name| name.starts_with("model."));
}

#[test]
fn the_gradient_of_the_prism_loss_is_its_slope() {
    let (config, _) = trainable();
    // fills are not a smooth function of the weights, so those of the initial weights are judged
    let filled = {
        let (config, parameters) = trainable();
        let net = Net::new(&config, &parameters, 24, &plainly()).unwrap();
        let task = prism(&config, 3, 0.5, 2);
        let rows: Vec<Sample> = reference().batches[0][..2].iter().map(|row| row.row(config.mask.0)).collect();
        learned(&task, &net, &rows).2
    };
    let rows = continued_from(filled, config.mask.0);
    let loss = move |net: &Net<'_>, _: &[Drawn]| {
        let mut task = prism(&config, 3, 0.5, 2);
        task.judged = 6;
        let (sums, gradients, _) = learned(&task, net, &rows);
        (sums.loss, gradients)
    };
    check_slopes(&loss, |_| true);
}

/// Gives a module an adapter.
pub(super) fn adapt(parameters: &mut Parameters) {
    let module = "model.transformer.blocks.1.v_proj";
    let (outputs, inputs) = parameters.trained[&format!("{module}.weight")].dims2().unwrap();
    for (part, shape) in [("lora_A", (2, inputs)), ("lora_B", (outputs, 2))] {
        let count = (shape.0 * shape.1) as f32;
        let numbers = Tensor::arange(0.0, count, &Device::Cpu).unwrap().affine(1e-3, -0.03).unwrap();
        parameters.train(format!("{module}.{part}.weight"), &numbers.reshape(shape).unwrap()).unwrap();
    }
}

#[test]
fn rows_of_different_lengths_learn_together_what_each_learns_alone() {
    let (config, mut parameters) = trainable();
    adapt(&mut parameters);
    let net = Net::new(&config, &parameters, 24, &plainly()).unwrap();
    let mut rows = reference().batches.remove(0);
    for (row, length) in rows.iter_mut().zip([24, 13, 1, 24]) {
        row.tokens.truncate(length);
        row.masked.retain(|at| (*at as usize) < length);
    }
    rows[2].masked = vec![0];
    let loss = base_loss(&config);
    let (together, gradients) = loss(&net, &rows);
    let (mut alone, mut sum) = (0.0, Gradients::default());
    for row in rows {
        let (own, gradients) = loss(&net, &[row]);
        alone += own;
        sum.add_all(&gradients).unwrap();
    }
    assert!(near(together, alone, 1e-5), "{together} {alone}");
    assert_eq!(gradients.0.len(), sum.0.len());
    for (name, sum) in &sum.0 {
        let (a, b) = (numbers(&gradients.0[name]), numbers(sum));
        let largest = b.iter().fold(0.0f32, |largest, slope| largest.max(slope.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-4 * largest), "{name}");
    }
}

#[test]
fn blocks_that_are_computed_again_give_the_same_gradients() {
    let (config, mut parameters) = trainable();
    let (reference, mask) = (reference(), config.mask.0);
    let rows: Vec<Sample> = reference.batches[0].iter().map(|row| row.row(mask)).collect();
    let mut task = prism(&config, reference.fills, reference.lambda, rows.len());
    task.judged = reference.fills as usize * rows.len();
    adapt(&mut parameters);
    let gradients = |recomputes: bool| {
        let net = Net::new(&config, &parameters, 24, &Computation { recomputes, ..plainly() }).unwrap();
        let gradients = learned(&task, &net, &rows).1.0;
        let numbers = |gradient: &Tensor| gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        gradients.iter().map(|(name, gradient)| (name.clone(), numbers(gradient))).collect::<BTreeMap<_, _>>()
    };
    let (kept, again) = (gradients(false), gradients(true));
    assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    assert_eq!(kept.len(), parameters.trained.len());
    for (name, kept) in &kept {
        let largest = kept.iter().fold(0.0f32, |largest, slope| largest.max(slope.abs()));
        // the two passes of a step are added in another order
        let is_near = kept.iter().zip(&again[name]).all(|(kept, again)| (kept - again).abs() <= 1e-5 * largest);
        assert!(is_near && largest > 0.0, "{name}");
    }
}
