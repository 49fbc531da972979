//! Attention with gradients composed of products of matrices, in f32, for devices and number
//! formats without kernels of their own: rows of equal length that are neighbours go through one
//! product.

use super::training::{Attended, PackedRows};
use candle_core::{DType, Result, Tensor};
use std::ops::Range;

/// How a device computes what is between the products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Composed {
    /// Over the last dimension.
    pub(crate) softmax: fn(&Tensor) -> Result<Tensor>,
    /// From the result of the softmax and the gradient of that.
    pub(crate) softmax_gradient: fn(&Tensor, &Tensor) -> Result<Tensor>,
    /// Whether the shares of the keys are kept for the gradients instead of being computed again.
    pub(crate) keeps: bool,
}

impl Composed {
    /// [`super::training::Training::attended`].
    pub(crate) fn attended(&self, [q, k, v]: [&Tensor; 3], d: usize, rows: &PackedRows) -> Result<Attended> {
        let sharing = q.dim(1)? / k.dim(1)?;
        let (mut mixed, mut kept) = (Vec::new(), Vec::new());
        for group in groups(rows) {
            let shares = self.shares(&scaled(q, d, &group)?, &heads(k, d, &group, sharing)?)?;
            mixed.push(tokens(&shares.matmul(&heads(v, d, &group, sharing)?)?, 1)?);
            kept.extend(self.keeps.then_some(shares));
        }
        Ok(Attended { mixed: joined(&mixed, q)?, kept })
    }

    /// [`super::training::Training::attended_gradients`].
    pub(crate) fn gradients(
        &self,
        [q, k, v]: [&Tensor; 3],
        d: usize,
        rows: &PackedRows,
        kept: &[Tensor],
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let sharing = q.dim(1)? / k.dim(1)?;
        let mut parts = [const { Vec::new() }; 3];
        for (index, group) in groups(rows).iter().enumerate() {
            let (scaled, grad) = (scaled(q, d, group)?, heads(grad, d, group, 1)?);
            let (k, v) = (heads(k, d, group, sharing)?, heads(v, d, group, sharing)?);
            let shares = kept.get(index).cloned().map_or_else(|| self.shares(&scaled, &k), Ok)?;
            let of_scores = (self.softmax_gradient)(&shares, &grad.matmul(&v.transpose(2, 3)?)?)?;
            parts[0].push(tokens(&(of_scores.matmul(&k)? * scale(d))?, 1)?);
            parts[1].push(tokens(&of_scores.transpose(2, 3)?.matmul(&scaled)?, sharing)?);
            parts[2].push(tokens(&shares.transpose(2, 3)?.matmul(&grad)?, sharing)?);
        }
        let [of_q, of_k, of_v] = parts;
        Ok([joined(&of_q, q)?, joined(&of_k, k)?, joined(&of_v, v)?])
    }

    /// The shares of the keys, (rows, heads, length, length).
    fn shares(&self, scaled: &Tensor, k: &Tensor) -> Result<Tensor> {
        (self.softmax)(&scaled.matmul(&k.transpose(2, 3)?)?)
    }
}

fn scale(d: usize) -> f64 {
    (d as f64).sqrt().recip()
}

/// The queries divided by the square root of the width: (rows, heads, length, d).
fn scaled(q: &Tensor, d: usize, group: &Group) -> Result<Tensor> {
    heads(q, d, group, 1)? * scale(d)
}

/// Parts of as many columns as `like` one below the other, in its number format.
fn joined(parts: &[Tensor], like: &Tensor) -> Result<Tensor> {
    match parts {
        [] => like.zeros_like(),
        parts => Tensor::cat(parts, 0)?.to_dtype(like.dtype()),
    }
}

/// Neighbouring rows of equal length: how many, their length, and their tokens.
type Group = (usize, usize, Range<usize>);

fn groups(rows: &PackedRows) -> Vec<Group> {
    let mut first = 0;
    let group = |rows: &[usize]| {
        let tokens = first..first + rows.len() * rows[0];
        first = tokens.end;
        (rows.len(), rows[0], tokens)
    };
    rows.lengths.chunk_by(|one, next| one == next).map(group).collect()
}

/// Heads of width d of some tokens of `x` (tokens, heads * d), each as often as `sharing` says:
/// (rows, heads * sharing, length, d) in f32.
fn heads(x: &Tensor, d: usize, (rows, length, tokens): &Group, sharing: usize) -> Result<Tensor> {
    let count = x.dim(1)? / d;
    let x = x.narrow(0, tokens.start, tokens.len())?.to_dtype(DType::F32)?;
    let x = x.reshape((*rows, *length, count, d))?.transpose(1, 2)?;
    if sharing == 1 {
        return x.contiguous();
    }
    let shape = (*rows, count, sharing, *length, d);
    x.unsqueeze(2)?.broadcast_as(shape)?.contiguous()?.reshape((*rows, count * sharing, *length, d))
}

/// The reverse of [`heads`], where heads that share one are added up: (tokens, heads * d).
fn tokens(x: &Tensor, sharing: usize) -> Result<Tensor> {
    let (rows, heads, length, d) = x.dims4()?;
    let count = heads / sharing;
    let x = match sharing {
        1 => x.clone(),
        _ => x.reshape((rows, count, sharing, length, d))?.sum(2)?,
    };
    x.transpose(1, 2)?.contiguous()?.reshape((rows * length, count * d))
}
