//! Rotary positions (`RoFormer`, arXiv 2104.09864) with the halves of a head as the pairs. Tables
//! are in f32, as the published code computes them; `train` uses the same ones.

use crate::model::backend::{Angles, Backend};
use candle_core::{Device, Result, Tensor};

/// Cosines and sines of the angles of the first positions.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    pub(crate) cos: Tensor, // (length, head dim / 2)
    pub(crate) sin: Tensor, // (length, head dim / 2)
}

impl Rope {
    /// Tables for heads of width `head_dim` at positions 0 to `length`; the base is `theta`.
    pub(crate) fn new(head_dim: usize, theta: f32, length: usize, device: &Device) -> Result<Self> {
        let half = head_dim / 2;
        let frequency = |i: usize| theta.powf(2.0 * i as f32 / head_dim as f32).recip();
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles = (0..length).flat_map(|t| frequencies.iter().map(move |frequency| t as f32 * frequency));
        let angles = Tensor::from_iter(angles, &Device::Cpu)?.reshape((length, half))?;
        Ok(Self { cos: angles.cos()?.to_device(device)?, sin: angles.sin()?.to_device(device)? })
    }

    /// The angles of tokens at `positions` (tokens).
    pub(crate) fn at(&self, positions: &Tensor, backend: &dyn Backend) -> Result<Angles> {
        let rows = |table: &Tensor| backend.gather(table, positions)?.unsqueeze(1); // (tokens, 1, head dim / 2)
        Ok(Angles { cos: rows(&self.cos)?, sin: rows(&self.sin)? })
    }
}
