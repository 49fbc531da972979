//! Training by the kernels of a GPU: losses, gradients and steps of a whole model are the CPU's.

use super::super::net::{Computation, Net};
use super::super::optimiser::Optimiser;
use super::gradients::{Loss, adapt, base_loss, prism_loss, reference};
use super::{cpu, numbers, plainly, trainable};
use crate::model::{Training, training_by_kernels};
use candle_core::{DType, Device};
use std::sync::Arc;

/// What two steps give: losses, norms of gradients, gradients by name, and the weights after them.
type Steps = (Vec<f64>, Vec<(String, Vec<f32>)>);

fn steps(device: &Arc<dyn Training>, loss: Loss<'_>, dtype: DType) -> Steps {
    let (reference, (config, mut parameters)) = (reference(), trainable());
    adapt(&mut parameters);
    parameters.move_to(&device.device()).unwrap();
    let optimiser = Optimiser::new(reference.schedule, &mut parameters, None, Arc::clone(device)).unwrap();
    let (mut figures, mut tensors) = (Vec::new(), Vec::new());
    for (step, rows) in (0u32..2).zip(&reference.batches) {
        let computation = Computation { device: Arc::clone(device), dtype, ..plainly() };
        let net = Net::new(&config, &parameters, 24, &computation).unwrap();
        let (loss, gradients) = loss(&net, rows);
        let norm = numbers(&optimiser.step(&gradients, step).unwrap().to_device(&Device::Cpu).unwrap())[0];
        figures.extend([loss, f64::from(norm)]);
        let here = |tensor: &candle_core::Tensor| numbers(&tensor.to_device(&Device::Cpu).unwrap());
        tensors.extend(gradients.0.iter().map(|(name, gradient)| (format!("{name} {step}"), here(gradient))));
        tensors.extend(parameters.trained.iter().map(|(name, weight)| (name.clone(), here(weight))));
    }
    (figures, tensors)
}

/// ||found - expected|| / ||expected||.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied()).max(1e-20)
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn two_steps_by_the_kernels_are_the_cpus() {
    let (config, _) = trainable();
    let (base, prism) = (base_loss(&config), prism_loss(&config, reference().fills, reference().lambda));
    let losses: [(&str, Loss<'_>); 2] = [("base", &base), ("prism", &prism)];
    for (name, loss) in losses {
        // fills depend on the order of confidences, which bf16 cannot always tell apart
        let formats = [(DType::F32, 1e-4, 1e-3), (DType::BF16, 5e-3, 4e-2)];
        for (dtype, of_figures, of_tensors) in formats.into_iter().take(if name == "base" { 2 } else { 1 }) {
            let (found, expected) = (steps(&training_by_kernels(), loss, dtype), steps(&cpu(), loss, dtype));
            for (a, b) in found.0.iter().zip(&expected.0) {
                assert!((a - b).abs() < of_figures * b.abs(), "{name} {dtype:?}: {a} {b}");
            }
            assert_eq!(found.1.len(), expected.1.len());
            for ((tensor, a), (other, b)) in found.1.iter().zip(&expected.1) {
                assert_eq!(tensor, other);
                let off = distance(a, b);
                assert!(a.len() == b.len() && off < of_tensors, "{name} {dtype:?}: {tensor} is off by {off}");
            }
        }
    }
}
