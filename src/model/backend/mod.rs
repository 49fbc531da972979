//! What a network asks of the device it is computed on: operations on whole tensors, implemented by
//! `cpu` and `cuda`. Provided methods run on every device. Out of scope: what the tensors mean.

mod attention;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod summary;

use crate::diffusion::u32_of;
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{ops, rotary_emb};
use rayon::prelude::*;
use std::{fmt, ops::Range, sync::Arc};
use summary::{Summaries, SummaryOptions, Vocabulary};

/// The operations of one device.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// The device that its tensors lie on.
    fn device(&self) -> Device;

    /// Whether pieces and chunks of a pass run side by side on the threads of the host.
    fn is_parallel(&self) -> bool;

    /// Cuts a pass over rows of these lengths into pieces, each of which goes through a block as a
    /// whole. Pieces meet in the attention only.
    fn cut(&self, lengths: &[usize]) -> Vec<Vec<Segment>>;

    /// Most states for which logits or qualities are computed at once.
    fn states_max(&self) -> usize;

    /// Lays out a matrix (out, in) in floats for products.
    fn full(&self, weight: &Tensor) -> Result<Box<dyn Matrix>>;

    /// softmax(q k^T / sqrt(d)) v within each span, without a causal mask.
    ///
    /// `q` (queries, heads, d); `k` and `v` (keys, kv heads, d), each kv head shared by `heads / kv
    /// heads` neighbouring query heads; the result is (queries, heads * d).
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor>;

    /// Summaries of `logits` (rows, at least `vocabulary.size`): `options[i]` is about row i.
    fn summaries(&self, logits: &Tensor, vocabulary: Vocabulary, options: &[SummaryOptions<'_>]) -> Result<Summaries>;

    /// Independent normally distributed numbers, always the same for the same arguments.
    fn normal(&self, normal: Normal, shape: &[usize]) -> Result<Tensor>;

    /// Lays out a matrix (out, in) for products.
    fn matrix(&self, weight: &Stored) -> Result<Box<dyn Matrix>> {
        match weight {
            Stored::Full(weight) => self.full(weight),
            Stored::Quantised(weight) => Ok(Box::new(QMatMul::from_arc(Arc::clone(weight))?)),
        }
    }

    /// Matrices (out, in) over the same input, as those of queries, keys and values.
    fn joined(&self, weights: &[Stored]) -> Result<Joined> {
        weights.iter().map(|weight| self.matrix(weight)).collect()
    }

    /// Brings token ids, positions or indices of rows to the device.
    fn indices(&self, indices: &[u32]) -> Result<Tensor> {
        Tensor::new(indices, &self.device())
    }

    /// The rows `ids` (tokens) of an embedding (rows, width): (tokens, width).
    fn embed(&self, embedding: &Stored, ids: &Tensor) -> Result<Tensor> {
        match embedding {
            Stored::Full(weight) => weight.index_select(ids, 0),
            Stored::Quantised(weight) => weight.embedding(ids),
        }
    }

    /// The norm of each row of `x` (rows, width).
    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        match norm {
            Norm::Rms { weight, eps } => ops::rms_norm(x, weight, *eps),
            Norm::Layer { weight, bias, eps } => ops::layer_norm(x, weight, bias, *eps),
        }
    }

    /// The residual stream after an update, and its norm: x + update, norm(x + update).
    fn add_norm(&self, x: &Tensor, update: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        let x = (x + update)?;
        let normed = self.norm(&x, norm)?;
        Ok((x, normed))
    }

    /// Rotates the heads of `x` (tokens, heads, d) by the angles of their tokens, in f32.
    fn rotate(&self, x: &Tensor, Angles { cos, sin }: &Angles) -> Result<Tensor> {
        // each token is a batch entry of length one, so that each has its own angles
        let rotated = rotary_emb::rope_thd(&x.to_dtype(DType::F32)?.unsqueeze(1)?, cos, sin)?.squeeze(1)?;
        rotated.to_dtype(x.dtype())
    }

    /// silu(x Wg^T) * x Wu^T of the two matrices (Wg, Wu): (rows, in) to (rows, out).
    fn gated(&self, x: &Tensor, gate_up: &Joined) -> Result<Tensor> {
        gate_up[0].product(x)?.silu()? * gate_up[1].product(x)?
    }

    /// Rows `states` of `x` (all states, width), to be multiplied with matrices.
    ///
    /// A lone row comes twice: products with a vector add up in another order than products with a
    /// matrix, and the numbers of a state must not depend on whether others are read with it.
    fn select(&self, x: &Tensor, states: &[usize]) -> Result<Tensor> {
        let lone = if states.len() == 1 { states.first() } else { None };
        let states: Vec<u32> = states.iter().chain(lone).map(|&state| u32_of(state)).collect();
        x.index_select(&self.indices(&states)?, 0)
    }

    /// Copies quality logits (states) to the host.
    fn qualities(&self, logits: &Tensor) -> Result<Vec<f32>> {
        logits.to_vec1()
    }

    /// Copies `x` (rows, width) to the host, as f32.
    fn rows(&self, x: &Tensor) -> Result<Vec<Vec<f32>>> {
        x.to_dtype(DType::F32)?.to_vec2()
    }
}

impl dyn Backend {
    /// Calls `f` with each item and its index, side by side where the device allows it.
    pub(crate) fn each<T: Sync, R: Send, E: Send>(
        &self,
        items: &[T],
        f: impl Fn(usize, &T) -> std::result::Result<R, E> + Sync,
    ) -> std::result::Result<Vec<R>, E> {
        if !self.is_parallel() {
            return items.iter().enumerate().map(|(index, item)| f(index, item)).collect();
        }
        items.par_iter().enumerate().map(|(index, item)| f(index, item)).collect()
    }

    /// Calls `f` with chunks of at most [`Backend::states_max`] items, each of which is one state.
    pub(crate) fn in_chunks<T: Sync, R: Send, E: Send>(
        &self,
        items: &[T],
        f: impl Fn(&[T]) -> std::result::Result<Vec<R>, E> + Sync,
    ) -> std::result::Result<Vec<R>, E> {
        let chunks: Vec<&[T]> = items.chunks(self.states_max()).collect();
        Ok(self.each(&chunks, |_, chunk| f(chunk))?.into_iter().flatten().collect())
    }
}

/// A range of positions in one row of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    /// The row's index in the pass.
    pub(crate) row: usize,
    pub(crate) positions: Range<usize>,
}

/// The queries of a row among all queries, which may be fewer than its keys among all keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Range<usize>,
}

/// Rotary angles of some tokens.
pub(crate) struct Angles {
    pub(crate) cos: Tensor, // (tokens, 1, head dim / 2)
    pub(crate) sin: Tensor, // (tokens, 1, head dim / 2)
}

/// A norm over rows, with its weights.
pub(crate) enum Norm {
    /// x / sqrt(mean(x^2) + eps) * weight, summed in f32; `weight` (width).
    Rms { weight: Tensor, eps: f32 },
    /// (x - mean) / sqrt(variance + eps) * weight + bias; `weight` and `bias` (width).
    Layer { weight: Tensor, bias: Tensor, eps: f32 },
}

/// Which normally distributed numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normal {
    pub(crate) seed: u64,
    /// Numbers of different streams are independent.
    pub(crate) stream: usize,
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

/// A matrix as a file of weights has it.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// (out, in), or an embedding (rows, width), in floats.
    Full(Tensor),
    /// The same in few bits.
    Quantised(Arc<QTensor>),
}

/// A matrix W (out, in), laid out for its device.
pub(crate) trait Matrix: Send + Sync {
    /// x W^T: (rows, in) to (rows, out).
    fn product(&self, x: &Tensor) -> Result<Tensor>;
}

/// In few bits. Each row of inputs is rounded to eight bits by itself.
impl Matrix for QMatMul {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }
}

/// Matrices over the same input.
pub(crate) type Joined = Vec<Box<dyn Matrix>>;

/// Whether the operations with gradients that `train` writes out itself run where `x` lies.
pub(crate) fn has_fused_gradients(x: &Tensor) -> bool {
    x.device().is_cpu()
}
