//! x W^T, with the weights laid out the way the processor multiplies fastest. Refuses to know what the weights
//! mean.

use candle_core::{Result, Tensor};

/// Outputs computed together on a CPU. The `gemm` crate's AVX-512 kernel for 32 rows runs 1.6 times as fast as
/// the one for 64 that it picks for wider matrices, and a block of so many columns lies in memory in the order in
/// which it is read.
const BLOCK: usize = 32;

/// A matrix without bias.
pub(super) struct Linear {
    /// On a CPU (out / 32, in, 32), zeros filling up the last block; elsewhere (out, in).
    weight: Tensor,
    out: usize,
}

impl Linear {
    /// `weight` (out, in), as checkpoints have it.
    pub(super) fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let weight = if weight.device().is_cpu() {
            let padded = out.next_multiple_of(BLOCK);
            let blocks = weight.pad_with_zeros(0, 0, padded - out)?.reshape((padded / BLOCK, BLOCK, inner))?;
            blocks.transpose(1, 2)?.contiguous()? // (blocks, in, 32)
        } else {
            weight.clone()
        };
        Ok(Self { weight, out })
    }

    /// (rows, in) to (rows, out).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return x.matmul(&self.weight.t()?);
        }
        let (rows, inner) = x.dims2()?;
        let (blocks, _, _) = self.weight.dims3()?;
        let y = x.broadcast_as((blocks, rows, inner))?.matmul(&self.weight)?; // (blocks, rows, 32)
        let y = y.transpose(0, 1)?.reshape((rows, blocks * BLOCK))?; // (rows, out, filled up)
        if self.out == blocks * BLOCK { Ok(y) } else { y.narrow(1, 0, self.out)?.contiguous() } // (rows, out)
    }
}
