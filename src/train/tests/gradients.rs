//! The losses: gradients are slopes, ten steps are PyTorch's (`tests/data/export_training.py`).

use super::super::data::{Data, Example};
use super::super::masking::{Denoised, Masked, denoise};
use super::super::net::{Net, Parameters};
use super::super::optimiser::{Optimiser, Schedule};
use super::super::prism::Prism;
use super::super::random::Normals;
use super::super::run::{Objective, Scored};
use super::super::samples::{Feedback, Recipe, Sample};
use super::{tiny, trainable};
use crate::diffusion::policy::order;
use crate::diffusion::{Canvas, Cell, Choice, Seed, TokenId};
use crate::model::Config;
use candle_core::{Device, Tensor};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

fn near(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * b.abs()
}

/// The output of the PyTorch script.
#[derive(Deserialize)]
struct Reference {
    schedule: Schedule,
    lambda: f64,
    fills: u32,
    batches: Vec<Vec<Drawn>>,
    base: Losses,
    prism: Losses,
}

#[derive(Deserialize)]
struct Drawn {
    tokens: Vec<u32>,
    masked: Vec<u32>,
    weight: f32,
}

#[derive(Deserialize)]
struct Losses {
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
}

fn reference() -> Reference {
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

/// The loss of some rows, with its graph.
type Loss<'a> = &'a dyn Fn(&Net<'_>, &[Drawn]) -> Tensor;

fn base_loss(config: &Config) -> impl Fn(&Net<'_>, &[Drawn]) -> Tensor + use<> {
    let mask = config.mask.0;
    move |net, rows| {
        let rows: Vec<Masked> = rows.iter().map(|row| row.masked(mask)).collect();
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.clone()).collect();
        let hidden = net.hidden(&ids, rows.len(), &mut Vec::new()).unwrap();
        let Denoised { loss, .. } = denoise(net, &hidden, &rows.iter().collect::<Vec<_>>()).unwrap().unwrap();
        loss
    }
}

fn prism_loss(config: &Config, fills: u32, lambda: f64) -> impl Fn(&Net<'_>, &[Drawn]) -> Tensor + use<> {
    let (config, mask) = (config.clone(), config.mask.0);
    move |net, rows| {
        let mut task = prism(&config, fills, lambda, rows.len());
        task.judged = fills as usize * rows.len();
        let rows: Vec<Sample> = rows.iter().map(|row| row.row(mask)).collect();
        let Scored { loss, .. } = task.score(net, &rows).unwrap();
        loss.unwrap()
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

fn gradients(loss: &Tensor, parameters: &Parameters) -> BTreeMap<String, Tensor> {
    let store = loss.backward().unwrap();
    let gradient = |(name, var): (&String, &candle_core::Var)| Some((name.clone(), store.get(var)?.clone()));
    parameters.trained.iter().filter_map(gradient).collect()
}

#[test]
fn ten_steps_are_pytorchs() {
    let reference = reference();
    let (config, _) = trainable();
    let check = |what: &str, loss: Loss<'_>, expected: &Losses| {
        let (config, parameters) = trainable();
        let mut optimiser = Optimiser::new(reference.schedule.clone(), &parameters).unwrap();
        for (step, rows) in (0u32..).zip(&reference.batches) {
            let net = Net::new(&config, &parameters, 24, 0.0, &Device::Cpu).unwrap();
            let loss = loss(&net, rows);
            let gradients = gradients(&loss, &parameters);
            let norm = optimiser.step(&parameters, &gradients, step).unwrap();
            let loss = f64::from(loss.to_scalar::<f32>().unwrap());
            let (expected, expected_norm) = (expected.losses[step as usize], expected.gradient_norms[step as usize]);
            assert!(near(loss, expected, 1e-3), "{what}, step {step}: loss {loss}, PyTorch's {expected}");
            assert!(near(norm, expected_norm, 5e-3), "{what}, step {step}: norm {norm}, PyTorch's {expected_norm}");
        }
    };
    check("base", &base_loss(&config), &reference.base);
    check("prism", &prism_loss(&config, reference.fills, reference.lambda), &reference.prism);
}

/// Compares the slope of the loss computed from the gradient with one measured from two values of
/// the loss, for each parameter. The direction is half the gradient's own and half random.
fn check_slopes(loss: Loss<'_>, only: fn(&str) -> bool) {
    const STEP: f64 = 5e-3;
    let rows = &reference().batches[0][..2];
    let (config, parameters) = trainable();
    let value = || {
        let net = Net::new(&config, &parameters, 24, 0.0, &Device::Cpu).unwrap();
        loss(&net, rows)
    };
    let gradients = gradients(&value(), &parameters);
    let mut checked = 0;
    for (name, var) in parameters.trained.iter().filter(|(name, _)| only(name)) {
        let gradient = &gradients[name];
        let unit = |tensor: &Tensor| {
            let norm = tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            tensor.affine(1.0 / f64::from(norm.max(1e-12)), 0.0).unwrap()
        };
        let random = Normals::new(checked).tensor(gradient.dims(), 1.0, &Device::Cpu).unwrap();
        let direction = (unit(gradient) + unit(&random)).unwrap();
        let slope = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let start = var.as_detached_tensor().copy().unwrap();
        let at = |distance: f64| {
            var.set(&(&start + direction.affine(distance, 0.0).unwrap()).unwrap()).unwrap();
            f64::from(value().to_scalar::<f32>().unwrap())
        };
        let measured = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        var.set(&start).unwrap();
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
        let net = Net::new(&config, &parameters, 24, 0.0, &Device::Cpu).unwrap();
        let task = prism(&config, 3, 0.5, 2);
        let rows: Vec<Sample> = reference().batches[0][..2].iter().map(|row| row.row(config.mask.0)).collect();
        task.score(&net, &rows).unwrap().feedback
    };
    let rows = continued_from(filled, config.mask.0);
    let loss = move |net: &Net<'_>, _: &[Drawn]| {
        let mut task = prism(&config, 3, 0.5, 2);
        task.judged = 6;
        task.score(net, &rows).unwrap().loss.unwrap()
    };
    check_slopes(&loss, |_| true);
}

#[test]
fn blocks_that_are_computed_again_give_the_same_gradients() {
    let (config, mut parameters) = trainable();
    let (reference, mask) = (reference(), config.mask.0);
    let rows: Vec<Sample> = reference.batches[0].iter().map(|row| row.row(mask)).collect();
    let mut task = prism(&config, reference.fills, reference.lambda, rows.len());
    task.judged = reference.fills as usize * rows.len();
    let module = "model.transformer.blocks.1.v_proj";
    let (outputs, inputs) = parameters.get(&format!("{module}.weight")).unwrap().dims2().unwrap();
    for (part, shape) in [("lora_A", (2, inputs)), ("lora_B", (outputs, 2))] {
        let count = (shape.0 * shape.1) as f32;
        let numbers = Tensor::arange(0.0, count, &Device::Cpu).unwrap().affine(1e-3, -0.03).unwrap();
        parameters.train(format!("{module}.{part}.weight"), &numbers.reshape(shape).unwrap()).unwrap();
    }
    let gradients = |recomputes: bool| {
        let net = Net::new(&config, &parameters, 24, 0.5, &Device::Cpu).unwrap();
        let net = if recomputes { net.recomputing() } else { net };
        let Scored { loss, tapes, .. } = task.score(&net, &rows).unwrap();
        assert_eq!(tapes.len(), if recomputes { 2 } else { 0 }, "both passes of PRISM");
        let (mut store, mut gradients) = (loss.unwrap().backward().unwrap(), BTreeMap::new());
        parameters.take_gradients(&mut store, &mut gradients).unwrap();
        tapes.into_iter().for_each(|tape| net.rewind(tape, &mut store, &mut gradients).unwrap());
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
