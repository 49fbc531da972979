//! Matrices that inputs are multiplied with: x W^T, without bias.

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Module, Result, Tensor};
use std::sync::Arc;

/// A matrix as a file of weights has it.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// (out, in), or an embedding (rows, width), in floats.
    Full(Tensor),
    /// The same in few bits.
    Quantised(Arc<QTensor>),
}

/// A matrix W (out, in), laid out for its device.
pub(crate) trait Matrix: Send + Sync {
    /// x W^T: (rows, in) to (rows, out).
    fn product(&self, x: &Tensor) -> Result<Tensor>;
}

/// In few bits. Each row of inputs is rounded to eight bits by itself, and products of integers are
/// summed, in the tensor library's kernels.
impl Matrix for QMatMul {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }
}

/// Matrices over the same input. A device that gains from it may hold them as one.
pub(crate) struct Joined(Vec<Box<dyn Matrix>>);

impl Joined {
    pub(crate) fn new(parts: Vec<Box<dyn Matrix>>) -> Self {
        Self(parts)
    }

    /// The product of `x` (rows, in) with one of the matrices: (rows, its out).
    pub(crate) fn product(&self, x: &Tensor, part: usize) -> Result<Tensor> {
        self.0[part].product(x)
    }
}
