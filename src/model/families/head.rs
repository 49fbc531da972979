//! PRISM's quality head: from states to how likely their tokens are right (arXiv 2510.01384).

use crate::model::backend::{Backend, Matrix, Norm};
use crate::model::{error::LoadError, weights::registry::Registry};
use candle_core::{DType, Result, Tensor};

/// Epsilon of the head's `LayerNorm`, PyTorch's default.
pub(crate) const HEAD_EPSILON: f32 = 1e-5;

/// `LayerNorm`, Linear, GELU, Linear, in f32.
pub(crate) struct Head {
    norm: Norm,
    proj1: Box<dyn Matrix>,
    proj1_bias: Tensor,
    proj2: Box<dyn Matrix>,
    proj2_bias: Tensor,
}

impl Head {
    pub(crate) fn new(weights: &Registry, backend: &dyn Backend) -> std::result::Result<Self, LoadError> {
        let get = |name: &str| weights.head(name);
        Ok(Self {
            norm: Norm::Layer { weight: get("norm.weight")?, bias: get("norm.bias")?, eps: HEAD_EPSILON },
            proj1: backend.full(&get("proj1.weight")?)?,
            proj1_bias: get("proj1.bias")?,
            proj2: backend.full(&get("proj2.weight")?)?,
            proj2_bias: get("proj2.bias")?,
        })
    }

    /// Qualities before the sigmoid: states after the final norm (states, `d_model`) to (states).
    pub(crate) fn forward(&self, hidden: &Tensor, backend: &dyn Backend) -> Result<Tensor> {
        let x = backend.norm(&hidden.to_dtype(DType::F32)?, &self.norm)?;
        let x = self.proj1.product(&x)?.broadcast_add(&self.proj1_bias)?.gelu_erf()?; // (states, d_model)
        self.proj2.product(&x)?.broadcast_add(&self.proj2_bias)?.squeeze(1) // (states)
    }
}
