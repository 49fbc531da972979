//! The PRISM quality head: from a hidden state to the probability that the token there is right (arXiv
//! 2510.01384, section 3). Refuses to know which cells are asked about.

use crate::model::LoadError;
use crate::model::backend::linear::Linear;
use crate::model::weights::registry::Weights;
use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

/// Epsilon of the published head's `LayerNorm`, PyTorch's default.
const EPSILON: f32 = 1e-5;

/// Name and shape of every tensor of a head on states of width `d`.
pub(crate) fn tensors(d: usize) -> [(&'static str, Vec<usize>); 6] {
    [
        ("norm.weight", vec![d]),
        ("norm.bias", vec![d]),
        ("proj1.weight", vec![d, d]),
        ("proj1.bias", vec![d]),
        ("proj2.weight", vec![1, d]),
        ("proj2.bias", vec![1]),
    ]
}

/// LayerNorm, Linear, GELU, Linear.
pub(crate) struct Head {
    norm_weight: Tensor,
    norm_bias: Tensor,
    proj1: Linear,
    proj1_bias: Tensor,
    proj2: Linear,
    proj2_bias: Tensor,
}

impl Head {
    pub(crate) fn new(weights: &Weights) -> std::result::Result<Self, LoadError> {
        Ok(Self {
            norm_weight: weights.head("norm.weight")?,
            norm_bias: weights.head("norm.bias")?,
            proj1: Linear::new(&weights.head("proj1.weight")?)?,
            proj1_bias: weights.head("proj1.bias")?,
            proj2: Linear::new(&weights.head("proj2.weight")?)?,
            proj2_bias: weights.head("proj2.bias")?,
        })
    }

    /// Qualities before the sigmoid, one per state: `hidden` (states, `d_model`), after the final norm. Computed in f32.
    pub(crate) fn forward(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let hidden = hidden.to_dtype(DType::F32)?;
        let x = ops::layer_norm(&hidden, &self.norm_weight, &self.norm_bias, EPSILON)?;
        let x = self.proj1.forward(&x)?.broadcast_add(&self.proj1_bias)?.gelu_erf()?; // (states, d_model)
        self.proj2.forward(&x)?.broadcast_add(&self.proj2_bias)?.squeeze(1)?.to_vec1() // (states)
    }
}
