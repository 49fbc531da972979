//! AdamW on a GPU in three launches: the sums of squares of parts of the gradients, their norm, and
//! the step, which reads the norm where it lies.

use super::call::{Call, Number, Output, word};
use super::gpu::{Gpu, THREADS};
use super::rows::{expect, row_sums};
use crate::model::backend::training::{ADAM_EPSILON, AdamStep};
use candle_core::{DType, Result, Tensor, bail};

/// [`crate::model::backend::training::Training::adam`].
pub(super) fn adam(gpu: &Gpu, state: &Tensor, gradients: &Tensor, step: &AdamStep) -> Result<Tensor> {
    /// Blocks that add up squares, and numbers that one takes at least.
    const BLOCKS_MAX: usize = 1024;
    const BLOCK_MIN: usize = 8 * THREADS as usize;

    let count = gradients.dims1()?;
    expect("the list of gradients", gradients, &[count], &[DType::F32])?;
    if !state.is_contiguous() {
        bail!("the optimiser's state is not contiguous");
    }
    expect("the optimiser's state", state, &[4, count], &[DType::F32])?;
    let &AdamStep { rate, betas, unbias, decay, decayed, clip, average } = step;
    if decayed > count || u32::try_from(count).is_err() {
        bail!("{decayed} parameters of {count} decay; a step on a GPU takes {} parameters at most", u32::MAX);
    }
    let blocks = count.div_ceil(BLOCK_MIN).min(BLOCKS_MAX);
    let squares = gpu.launch(&Call {
        kernel: "squares".to_owned(),
        inputs: &[Some(gradients)],
        output: Output::New((1, blocks).into(), DType::F32),
        grid: [blocks, 1],
        threads: THREADS,
        shared: 0,
        numbers: &[word(count)],
    })?;
    let norm = row_sums(gpu, &squares, true)?;
    let numbers = [rate / unbias[0], betas[0], betas[1], unbias[1], decay, clip, average, ADAM_EPSILON];
    let numbers: Vec<Number> = [count, decayed].map(word).into_iter().chain(numbers.map(Number::Float)).collect();
    gpu.launch(&Call {
        kernel: "adam".to_owned(),
        inputs: &[Some(gradients), Some(&norm)],
        output: Output::Changed(&[state]),
        grid: [count.div_ceil(THREADS as usize), 1],
        threads: THREADS,
        shared: 0,
        numbers: &numbers,
    })?;
    Ok(norm)
}
