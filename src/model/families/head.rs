//! PRISM's quality head: from states to how likely their tokens are right (arXiv 2510.01384).

use crate::model::backend::{Backend, Norm, Scorer, cost::Size};
use crate::model::states::Layer;
use crate::model::{error::LoadError, weights::registry::Registry};
use candle_core::{Result, Tensor};

/// Epsilon of the head's `LayerNorm`, PyTorch's default.
pub(crate) const HEAD_EPSILON: f32 = 1e-5;

/// `LayerNorm`, Linear, GELU, Linear, in f32.
pub(crate) struct Head {
    norm: Norm,
    scorer: Scorer,
    /// Of its two matrices.
    pub(crate) size: Size,
    /// Which states it reads.
    pub(crate) layer: Layer,
}

impl Head {
    pub(crate) fn new(weights: &Registry, backend: &dyn Backend) -> std::result::Result<Self, LoadError> {
        let get = |name: &str| weights.head(name);
        let (first, last) = (get("proj1.weight")?, get("proj2.weight")?);
        Ok(Self {
            layer: weights.head_layer(),
            size: Size::full(&first) + Size::full(&last),
            norm: Norm::Layer { weight: get("norm.weight")?, bias: get("norm.bias")?, eps: HEAD_EPSILON },
            scorer: Scorer {
                matrix: backend.full(&first)?,
                bias: get("proj1.bias")?,
                last_matrix: backend.full(&last)?,
                last,
                last_bias: get("proj2.bias")?,
            },
        })
    }

    /// Qualities before the sigmoid: the states that it reads (states, `d_model`) to (states).
    pub(crate) fn forward(&self, judged: &Tensor, backend: &dyn Backend) -> Result<Tensor> {
        backend.scored(&backend.norm(judged, &self.norm)?, &self.scorer)
    }
}
