//! AdamW with warm-up, cosine decay, gradient clipping and a moving average of the parameters.
//!
//! candle's AdamW does not expose its moments, and without them a run cannot be resumed.

use super::net::Parameters;
use candle_core::{Result, Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// Keeps the quotient finite where a second moment is 0.
const EPSILON: f64 = 1e-8;

#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// Moving average of the gradients.
    pub(super) first: Tensor,
    /// Moving average of their squares.
    pub(super) second: Tensor,
    /// Moving average of the parameter.
    pub(super) ema: Tensor,
}

/// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).
#[derive(Debug)]
pub(super) struct Optimiser {
    pub(super) schedule: Schedule,
    /// By the names of the parameters.
    pub(super) memory: BTreeMap<String, Memory>,
}

impl Optimiser {
    pub(super) fn new(schedule: Schedule, parameters: &Parameters) -> Result<Self> {
        let memory = |(name, var): (&String, &Var)| {
            let zeros = var.as_detached_tensor().zeros_like()?;
            let memory = Memory { first: zeros.clone(), second: zeros, ema: var.as_detached_tensor().copy()? };
            Ok((name.clone(), memory))
        };
        Ok(Self { schedule, memory: parameters.trained.iter().map(memory).collect::<Result<_>>()? })
    }

    /// The parameters, with the moving averages of those that learn.
    pub(super) fn averages(&self, parameters: &Parameters) -> Result<Parameters> {
        let average = |(name, memory): (&String, &Memory)| Ok((name.clone(), Var::from_tensor(&memory.ema)?));
        let trained = self.memory.iter().map(average).collect::<Result<_>>()?;
        Ok(Parameters { trained, frozen: parameters.frozen.clone() })
    }

    /// Updates the parameters and returns the gradient norm. If it is not finite, nothing changes.
    pub(super) fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &BTreeMap<String, Tensor>,
        step: u32,
    ) -> Result<f64> {
        let squares = gradients.values().map(|gradient| gradient.sqr()?.sum_all()?.to_scalar::<f32>());
        let norm = squares.sum::<Result<f32>>().map(f64::from)?.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let scale = (self.schedule.clip / norm).min(1.0);
        let Schedule { betas: [b1, b2], weight_decay, .. } = self.schedule;
        let rate = self.schedule.rate(step);
        let ema = self.schedule.ema.min(f64::from(step + 1) / f64::from(step + 10)); // forgets the initial values
        let count = f64::from(step) + 1.0;
        let (unbias1, unbias2) = (1.0 - b1.powf(count), 1.0 - b2.powf(count));
        for (name, var) in &parameters.trained {
            let Some(memory) = self.memory.get_mut(name) else { continue };
            let mut parameter = var.as_detached_tensor(); // else the averages would keep the graphs of all steps
            if let Some(gradient) = gradients.get(name) {
                memory.first = (memory.first.affine(b1, 0.0)? + gradient.affine((1.0 - b1) * scale, 0.0)?)?;
                let square = gradient.sqr()?.affine((1.0 - b2) * scale * scale, 0.0)?;
                memory.second = (memory.second.affine(b2, 0.0)? + square)?;
                let spread = memory.second.affine(1.0 / unbias2, 0.0)?.sqrt()?.affine(1.0, EPSILON)?;
                let change = memory.first.affine(rate / unbias1, 0.0)?.div(&spread)?;
                let decay = if var.rank() > 1 { 1.0 - rate * weight_decay } else { 1.0 };
                parameter = (parameter.affine(decay, 0.0)? - change)?;
                var.set(&parameter)?;
            }
            memory.ema = (memory.ema.affine(ema, 0.0)? + parameter.affine(1.0 - ema, 0.0)?)?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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

    #[test]
    fn a_valley_is_found_and_the_average_follows() {
        let mut parameters = Parameters::default();
        parameters.train("x".to_owned(), &Tensor::new(&[3.0f32, -2.0], &Device::Cpu).unwrap()).unwrap();
        let mut optimiser = Optimiser::new(schedule(), &parameters).unwrap();
        let x = || parameters.get("x").unwrap();
        for step in 0..100 {
            let grads = x().sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = BTreeMap::from([("x".to_owned(), grads.get(&x()).unwrap().clone())]);
            optimiser.step(&parameters, &gradients, step).unwrap();
        }
        let near_zero =
            |tensor: &Tensor, bound: f32| tensor.to_vec1::<f32>().unwrap().into_iter().all(|x| x.abs() < bound);
        assert!(near_zero(&x(), 0.2), "{:?}", x().to_vec1::<f32>());
        assert!(near_zero(&optimiser.memory["x"].ema, 0.3));
    }

    #[test]
    fn what_is_not_finite_changes_nothing() {
        let mut parameters = Parameters::default();
        parameters.train("x".to_owned(), &Tensor::new(&[1.0f32], &Device::Cpu).unwrap()).unwrap();
        let mut optimiser = Optimiser::new(schedule(), &parameters).unwrap();
        let gradient = BTreeMap::from([("x".to_owned(), Tensor::new(&[f32::NAN], &Device::Cpu).unwrap())]);
        assert!(!optimiser.step(&parameters, &gradient, 0).unwrap().is_finite());
        assert_eq!(parameters.get("x").unwrap().to_vec1::<f32>().unwrap(), [1.0]);
    }
}
