//! Matrices on a GPU: products by cuBLAS, or of few bits by the tensor library's kernels.

use crate::model::backend::counts::Counters;
use crate::model::backend::{Joined, Matrix};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Module, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// (out, in), as checkpoints have it.
pub(super) struct Plain {
    weight: Tensor,
    counters: Arc<Counters>,
}

impl Plain {
    pub(super) fn new(weight: Tensor, counters: &Arc<Counters>) -> Self {
        Self { weight, counters: Arc::clone(counters) }
    }
}

impl Matrix for Plain {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.counters.launched(1);
        x.matmul(&self.weight.t()?)
    }
}

/// In few bits.
pub(super) struct Quantised {
    weight: QMatMul,
    counters: Arc<Counters>,
}

impl Quantised {
    pub(super) fn new(weight: &Arc<QTensor>, counters: &Arc<Counters>) -> Result<Self> {
        Ok(Self { weight: QMatMul::from_arc(Arc::clone(weight))?, counters: Arc::clone(counters) })
    }
}

impl Matrix for Quantised {
    /// Two kernels: the input is rounded to eight bits first.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.counters.launched(2);
        self.weight.forward(x)
    }
}

/// Matrices over the same input as one, so that one product has them all.
pub(super) struct Fused {
    weight: Tensor, // (sum of outs, in)
    /// Where each matrix ends among the rows.
    ends: Vec<usize>,
    counters: Arc<Counters>,
}

impl Fused {
    pub(super) fn new(weights: &[Tensor], counters: &Arc<Counters>) -> Result<Self> {
        let end = |end: &mut usize, weight: &Tensor| {
            *end += weight.dims()[0];
            Some(*end)
        };
        let ends = weights.iter().scan(0, end).collect();
        Ok(Self { weight: Tensor::cat(weights, 0)?, ends, counters: Arc::clone(counters) })
    }
}

impl Joined for Fused {
    /// Views of one product, whose rows are as far apart as all matrices are wide.
    fn products(&self, x: &Tensor, range: Range<usize>) -> Result<Vec<Tensor>> {
        let start = |n: usize| if n == 0 { 0 } else { self.ends[n - 1] };
        let (from, until) = (start(range.start), start(range.end));
        self.counters.launched(1);
        let all = x.matmul(&self.weight.narrow(0, from, until - from)?.t()?)?; // (rows, until - from)
        range.map(|n| all.narrow(1, start(n) - from, self.ends[n] - start(n))).collect()
    }
}
