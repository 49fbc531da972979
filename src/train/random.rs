//! Random numbers for training. Every stream is a function of a seed.

use candle_core::{Device, Result, Tensor};
use rand_philox::Philox;

/// The Philox generator with `seed` as its key, starting at `counter`.
pub(super) fn philox(seed: u64, counter: u128) -> Philox {
    Philox::new([seed as u32, (seed >> 32) as u32], counter) // the two halves of the seed
}

/// A uniform number in (0, 1).
pub(super) fn uniform(generator: &mut Philox) -> f64 {
    (f64::from(generator.next_u32()) + 0.5) / 4_294_967_296.0
}

pub(super) struct Normals(Philox);

impl Normals {
    pub(super) fn new(seed: u64) -> Self {
        Self(Philox::from_u64_seed(seed))
    }

    /// A tensor of independent normal numbers with mean 0 (Box and Muller 1958).
    pub(super) fn tensor(&mut self, shape: &[usize], deviation: f64, device: &Device) -> Result<Tensor> {
        let mut uniform = || uniform(&mut self.0);
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| (deviation * normal()) as f32).collect();
        Tensor::from_vec(numbers, shape, device)
    }
}
