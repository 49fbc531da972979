//! Keys and values of a pass that are kept, on a GPU: all of a layer in one launch.

use super::call::{Call, Output, form, is_wide, stride, word};
use super::gpu::{Gpu, THREADS};
use crate::diffusion::u32_of;
use crate::model::backend::inputs::Inputs;
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// Words of a pair of a token and a slot.
const PAIR: usize = 2;

/// Adds tokens, and the first slot for theirs, to the inputs as the kernel takes them.
pub(super) fn lay_out_kept(ranges: &[(Range<usize>, usize)], inputs: &mut Inputs) -> Range<usize> {
    // a slot is one more than it is, for pairs of zeros fill up
    let pairs = |(tokens, slot): &(Range<usize>, usize)| tokens.clone().zip(*slot + 1..);
    let words = ranges.iter().flat_map(pairs).flat_map(|(token, slot)| [u32_of(token), u32_of(slot)]);
    inputs.add_rows(words, PAIR)
}

/// [`crate::model::backend::Backend::keep`], for `pairs` of tokens and slots.
pub(super) fn keep(gpu: &Gpu, [k, v]: [&Tensor; 2], [kept_k, kept_v]: &[Tensor; 2], pairs: &Tensor) -> Result<()> {
    let count = pairs.elem_count() / PAIR;
    if count == 0 {
        return Ok(());
    }
    let (_, width) = k.dims2()?;
    let kept_stride = stride(kept_k)?;
    if [v, kept_k, kept_v].iter().any(|x| x.dtype() != k.dtype() || x.dims().last() != Some(&width))
        || stride(kept_v)? != kept_stride
    {
        bail!("keys and values {k:?} and {v:?} for a store of {kept_k:?} and {kept_v:?}");
    }
    let wide = [k, v, kept_k, kept_v].into_iter().map(|x| is_wide(x, 1)).collect::<Result<Vec<_>>>()?;
    gpu.launch(&Call {
        kernel: format!("keep_{}", form(k.dtype(), wide.into_iter().all(|is_wide| is_wide))?),
        inputs: &[Some(k), Some(v), Some(pairs)],
        output: Output::Changed(&[kept_k, kept_v]),
        grid: [count, 1],
        threads: THREADS,
        shared: 0,
        numbers: &[word(width), word(stride(k)?), word(stride(v)?), word(kept_stride)],
    })?;
    Ok(())
}
