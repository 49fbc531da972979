//! The operations on a GPU against those of the CPU, on random inputs. Without a GPU the kernels
//! run in the program that `.ci/kernels` builds.

mod attention;
mod attention_training;
mod kept;
mod layers;
mod model;
mod summary;
mod training;

use super::Cuda;
use crate::diffusion::{Draws, Position, Purpose, Seed};
use candle_core::{DType, Device, Result, Tensor};

/// The GPU, or what stands for it.
fn cuda() -> Cuda {
    #[cfg(feature = "cuda")]
    let device = crate::model::device::Device::Cuda(0).open().unwrap().0;
    #[cfg(not(feature = "cuda"))]
    let device = Device::Cpu;
    Cuda::new(device, false)
}

/// Numbers between -1 and 1.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut uniforms = vec![0.0; shape.iter().product()];
    Draws::new(Seed(seed), Purpose::Token, 0, Position(0)).fill(0, &mut uniforms);
    let numbers: Vec<f32> = uniforms.iter().map(|uniform| 2.0 * *uniform as f32 - 1.0).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// A number from 0 to below `bound`.
fn below(seed: u64, bound: usize) -> usize {
    (Draws::new(Seed(seed), Purpose::Token, 0, Position(0)).first() * bound as f64) as usize
}

/// In a number format on the GPU, and the same numbers in f32 on the CPU.
fn both(cuda: &Cuda, x: &Tensor, dtype: DType) -> Result<(Tensor, Tensor)> {
    let there = x.to_dtype(dtype)?;
    Ok((there.to_device(&cuda.gpu.device)?, there.to_dtype(DType::F32)?))
}

/// ||found - expected|| / ||expected||.
fn distance(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let found = found.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f32>().map(f32::sqrt);
    Ok(norm(&(found - expected)?)? / norm(expected)?.max(1e-20))
}

/// The formats, and how far each may be off.
const FORMATS: [(DType, f32); 2] = [(DType::F32, 1e-5), (DType::BF16, 1e-2)];
