//! A matrix laid out in the order in which the CPU's product reads it.

use crate::model::backend::Matrix;
use candle_core::{Result, Tensor};

/// Outputs computed together. The `gemm` crate's AVX-512 kernel for 32 rows runs 1.6 times as fast
/// as the one for 64, and a block of so many columns lies in memory as it is read.
const BLOCK: usize = 32;

/// A matrix in blocks of 32 outputs.
pub(super) struct Blocks {
    weight: Tensor, // (out / 32, in, 32), the last block filled up with zeros
    out: usize,
}

impl Blocks {
    /// `weight` (out, in), as checkpoints have it.
    pub(super) fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let padded = out.next_multiple_of(BLOCK);
        let blocks = weight.pad_with_zeros(0, 0, padded - out)?.reshape((padded / BLOCK, BLOCK, inner))?;
        Ok(Self { weight: blocks.transpose(1, 2)?.contiguous()?, out }) // (blocks, in, 32)
    }
}

impl Matrix for Blocks {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, inner) = x.dims2()?;
        let (blocks, _, _) = self.weight.dims3()?;
        let y = x.broadcast_as((blocks, rows, inner))?.matmul(&self.weight)?; // (blocks, rows, 32)
        let y = y.transpose(0, 1)?.reshape((rows, blocks * BLOCK))?; // (rows, out, filled up)
        if self.out == blocks * BLOCK { Ok(y) } else { y.narrow(1, 0, self.out)?.contiguous() } // (rows, out)
    }
}
