//! Attention on a GPU: which kernel, and the tiles of queries that its blocks of threads take.

use super::call::{Call, Number, Output, form, stride, word};
use super::gpu::Gpu;
use crate::diffusion::u32_of;
use crate::model::backend::inputs::{Inputs, Tiles, part};
use crate::model::backend::{KeysValues, Part, Span};
use candle_core::{DType, Result, Tensor, bail};

/// Queries of a tile, as `attention_mma.cu` has them, for short passes and for long ones.
pub(super) const TILE: [usize; 2] = [64, 128];
/// Words of a tile among the inputs.
pub(super) const TILE_WORDS: usize = 4;
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
pub(super) const WIDTHS: [usize; 2] = [64, 128];

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

/// Set in the number of a key that lies in the store.
const KEPT: u32 = 1 << 31;

/// The rows of neighbouring keys, as the kernels number them.
fn row_numbers(part: &Part) -> impl Iterator<Item = u32> {
    let (numbers, kept) = match part {
        Part::Fresh(tokens) => (tokens.clone(), 0),
        Part::Kept(slots) => (slots.clone(), KEPT),
    };
    numbers.map(move |number| kept | u32_of(number))
}

/// Where the keys of each span begin and how many they are; where not all of them are neighbours,
/// in a list of the keys, which is the second result.
fn keys(spans: &[Span]) -> (Vec<(usize, usize)>, Option<Vec<u32>>) {
    let lone = |span: &Span| match span.keys[..] {
        [Part::Fresh(ref tokens)] => Some((tokens.start, tokens.len())),
        _ => None,
    };
    if let Some(places) = spans.iter().map(lone).collect() {
        return (places, None);
    }
    let (mut places, mut rows, mut first) = (Vec::new(), Vec::new(), 0);
    for span in spans {
        let own: Vec<u32> = span.keys.iter().flat_map(row_numbers).collect();
        // blocks of a row see what those before them see, and more
        if own.starts_with(&rows[first..]) {
            rows.truncate(first);
        }
        first = rows.len();
        places.push((first, own.len()));
        rows.extend(own);
    }
    (places, Some(rows))
}

/// Tiles of the queries of each span, whose keys are at `places`, and what each query sees, in
/// words.
fn tiles(spans: &[Span], places: &[(usize, usize)], mask: Mask, size: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut tiles, mut limits) = (Vec::new(), Vec::new());
    for (Span { queries, .. }, (first_key, keys)) in spans.iter().zip(places.iter().copied()) {
        for first in queries.clone().step_by(size) {
            let count = size.min(queries.end - first);
            tiles.extend([first, count, first_key, keys].map(u32_of));
        }
        limits.extend((0..queries.len()).map(|at| u32_of(mask.limit(at, keys))));
    }
    (tiles, limits)
}

/// Adds spans to the inputs as the kernels take them.
pub(super) fn lay_out(spans: &[Span], mask: Mask, inputs: &mut Inputs) -> Tiles {
    let queries = spans.last().map_or(0, |span| span.queries.end);
    let size = TILE[usize::from(queries >= LONG)];
    let (places, rows) = keys(spans);
    let (tiles, limits) = tiles(spans, &places, mask, size);
    inputs.shape.extend([size, usize::from(rows.is_some())]); // decide on the kernel, and what it reads
    Tiles {
        tiles: inputs.add_rows(tiles, TILE_WORDS),
        limits: inputs.add(limits),
        keys: rows.map(|rows| inputs.add(rows)),
        size,
    }
}

/// [`crate::model::backend::Backend::attention`].
pub(super) fn attention(
    gpu: &Gpu,
    q: &Tensor,
    KeysValues { fresh: [k, v], kept }: &KeysValues<'_>,
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
    let rows = tiles.keys.as_ref().map(|keys| part(inputs, keys)).transpose()?;
    // the store has whole rows
    let [kept_k, kept_v] = match (kept, &rows) {
        (Some([k, v]), Some(_)) => [Some(k), Some(v)],
        (_, _) => [None, None],
    };
    let kept_stride = kept_k.map_or(Ok(0), stride)?;
    if kept_v.map_or(Ok(0), stride)? != kept_stride {
        bail!("a store with rows of {kept_k:?} and {kept_v:?}");
    }
    let strides = [stride(q)?, stride(k)?, stride(v)?, kept_stride];
    let tensors = [Some(q), Some(k), Some(v), kept_k, kept_v];
    let starts = tensors.map(|x| x.map_or(0, |x| x.layout().start_offset()));
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
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let mut numbers =
        [&[word(d), word(sharing)], &strides.map(word)[..], &[word(width), Number::Float(scale)]].concat();
    if filled_up.is_none() {
        numbers.push(word(tiles.size / PLAIN_TILE));
    }
    gpu.launch(&Call {
        kernel,
        inputs: &[
            Some(q),
            Some(k),
            Some(v),
            kept_k,
            kept_v,
            rows.as_ref(),
            Some(&part(inputs, &tiles.tiles)?),
            Some(&part(inputs, &tiles.limits)?),
        ],
        output: Output::New((queries, width).into(), q.dtype()),
        grid: [blocks, heads],
        threads: THREADS,
        shared: u32_of(shared),
        numbers: &numbers,
    })
}
