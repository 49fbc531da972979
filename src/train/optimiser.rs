//! AdamW with warm-up, cosine decay, gradient clipping and a moving average of the parameters.
//!
//! candle's AdamW does not expose its moments, and without them a run cannot be resumed.

use super::parameters::{Gradients, Parameters};
use crate::model::{AdamStep, Training};
use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The optimiser's settings. They are part of a checkpoint; a run is resumed with the same ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Steps of the whole run.
    pub steps: u32,
    /// Largest learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises linearly from 0.
    pub warmup: u32,
    /// AdamW's decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Decoupled weight decay of matrices; gains and biases have none.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    pub clip: f64,
    /// Decay of the moving average of the parameters; smaller in the first steps.
    pub ema: f64,
}

impl Schedule {
    /// The learning rate of `step`: a linear warm-up, then a cosine decay to 0.
    pub fn rate(&self, step: u32) -> f64 {
        if step < self.warmup {
            return self.learning_rate * f64::from(step + 1) / f64::from(self.warmup);
        }
        let progress = f64::from(step - self.warmup) / f64::from((self.steps - self.warmup).max(1));
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

/// The optimiser's state of a parameter: (4, elements), whose rows are [`PARTS`].
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) shape: Vec<usize>,
    pub(super) parts: Tensor,
}

/// The rows of a state: the parameter, the moving averages of its gradients and of their squares,
/// and the moving average of the parameter.
pub(super) const PARTS: [&str; 4] = ["parameter", "first", "second", "ema"];

/// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over all parameters at once, which lie end
/// to end. A parameter without a gradient in a step has one of 0.
#[derive(Debug)]
pub(super) struct Optimiser {
    schedule: Schedule,
    device: Arc<dyn Training>,
    /// (4, elements of all parameters), f32.
    state: Tensor,
    /// Matrices first, which decay.
    places: Vec<Place>,
    /// Elements of matrices.
    decayed: usize,
}

/// Where a parameter lies among all.
#[derive(Debug)]
struct Place {
    name: String,
    shape: Vec<usize>,
    first: usize,
    count: usize,
}

impl Optimiser {
    /// Begins a run, or goes on with the states of a checkpoint. The trained parameters become
    /// views of the optimiser's state, so that its steps change them.
    pub(super) fn new(
        schedule: Schedule,
        parameters: &mut Parameters,
        saved: Option<&BTreeMap<String, State>>,
        device: Arc<dyn Training>,
    ) -> Result<Self> {
        let (matrices, vectors): (Vec<_>, Vec<_>) =
            parameters.trained.iter().partition(|(_, tensor)| tensor.rank() > 1);
        let decayed = matrices.iter().map(|(_, tensor)| tensor.elem_count()).sum();
        let (mut places, mut rows, mut first) = (Vec::new(), [const { Vec::new() }; 4], 0);
        for (name, tensor) in matrices.into_iter().chain(vectors) {
            let (shape, count) = (tensor.dims().to_vec(), tensor.elem_count());
            let own = match saved.map(|saved| saved.get(name)) {
                None => {
                    let (start, zeros) = (tensor.flatten_all()?, Tensor::zeros(count, DType::F32, tensor.device())?);
                    [start.clone(), zeros.clone(), zeros, start]
                }
                Some(Some(State { shape: of, parts })) if *of == shape => {
                    let [parameter, first, second, average] = [0, 1, 2, 3].map(|part| parts.get(part));
                    [parameter?, first?, second?, average?]
                }
                Some(_) => bail!("the checkpoint has no {name} of shape {shape:?}"),
            };
            rows.iter_mut().zip(own).for_each(|(row, own)| row.push(own));
            places.push(Place { name: name.clone(), shape, first, count });
            first += count;
        }
        let rows: Vec<Tensor> = rows.iter().map(|row| Tensor::cat(row, 0)).collect::<Result<_>>()?;
        let state = Tensor::stack(&rows, 0)?;
        let optimiser = Self { schedule, device, state, places, decayed };
        parameters.trained = optimiser.part(0)?;
        Ok(optimiser)
    }

    /// Views of a row of the state, by the names of the parameters.
    fn part(&self, row: usize) -> Result<BTreeMap<String, Tensor>> {
        let row = self.state.get(row)?;
        let view = |Place { name, shape, first, count }: &Place| {
            Ok((name.clone(), row.narrow(0, *first, *count)?.reshape(shape.clone())?))
        };
        self.places.iter().map(view).collect()
    }

    /// The moving averages of the parameters. Later steps change them.
    pub(super) fn averages(&self) -> Result<BTreeMap<String, Tensor>> {
        self.part(3)
    }

    /// The states of all parameters as they are now.
    pub(super) fn states(&self) -> Result<BTreeMap<String, State>> {
        let state = self.state.to_device(&Device::Cpu)?.force_contiguous()?;
        let part = |Place { name, shape, first, count }: &Place| {
            Ok((name.clone(), State { shape: shape.clone(), parts: state.narrow(1, *first, *count)? }))
        };
        self.places.iter().map(part).collect()
    }

    /// Updates the parameters and returns the norm of the gradients, (1). If it is not finite,
    /// nothing changes.
    pub(super) fn step(&self, gradients: &Gradients, step: u32) -> Result<Tensor> {
        let Schedule { betas, weight_decay, clip, ema, .. } = self.schedule;
        let rate = self.schedule.rate(step);
        let count = f64::from(step) + 1.0;
        let of = |place: &Place| match gradients.0.get(&place.name) {
            Some(gradient) => gradient.flatten_all(),
            None => Tensor::zeros(place.count, DType::F32, self.state.device()),
        };
        let gradients = Tensor::cat(&self.places.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?;
        let step = AdamStep {
            rate: rate as f32,
            betas: betas.map(|beta| beta as f32),
            unbias: betas.map(|beta| (1.0 - beta.powf(count)) as f32),
            decay: (1.0 - rate * weight_decay) as f32,
            decayed: self.decayed,
            clip: clip as f32,
            // forgets the initial values
            average: ema.min(f64::from(step + 1) / f64::from(step + 10)) as f32,
        };
        self.device.adam(&self.state, &gradients, &step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::cpu;

    fn schedule() -> Schedule {
        Schedule {
            steps: 100,
            learning_rate: 0.1,
            warmup: 10,
            betas: [0.9, 0.98],
            weight_decay: 0.0,
            clip: 1.0,
            ema: 0.9,
        }
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100).map(|step| schedule().rate(step)).collect();
        assert!((rates[0] - 0.01).abs() < 1e-12 && (rates[9] - 0.1).abs() < 1e-12 && (rates[10] - 0.1).abs() < 1e-12);
        assert!(rates[..10].windows(2).all(|pair| pair[0] < pair[1]));
        assert!(rates[10..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!((rates[55] - 0.05).abs() < 1e-12 && rates[99] < 1e-4);
    }

    fn parameters(numbers: &[f32]) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.train("x".to_owned(), &Tensor::new(numbers, &Device::Cpu).unwrap()).unwrap();
        parameters
    }

    fn gradients(numbers: &[f32]) -> Gradients {
        Gradients(BTreeMap::from([("x".to_owned(), Tensor::new(numbers, &Device::Cpu).unwrap())]))
    }

    fn x(parameters: &Parameters) -> Vec<f32> {
        parameters.trained["x"].to_vec1().unwrap()
    }

    #[test]
    fn a_valley_is_found_and_the_average_follows() {
        let mut parameters = parameters(&[3.0, -2.0]);
        let optimiser = Optimiser::new(schedule(), &mut parameters, None, cpu()).unwrap();
        for step in 0..100 {
            let slopes: Vec<f32> = x(&parameters).into_iter().map(|x| 2.0 * x).collect();
            optimiser.step(&gradients(&slopes), step).unwrap();
        }
        let near_zero = |numbers: &[f32], bound: f32| numbers.iter().all(|x| x.abs() < bound);
        assert!(near_zero(&x(&parameters), 0.2), "{:?}", x(&parameters));
        assert!(near_zero(&optimiser.averages().unwrap()["x"].to_vec1::<f32>().unwrap(), 0.3));
    }

    #[test]
    fn what_is_not_finite_changes_nothing() {
        let mut parameters = parameters(&[1.0]);
        let optimiser = Optimiser::new(schedule(), &mut parameters, None, cpu()).unwrap();
        let norm = optimiser.step(&gradients(&[f32::NAN]), 0).unwrap().to_vec1::<f32>().unwrap();
        assert!(norm[0].is_nan());
        assert_eq!(x(&parameters), [1.0]);
    }

    #[test]
    fn saved_states_go_on_as_if_there_had_been_no_pause_and_are_not_changed() {
        let steps = |optimiser: &Optimiser, steps: std::ops::Range<u32>| {
            steps.for_each(|step| drop(optimiser.step(&gradients(&[1.0, -0.5]), step).unwrap()));
        };
        let (mut whole, mut resumed) = (parameters(&[3.0, -2.0]), parameters(&[0.0, 0.0]));
        let optimiser = Optimiser::new(schedule(), &mut whole, None, cpu()).unwrap();
        steps(&optimiser, 0..3);
        let saved = optimiser.states().unwrap();
        steps(&optimiser, 3..6);
        let other = Optimiser::new(schedule(), &mut resumed, Some(&saved), cpu()).unwrap();
        assert_ne!(x(&whole), x(&resumed));
        steps(&other, 3..6);
        assert_eq!(x(&whole), x(&resumed));
    }
}
