//! The operations of training on a GPU but for attention, in few launches each; `training.cu` and
//! `layers.cu` have their kernels. Nothing waits for the device.

use super::call::{Call, Number, Output, form, is_wide, stride, word};
use super::gpu::{Gpu, THREADS};
use super::rows::{PACK, THREADS_MAX, WARP, are_wide, blocks, column_sums, expect, pack_of, row_sums, threads};
use super::{Cuda, adam, attention_training, layers, scatter};
use crate::diffusion::u32_of;
use crate::model::backend::Angles;
use crate::model::backend::training::{AdamStep, Attended, Normed, PackedRows, Targets, Training};
use candle_core::{DType, Result, Shape, Tensor, bail};

/// Number formats of activations.
const ACTIVATIONS: &[DType] = &[DType::F32, DType::BF16];
/// Numbers of shared memory that a block has for its warps while it computes the gradients of
/// norms.
const NORM_SCRATCH: usize = 2 * (THREADS / WARP) as usize;
/// The widest norm with gradients: every GPU grants a block 64 KB of shared memory.
const NORM_MAX: usize = (1 << 14) - NORM_SCRATCH;

/// A kernel on logits and their targets, a row a block.
fn on_logits(
    gpu: &Gpu,
    kernel: &str,
    logits: &Tensor,
    Targets { tokens, weights }: &Targets,
    (shape, dtype): (Shape, DType),
    factor: Option<f32>,
) -> Result<Tensor> {
    /// Packs that each thread of a large block reads.
    const EACH: usize = 4;

    let (rows, width) = logits.dims2()?;
    expect("logits", logits, &[rows, width], ACTIVATIONS)?;
    expect("the list of targets", tokens, &[rows], &[DType::U32])?;
    expect("the list of weights", weights, &[rows], &[DType::F32])?;
    let is_wide = is_wide(logits, 1)?;
    let packs = width / pack_of(logits.dtype(), is_wide);
    let numbers = [Some(word(width)), Some(word(stride(logits)?)), factor.map(Number::Float)];
    let numbers: Vec<Number> = numbers.into_iter().flatten().collect();
    gpu.launch(&Call {
        kernel: format!("{kernel}_{}", form(logits.dtype(), is_wide)?),
        inputs: &[Some(logits), Some(tokens), Some(weights)],
        output: Output::New(shape, dtype),
        grid: [rows, 1],
        threads: threads(packs.div_ceil(EACH), THREADS_MAX),
        shared: 0,
        numbers: &numbers,
    })
}

impl Training for Cuda {
    fn lay_out_rows(&self, lengths: &[usize]) -> Result<PackedRows> {
        attention_training::lay_out_rows(&self.gpu, lengths)
    }

    fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f32, to: DType) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        expect("the input of a norm", x, &[rows, width], &[DType::F32])?;
        expect("the gain of a norm", gain, &[width], &[DType::F32])?;
        let wide = if is_wide(x, 1)? { "_wide" } else { "" };
        let kernel = match to {
            DType::F32 => format!("norm_f32{wide}"),
            DType::BF16 => format!("norm_f32_bf16{wide}"),
            other => bail!("a norm in {other:?}; f32 and bf16 are possible"),
        };
        self.gpu.launch(&Call {
            kernel,
            inputs: &[Some(x), Some(gain), None],
            output: Output::New((rows, width).into(), to),
            grid: [rows, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[word(width), word(stride(x)?), Number::Float(eps)],
        })
    }

    fn rms_norm_gradients(
        &self,
        &Normed { x, gain, eps }: &Normed<'_>,
        grad: &Tensor,
        carried: Option<&Tensor>,
        is_gain_asked: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        /// Blocks at most, several for each part of a large GPU, and rows of a block at least.
        const BLOCKS_MAX: usize = 1024;
        const CHUNK_MIN: usize = 4;

        let (rows, width) = x.dims2()?;
        expect("the input of a norm", x, &[rows, width], &[DType::F32])?;
        expect("the gain of a norm", gain, &[width], &[DType::F32])?;
        expect("the gradient of a norm", grad, &[rows, width], ACTIVATIONS)?;
        carried.map_or(Ok(()), |carried| expect("what is carried", carried, &[rows, width], &[DType::F32]))?;
        if width > NORM_MAX {
            bail!("a norm of {width} numbers has no gradients on a GPU; at most {NORM_MAX} are possible");
        }
        let is_wide = are_wide([x, grad].into_iter().chain(carried), true)?;
        let chunk = rows.div_ceil(BLOCKS_MAX).max(CHUNK_MIN);
        let blocks = rows.div_ceil(chunk);
        let shares = if is_gain_asked { blocks } else { 0 };
        let both = self.gpu.launch(&Call {
            kernel: format!("rms_gradient_{}", form(grad.dtype(), is_wide)?),
            inputs: &[Some(x), Some(gain), Some(grad), carried],
            output: Output::New((rows + shares, width).into(), DType::F32),
            grid: [blocks, 1],
            threads: threads(width / if is_wide { PACK } else { 1 }, THREADS),
            shared: u32_of((NORM_SCRATCH + if is_gain_asked { width } else { 0 }) * DType::F32.size_in_bytes()),
            numbers: &[
                word(rows),
                word(width),
                word(chunk),
                word(is_gain_asked.into()),
                word(stride(x)?),
                word(stride(grad)?),
                word(carried.map_or(Ok(0), stride)?),
                Number::Float(eps),
            ],
        })?;
        let of_gain = is_gain_asked.then(|| column_sums(&self.gpu, &both.narrow(0, rows, shares)?));
        Ok((both.narrow(0, 0, rows)?, of_gain.transpose()?))
    }

    fn rotated(&self, x: &Tensor, d: usize, angles: &Angles, back: bool) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        if d == 0 || !d.is_multiple_of(2) || !width.is_multiple_of(d) {
            bail!("heads of width {d} in rows of {width} numbers cannot be rotated; they need whole pairs");
        }
        expect("what is rotated", x, &[tokens, width], ACTIVATIONS)?;
        for part in [&angles.cos, &angles.sin] {
            expect("a table of rotary angles", &part.flatten_all()?, &[tokens * d / 2], &[DType::F32])?;
        }
        layers::rotated(&self.gpu, &[x], d, angles, back)
    }

    fn attended(&self, qkv: [&Tensor; 3], d: usize, rows: &PackedRows) -> Result<Attended> {
        attention_training::attended(&self.gpu, qkv, d, rows)
    }

    fn attended_gradients(
        &self,
        qkv: [&Tensor; 3],
        d: usize,
        rows: &PackedRows,
        attended: &Attended,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        attention_training::attended_gradients(&self.gpu, qkv, d, rows, attended, grad)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let (rows, width) = gate.dims2()?;
        expect("a gate", gate, &[rows, width], ACTIVATIONS)?;
        expect("what is gated", up, gate.dims(), &[gate.dtype()])?;
        layers::gated(&self.gpu, gate, up)
    }

    fn swiglu_gradients(&self, gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]> {
        let (rows, width) = gate.dims2()?;
        expect("a gate", gate, &[rows, width], ACTIVATIONS)?;
        expect("what is gated", up, gate.dims(), &[gate.dtype()])?;
        expect("the gradient of what is gated", grad, gate.dims(), &[gate.dtype()])?;
        let is_wide = are_wide([gate, up, grad], false)?;
        let both = self.gpu.launch(&Call {
            kernel: format!("swiglu_gradient_{}", form(gate.dtype(), is_wide)?),
            inputs: &[Some(gate), Some(up), Some(grad)],
            output: Output::New((2, rows, width).into(), gate.dtype()),
            grid: [blocks(rows, width, pack_of(gate.dtype(), is_wide))?, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[rows, width, stride(gate)?, stride(up)?, stride(grad)?].map(word),
        })?;
        Ok([both.get(0)?, both.get(1)?])
    }

    fn added(&self, x: &Tensor, update: &Tensor) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        expect("the residual stream", x, &[rows, width], &[DType::F32])?;
        expect("its update", update, &[rows, width], ACTIVATIONS)?;
        let is_wide = are_wide([x, update], true)?;
        self.gpu.launch(&Call {
            kernel: format!("added_{}", form(update.dtype(), is_wide)?),
            inputs: &[Some(x), Some(update)],
            output: Output::New((rows, width).into(), DType::F32),
            grid: [blocks(rows, width, if is_wide { PACK } else { 1 })?, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[rows, width, stride(x)?, stride(update)?].map(word),
        })
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &Targets) -> Result<Tensor> {
        let rows = logits.dim(0)?;
        if rows == 0 {
            return Tensor::zeros(3, DType::F32, &self.gpu.device);
        }
        let terms = on_logits(&self.gpu, "cross_entropy", logits, targets, ((3, rows).into(), DType::F32), None)?;
        row_sums(&self.gpu, &terms, false)
    }

    fn cross_entropy_gradient(&self, logits: &Tensor, targets: &Targets, factor: f32) -> Result<Tensor> {
        if logits.dim(0)? == 0 {
            return Ok(logits.clone());
        }
        let output = (logits.shape().clone(), logits.dtype());
        on_logits(&self.gpu, "cross_entropy_gradient", logits, targets, output, Some(factor))
    }

    fn scattered(&self, x: &Tensor, index: &[u32], rows: usize) -> Result<Tensor> {
        scatter::scattered(&self.gpu, x, index, rows)
    }

    fn adam(&self, state: &Tensor, gradients: &Tensor, step: &AdamStep) -> Result<Tensor> {
        adam::adam(&self.gpu, state, gradients, step)
    }
}
