//! Attention with gradients on a GPU. In bf16 no scores are stored: the forward pass keeps the
//! logarithms of their sums, and the gradients compute them again. In f32, on GPUs without tensor
//! cores and for heads that these do not take, attention is composed of products of matrices.

use super::attention::{TILE, TILE_WORDS, WIDTHS};
use super::call::{Call, Number, Output, stride, word};
use super::gpu::Gpu;
use super::rows::expect;
use crate::diffusion::u32_of;
use crate::model::backend::composed::Composed;
use crate::model::backend::training::{Attended, PackedRows};
use candle_core::{DType, Result, Tensor, bail};
use candle_nn::ops::softmax_last_dim;

/// Rows of queries or of keys that a block of threads keeps, in `attention_gradient.cu`; the
/// smaller tiles of `attention_mma.cu` have as many.
const OWN: usize = TILE[0];
/// Keys that are looked at together.
const KEYS: usize = 64;
/// Queries that are looked at together with a tile of keys, by the width of heads.
const QUERIES: [usize; 2] = [64, 32];
const THREADS: u32 = 128;

/// [`crate::model::backend::training::Training::lay_out_rows`].
pub(super) fn lay_out_rows(gpu: &Gpu, lengths: &[usize]) -> Result<PackedRows> {
    let (mut words, mut first) = (Vec::new(), 0);
    for length in lengths {
        for start in (0..*length).step_by(OWN) {
            words.extend([first + start, OWN.min(length - start), first, *length].map(u32_of));
        }
        first += length;
    }
    // how many keys each query sees: all of its row
    words.extend(lengths.iter().flat_map(|length| std::iter::repeat_n(u32_of(*length), *length)));
    let tiles = (!words.is_empty()).then(|| gpu.bring(&words)).transpose()?;
    Ok(PackedRows { lengths: lengths.to_vec(), tiles })
}

/// The same on a GPU: softmax by the library, its gradient by the library's operations. The shares
/// of the keys are computed again for the gradients.
fn composed() -> Composed {
    Composed {
        softmax: softmax_last_dim,
        softmax_gradient: |p, grad| {
            let along = (p * grad)?.sum_keepdim(3)?;
            p * grad.broadcast_sub(&along)?
        },
        keeps: false,
    }
}

/// Queries, keys and values as the kernels take them.
struct Inputs<'a> {
    qkv: [&'a Tensor; 3],
    d: usize,
    /// Which of [`WIDTHS`] the heads are filled up to.
    width: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    /// Of each tile its first token, tokens, the row's first token, tokens of the row.
    tiles: Tensor,
    /// How many keys each query sees.
    limits: Tensor,
}

impl<'a> Inputs<'a> {
    /// `None` where the kernels do not take them.
    fn of(gpu: &Gpu, qkv: [&'a Tensor; 3], d: usize, rows: &PackedRows) -> Result<Option<Self>> {
        let fits = |x: &&Tensor| -> Result<bool> {
            Ok(x.dtype() == DType::BF16 && stride(x)?.is_multiple_of(8) && x.layout().start_offset().is_multiple_of(8))
        };
        let all_fit = qkv.iter().map(fits).collect::<Result<Vec<bool>>>()?.into_iter().all(|fits| fits);
        let width = WIDTHS.into_iter().position(|width| d <= width);
        let (Some(width), Some(words), true) =
            (width, &rows.tiles, all_fit && gpu.has_tensor_cores && d.is_multiple_of(8))
        else {
            return Ok(None);
        };
        let tokens: usize = rows.lengths.iter().sum();
        let tiles = words.elem_count() - tokens;
        let (tiles, limits) = (words.narrow(0, 0, tiles)?, words.narrow(0, tiles, tokens)?);
        let [heads, kv_heads] = [qkv[0].dim(1)? / d, qkv[1].dim(1)? / d];
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            bail!("{heads} heads of queries cannot share {kv_heads} of keys");
        }
        for (name, x, heads) in [("q", qkv[0], heads), ("k", qkv[1], kv_heads), ("v", qkv[2], kv_heads)] {
            expect(name, x, &[tokens, heads * d], &[DType::BF16])?;
        }
        Ok(Some(Self { qkv, d, width, tokens, heads, kv_heads, tiles, limits }))
    }

    /// Tiles, by the heads that are shared out.
    fn grid(&self, heads: usize) -> [usize; 2] {
        [self.tiles.elem_count() / TILE_WORDS, heads]
    }

    fn strides(&self) -> Result<[Number; 3]> {
        let [q, k, v] = self.qkv.map(stride);
        Ok([q?, k?, v?].map(word))
    }

    fn sharing(&self) -> Number {
        word(self.heads / self.kv_heads)
    }

    /// The factor of the scores in powers of two.
    fn scale(&self) -> Number {
        Number::Float(std::f32::consts::LOG2_E / (self.d as f32).sqrt())
    }

    /// Bytes of so many shared rows.
    fn shared(&self, rows: usize) -> usize {
        rows * WIDTHS[self.width] * DType::BF16.size_in_bytes()
    }
}

/// [`crate::model::backend::training::Training::attended`].
pub(super) fn attended(gpu: &Gpu, qkv: [&Tensor; 3], d: usize, rows: &PackedRows) -> Result<Attended> {
    let Some(inputs) = Inputs::of(gpu, qkv, d, rows)? else { return composed().attended(qkv, d, rows) };
    let Inputs { tokens, heads, .. } = inputs;
    let mixed = Tensor::zeros((tokens, heads * d), DType::BF16, &gpu.device)?;
    let log_sums = Tensor::zeros((tokens, heads), DType::F32, &gpu.device)?;
    let [q, k, v] = qkv;
    let [q_stride, k_stride, v_stride] = inputs.strides()?;
    gpu.launch(&Call {
        kernel: format!("attention_mma_sums_{}", WIDTHS[inputs.width]),
        inputs: &[Some(q), Some(k), Some(v), Some(&inputs.tiles), Some(&inputs.limits)],
        output: Output::Changed(&[&mixed, &log_sums]),
        grid: inputs.grid(heads),
        threads: THREADS,
        shared: u32_of(inputs.shared(OWN + 4 * KEYS)),
        numbers: &[word(d), inputs.sharing(), q_stride, k_stride, v_stride, word(heads * d), inputs.scale()],
    })?;
    Ok(Attended { mixed, kept: vec![log_sums] })
}

/// [`crate::model::backend::training::Training::attended_gradients`].
pub(super) fn attended_gradients(
    gpu: &Gpu,
    qkv: [&Tensor; 3],
    d: usize,
    rows: &PackedRows,
    Attended { mixed, kept }: &Attended,
    grad: &Tensor,
) -> Result<[Tensor; 3]> {
    let [log_sums] = &kept[..] else { return composed().gradients(qkv, d, rows, kept, grad) };
    let Some(inputs) = Inputs::of(gpu, qkv, d, rows)? else { bail!("attention was computed from other tensors") };
    let Inputs { tokens, heads, kv_heads, .. } = inputs;
    let grad = &grad.contiguous()?;
    expect("the gradient", grad, &[tokens, heads * d], &[DType::BF16])?;
    let deltas = gpu.launch(&Call {
        kernel: "attention_delta".to_owned(),
        inputs: &[Some(grad), Some(mixed)],
        output: Output::New((tokens, heads).into(), DType::F32),
        grid: [tokens, 1],
        threads: THREADS,
        shared: 0,
        numbers: &[word(heads), word(d), word(stride(grad)?), word(stride(mixed)?)],
    })?;
    let [q, k, v] = qkv;
    let tensors = [Some(q), Some(k), Some(v), Some(grad), Some(log_sums), Some(&deltas), Some(&inputs.tiles)];
    let strides = [&inputs.strides()?[..], &[word(stride(grad)?)]].concat();
    let factors = [inputs.scale(), Number::Float((d as f32).sqrt().recip())];
    let of_q = gpu.launch(&Call {
        kernel: format!("attention_gradient_queries_{}", WIDTHS[inputs.width]),
        inputs: &tensors,
        output: Output::New((tokens, heads * d).into(), DType::BF16),
        grid: inputs.grid(heads),
        threads: THREADS,
        shared: u32_of(inputs.shared(2 * OWN + 4 * KEYS)),
        numbers: &[&[word(d), inputs.sharing()], &strides[..], &factors].concat(),
    })?;
    let queries = QUERIES[inputs.width];
    let of_kv = gpu.launch(&Call {
        kernel: format!("attention_gradient_keys_{}", WIDTHS[inputs.width]),
        inputs: &tensors,
        output: Output::New((2, tokens, kv_heads * d).into(), DType::BF16),
        grid: inputs.grid(kv_heads),
        threads: THREADS,
        // two log-sums and two deltas of each query, in f32
        shared: u32_of(inputs.shared(2 * OWN + 4 * queries) + 4 * queries * DType::F32.size_in_bytes()),
        numbers: &[&[word(d), inputs.sharing(), word(tokens)], &strides[..], &factors].concat(),
    })?;
    Ok([of_q, of_kv.get(0)?, of_kv.get(1)?])
}
