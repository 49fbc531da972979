//! Attention on a GPU: which kernel, and the tiles of queries that its blocks of threads take.

use super::call::{Call, Number, form, stride, word};
use super::gpu::Gpu;
use crate::diffusion::u32_of;
use crate::model::backend::Span;
use crate::model::backend::inputs::{Inputs, Tiles, part};
use candle_core::{DType, Result, Tensor};

/// Queries of a tile, as `attention_mma.cu` has them, for short passes and for long ones.
const TILE: [usize; 2] = [64, 128];
/// Words of a tile among the inputs.
const TILE_WORDS: usize = 4;
/// From so many queries on, large tiles keep a GPU as busy as small ones, and read keys less often.
const LONG: usize = 1024;
/// Queries of a block in `attention.cu`.
const PLAIN_TILE: usize = 16;
/// Keys that are looked at together, and buffers of them, in `attention_mma.cu`.
const KEYS: usize = 64;
const BUFFERS: usize = 4;
/// Threads of a block in both.
const THREADS: u32 = 128;
/// Widths of heads, filled up, in `attention_mma.cu`; in `attention.cu` any up to 256.
const WIDTHS: [usize; 2] = [64, 128];

/// What a query sees of its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mask {
    /// All keys.
    #[default]
    Full,
    /// Where a row's queries are its keys: the first cells up to `first`, and then blocks of
    /// `length` cells, each of which sees itself and all before it.
    #[cfg_attr(not(test), allow(dead_code))] // networks give a span for each block instead
    Blocks { first: usize, length: usize },
}

impl Mask {
    /// Keys that query `at` of a row with `keys` keys sees, from the first on.
    fn limit(self, at: usize, keys: usize) -> usize {
        match self {
            Self::Full => keys,
            Self::Blocks { first, .. } if at < first => first.min(keys),
            Self::Blocks { first, length } => (first + ((at - first) / length + 1) * length).min(keys),
        }
    }
}

/// Tiles of the queries of each span, and what each query sees, in words.
fn tiles(spans: &[Span], mask: Mask, size: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut tiles, mut limits) = (Vec::new(), Vec::new());
    for Span { queries, keys } in spans {
        for first in queries.clone().step_by(size) {
            let count = size.min(queries.end - first);
            tiles.extend([first, count, keys.start, keys.len()].map(u32_of));
        }
        limits.extend((0..queries.len()).map(|at| u32_of(mask.limit(at, keys.len()))));
    }
    (tiles, limits)
}

/// Adds spans to the inputs as the kernels take them.
pub(super) fn lay_out(spans: &[Span], mask: Mask, inputs: &mut Inputs) -> Tiles {
    let queries = spans.last().map_or(0, |span| span.queries.end);
    let size = TILE[usize::from(queries >= LONG)];
    let (tiles, limits) = tiles(spans, mask, size);
    inputs.shape.push(size); // decides on the kernel
    Tiles { tiles: inputs.add_rows(tiles, TILE_WORDS), limits: inputs.add(limits), size }
}

/// [`crate::model::backend::Backend::attention`].
pub(super) fn attention(
    gpu: &Gpu,
    [q, k, v]: [&Tensor; 3],
    d: usize,
    tiles: &Tiles,
    inputs: &Tensor,
) -> Result<Tensor> {
    let (queries, width) = q.dims2()?;
    let count = tiles.tiles.len() / TILE_WORDS;
    if count == 0 {
        return Tensor::zeros((queries, width), q.dtype(), q.device());
    }
    let heads = width / d;
    let strides = [stride(q)?, stride(k)?, stride(v)?];
    let starts = [q, k, v].map(|x| x.layout().start_offset());
    let fits = |x: &usize| x.is_multiple_of(8);
    let in_fragments = q.dtype() == DType::BF16
        && gpu.has_tensor_cores
        && d.is_multiple_of(8)
        && strides.iter().all(fits)
        && starts.iter().all(fits);
    let filled_up = WIDTHS.into_iter().find(|width| d <= *width).filter(|_| in_fragments);
    let (kernel, blocks, shared) = match filled_up {
        Some(width) => {
            let length = if tiles.size == TILE[0] { "short" } else { "long" };
            let shared = (tiles.size + BUFFERS * KEYS) * width * DType::BF16.size_in_bytes();
            (format!("attention_mma_{width}_{length}"), count, shared)
        }
        None => {
            let kernel = format!("attention_{}", form(q.dtype(), false)?);
            (kernel, count * (tiles.size / PLAIN_TILE), 0)
        }
    };
    let sharing = heads / (k.dim(1)? / d);
    let [q_stride, k_stride, v_stride] = strides.map(word);
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let mut numbers = vec![word(d), word(sharing), q_stride, k_stride, v_stride, word(width), Number::Float(scale)];
    if filled_up.is_none() {
        numbers.push(word(tiles.size / PLAIN_TILE));
    }
    gpu.launch(&Call {
        kernel,
        inputs: &[Some(q), Some(k), Some(v), Some(&part(inputs, &tiles.tiles)?), Some(&part(inputs, &tiles.limits)?)],
        output: ((queries, width).into(), q.dtype()),
        grid: [blocks, heads],
        threads: THREADS,
        shared: u32_of(shared),
        numbers: &numbers,
    })
}
