//! What a network asks of the device it is computed on. Networks and the denoiser call these
//! operations on whole tensors and know no device; `cpu` and `cuda` implement them.
//!
//! A provided method is put together from the tensor library's operations, which run on every
//! device. Out of scope: what the tensors mean.

pub(crate) mod attention;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod matrix;
pub(crate) mod open;
pub(crate) mod operands;
pub(crate) mod summary;
pub(crate) mod vocabulary;

use crate::diffusion::u32_of;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{ops, rotary_emb};
use matrix::{Joined, Matrix, Stored};
use operands::{Angles, Norm, Normal, Segment, Span};
use rayon::prelude::*;
use std::fmt;
use summary::{Summaries, SummaryOptions};
use vocabulary::Vocabulary;

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

    /// Lays out a matrix (out, in) for products.
    fn matrix(&self, weight: &Stored) -> Result<Box<dyn Matrix>>;

    /// softmax(q k^T / sqrt(d)) v within each span, without a causal mask.
    ///
    /// `q` (queries, heads, d); `k` and `v` (keys, kv heads, d), each kv head shared by `heads / kv
    /// heads` neighbouring query heads; the result is (queries, heads * d).
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor>;

    /// Summaries of rows of `logits` (rows, at least `vocabulary.size`), one per entry of
    /// `options`: entry i is about row i.
    fn summaries(&self, logits: &Tensor, vocabulary: Vocabulary, options: &[SummaryOptions<'_>]) -> Result<Summaries>;

    /// Independent normally distributed numbers, always the same for the same arguments.
    fn normal(&self, normal: Normal, shape: &[usize]) -> Result<Tensor>;

    /// Matrices (out, in) over the same input, as those of queries, keys and values.
    fn joined(&self, weights: &[Stored]) -> Result<Joined> {
        Ok(Joined::new(weights.iter().map(|weight| self.matrix(weight)).collect::<Result<_>>()?))
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
        gate_up.product(x, 0)?.silu()? * gate_up.product(x, 1)?
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
    /// Calls `f` with each item and its index, side by side where the device allows it; results are
    /// in the order of the items.
    ///
    /// # Errors
    /// When `f` fails for an item.
    pub(crate) fn each<T: Sync, R: Send, E: Send>(
        &self,
        items: &[T],
        f: impl Fn(usize, &T) -> std::result::Result<R, E> + Sync,
    ) -> std::result::Result<Vec<R>, E> {
        match self.is_parallel() {
            true => items.par_iter().enumerate().map(|(index, item)| f(index, item)).collect(),
            false => items.iter().enumerate().map(|(index, item)| f(index, item)).collect(),
        }
    }

    /// Calls `f` with chunks of items that each stand for at most a few states; all results are in
    /// the order of the items.
    ///
    /// # Errors
    /// When `f` fails for a chunk.
    pub(crate) fn in_chunks<T: Sync, R: Send, E: Send>(
        &self,
        items: &[T],
        f: impl Fn(&[T]) -> std::result::Result<Vec<R>, E> + Sync,
    ) -> std::result::Result<Vec<R>, E> {
        let chunks: Vec<&[T]> = items.chunks(self.states_max()).collect();
        Ok(self.each(&chunks, |_, chunk| f(chunk))?.into_iter().flatten().collect())
    }
}

/// Whether the operations with gradients that `train` writes out itself run where `x` lies.
pub(crate) fn has_fused_gradients(x: &Tensor) -> bool {
    x.device().is_cpu()
}
