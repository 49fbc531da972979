//! x W^T, with the weights laid out the way the processor multiplies fastest, and rows of W. Refuses to know what the
//! weights mean.

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Module, Result, Tensor};
use std::sync::Arc;

/// Outputs computed together on a CPU. The `gemm` crate's AVX-512 kernel for 32 rows runs 1.6 times as fast as
/// the one for 64 that it picks for wider matrices, and a block of so many columns lies in memory in the order in
/// which it is read.
const BLOCK: usize = 32;

/// A matrix without bias.
pub(crate) enum Linear {
    /// (out / 32, in, 32), zeros filling up the last block: for a CPU.
    Blocks {
        /// The numbers.
        weight: Tensor,
        /// Outputs that there are.
        out: usize,
    },
    /// (out, in), as checkpoints have it: for a GPU.
    Plain(Tensor),
    /// (out, in) in few bits. Inputs are rounded to eight bits, each row by itself, and products of whole numbers are summed.
    Quantised(QMatMul),
}

impl Linear {
    /// `weight` (out, in), as checkpoints have it.
    pub(crate) fn new(weight: &Tensor) -> Result<Self> {
        if !weight.device().is_cpu() {
            return Ok(Self::Plain(weight.clone()));
        }
        let (out, inner) = weight.dims2()?;
        let padded = out.next_multiple_of(BLOCK);
        let blocks = weight.pad_with_zeros(0, 0, padded - out)?.reshape((padded / BLOCK, BLOCK, inner))?;
        Ok(Self::Blocks { weight: blocks.transpose(1, 2)?.contiguous()?, out }) // (blocks, in, 32)
    }

    /// `weight` (out, in), as a GGUF file has it.
    pub(crate) fn quantised(weight: Arc<QTensor>) -> Result<Self> {
        QMatMul::from_arc(weight).map(Self::Quantised)
    }

    /// (rows, in) to (rows, out).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(weight) => x.matmul(&weight.t()?),
            Self::Quantised(weight) => weight.forward(x),
            Self::Blocks { weight, out } => {
                let (rows, inner) = x.dims2()?;
                let (blocks, _, _) = weight.dims3()?;
                let y = x.broadcast_as((blocks, rows, inner))?.matmul(weight)?; // (blocks, rows, 32)
                let y = y.transpose(0, 1)?.reshape((rows, blocks * BLOCK))?; // (rows, out, filled up)
                if *out == blocks * BLOCK { Ok(y) } else { y.narrow(1, 0, *out)?.contiguous() } // (rows, out)
            }
        }
    }
}

/// A matrix whose rows are looked up.
pub(crate) enum Embedding {
    /// (rows, width) in f32.
    Full(Tensor),
    /// (rows, width) in few bits.
    Quantised(Arc<QTensor>),
}

impl Embedding {
    /// The rows `ids` (tokens): (tokens, width).
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Full(weight) => weight.index_select(ids, 0),
            Self::Quantised(weight) => weight.embedding(ids),
        }
    }

    /// The same matrix to multiply with, for an output layer that is the embedding.
    pub(crate) fn linear(&self) -> Result<Linear> {
        match self {
            Self::Full(weight) => Linear::new(weight),
            Self::Quantised(weight) => Linear::quantised(Arc::clone(weight)),
        }
    }
}
