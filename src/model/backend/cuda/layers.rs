//! Operations of a layer that serving and training have in common.

use super::call::{Call, Number, Output, form, is_wide, stride, word};
use super::gpu::{Gpu, THREADS};
use crate::model::backend::Angles;
use candle_core::{Result, Tensor};

/// The heads, of width d, of one or two `parts` (tokens, heads * d), rotated by the angles of their
/// tokens or back by them, beside each other: (tokens, all heads * d).
pub(super) fn rotated(gpu: &Gpu, parts: &[&Tensor], d: usize, angles: &Angles, back: bool) -> Result<Tensor> {
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    let (tokens, first_width) = first.dims2()?;
    let width: usize = parts.iter().map(|part| part.dim(1)).sum::<Result<usize>>()?;
    // halves of heads are read in packs
    let is_wide = is_wide(first, first_width / (d / 2).max(1))? && is_wide(last, last.dim(1)? / (d / 2).max(1))?;
    let [heads, first_heads, d, stride, last_stride] =
        [width / d, first_width / d, d, stride(first)?, stride(last)?].map(word);
    gpu.launch(&Call {
        kernel: format!("rotate_{}", form(first.dtype(), is_wide)?),
        inputs: &[Some(first), Some(last), Some(&angles.cos), Some(&angles.sin)],
        output: Output::New((tokens, width).into(), first.dtype()),
        grid: [tokens, 1],
        threads: THREADS,
        shared: 0,
        numbers: &[heads, first_heads, d, stride, last_stride, Number::Float(if back { -1.0 } else { 1.0 })],
    })
}

/// silu(gate) * up, (rows, width) each.
pub(super) fn gated(gpu: &Gpu, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (rows, width) = gate.dims2()?;
    let is_wide = is_wide(gate, 1)? && is_wide(up, 1)?;
    let pack = if is_wide { 16 / gate.dtype().size_in_bytes() } else { 1 };
    gpu.launch(&Call {
        kernel: format!("gated_{}", form(gate.dtype(), is_wide)?),
        inputs: &[Some(gate), Some(up)],
        output: Output::New((rows, width).into(), gate.dtype()),
        grid: [rows, width.div_ceil(THREADS as usize * pack)],
        threads: THREADS,
        shared: 0,
        numbers: &[word(width), word(stride(gate)?), word(stride(up)?)],
    })
}
