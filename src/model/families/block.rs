//! The transformer block of the LLaDA family (arXiv 2502.09992): a Llama's, without a causal mask,
//! and with biases of queries, keys and values where the family has some. Out of scope: which
//! blocks there are, and what lies between them.

use super::piece::{Piece, Queries};
use crate::model::backend::cost::{Cost, Numbers, Size};
use crate::model::backend::{Backend, Joined, KeysValues, KvLayers, Matrix, Norm, Stored};
use crate::model::network::{Pass, PassRow};
use crate::model::{config::llada::Config, error::LoadError, weights::registry::Registry};
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

type Loaded<T> = std::result::Result<T, LoadError>;

/// A piece half way through a block: what it needs of the other pieces is projected.
pub(super) struct Projected {
    pub(super) x: Tensor, // (queries, d_model)
    q: Tensor,            // (queries, n_heads * head_dim)
    k: Tensor,            // (tokens, n_kv_heads * head_dim)
    v: Tensor,            // (tokens, n_kv_heads * head_dim)
}

/// Keys and values of a layer of the whole pass, each (tokens of all rows, `n_kv_heads *
/// head_dim`), and those that are kept.
pub(super) fn keys_values<'a, 'b>(
    pieces: impl Iterator<Item = &'b Projected>,
    layer: usize,
    kv_layers: Option<&'a KvLayers<'_>>,
    backend: &dyn Backend,
    inputs: &Tensor,
) -> Result<KeysValues<'a>> {
    let (keys, values): (Vec<_>, Vec<_>) = pieces.map(|piece| (&piece.k, &piece.v)).unzip();
    let fresh = [Tensor::cat(&keys, 0)?, Tensor::cat(&values, 0)?];
    let Some(KvLayers { layers, keeping }) = kv_layers else { return Ok(KeysValues { fresh, kept: None }) };
    backend.keep(&fresh, &layers[layer], keeping, inputs)?;
    Ok(KeysValues { fresh, kept: Some(&layers[layer]) })
}

/// One transformer block.
pub(super) struct Block {
    pub(super) attn_norm: Norm,
    qkv: Box<dyn Joined>,          // q_proj, k_proj, v_proj
    qkv_bias: Option<[Tensor; 3]>, // (width of the queries), (width of a key), (of a value)
    attn_out: Box<dyn Matrix>,
    ff_norm: Norm,
    gate_up: Box<dyn Joined>, // ff_proj, up_proj
    ff_out: Box<dyn Matrix>,
    head_dim: usize,
    /// Width of the queries.
    pub(super) width: usize,
    /// Size of `k_proj` and `v_proj`, and of the other matrices.
    keys_values: Size,
    rest: Size,
    pub(super) numbers: Numbers,
}

impl Block {
    /// The block whose tensors are called `prefix` and then a part of it, as `q_proj.weight`.
    pub(super) fn new(config: &Config, weights: &Registry, backend: &dyn Backend, prefix: &str) -> Loaded<Self> {
        let named = |part: &str, kind: &str| format!("{prefix}.{}.{kind}", config.names().inside(part));
        let name = |part: &str| named(part, "weight");
        let bias = |part: &str| weights.weight(&named(part, "bias"));
        let norm = |part: &str| {
            Ok::<_, LoadError>(Norm::Rms { weight: weights.weight(&name(part))?, eps: config.rms_norm_eps })
        };
        let matrix = |part: &str| weights.matrix(&name(part));
        let one = |part: &str| {
            let stored = matrix(part)?;
            Ok::<_, LoadError>((backend.matrix(&stored)?, stored.size(), stored.numbers()))
        };
        let joined = |parts: &[&str]| {
            let stored = parts.iter().map(|part| matrix(part)).collect::<Loaded<Vec<Stored>>>()?;
            Ok::<_, LoadError>((backend.joined(&stored)?, stored.iter().map(Stored::size).collect::<Vec<_>>()))
        };
        let (qkv, sizes) = joined(&["q_proj", "k_proj", "v_proj"])?;
        let (attn_out, out, _) = one("attn_out")?;
        let (gate_up, gated) = joined(&["ff_proj", "up_proj"])?;
        let (ff_out, down, numbers) = one("ff_out")?;
        Ok(Self {
            attn_norm: norm("attn_norm")?,
            qkv,
            qkv_bias: match config.family.features().has_qkv_bias {
                true => Some([bias("q_proj")?, bias("k_proj")?, bias("v_proj")?]),
                false => None,
            },
            attn_out,
            ff_norm: norm("ff_norm")?,
            gate_up,
            ff_out,
            head_dim: config.head_dim(),
            width: config.d_model,
            keys_values: sizes[1] + sizes[2],
            rest: sizes[0] + out + gated[0] + gated[1] + down,
            numbers,
        })
    }

    /// The first half of a block, up to where a piece needs the others: `x` and its norm (tokens,
    /// `d_model`). In the last block queries are needed of the asked tokens only.
    pub(super) fn project(
        &self,
        backend: &dyn Backend,
        x: Tensor,
        normed: &Tensor,
        piece: &Piece<'_>,
        is_last: bool,
    ) -> Result<Projected> {
        let rotated = |parts: &[&Tensor], queries: &Queries<'_>| match &queries.angles {
            None => Ok(parts.iter().map(|part| (*part).clone()).collect()),
            Some(angles) => backend.rotate(parts, self.head_dim, angles),
        };
        if !is_last {
            let [q, k, v] = parts(self.qkv(normed, 0..3)?)?;
            let [q, k] = parts(rotated(&[&q, &k], &piece.all)?)?;
            return Ok(Projected { x, q, k, v });
        }
        let [k, v] = parts(self.qkv(normed, 1..3)?)?;
        let [k] = parts(rotated(&[&k], &piece.all)?)?;
        let [q] = parts(self.qkv(&backend.gather(normed, &piece.index)?, 0..1)?)?;
        let [q] = parts(rotated(&[&q], &piece.asked)?)?;
        Ok(Projected { x: backend.gather(&x, &piece.index)?, q, k, v })
    }

    /// Those of queries, keys and values that are in `range`, of the norm of states: (tokens,
    /// `d_model`) to (tokens, width) each.
    fn qkv(&self, normed: &Tensor, range: Range<usize>) -> Result<Vec<Tensor>> {
        let products = self.qkv.products(normed, range.clone())?;
        let Some(biases) = &self.qkv_bias else { return Ok(products) };
        products.iter().zip(&biases[range]).map(|(product, bias)| product.broadcast_add(bias)).collect()
    }

    /// The second half: the residual stream (queries, `d_model`), and what is to be added to it.
    pub(super) fn mix(
        &self,
        backend: &dyn Backend,
        Projected { x, q, .. }: &Projected,
        kv: &KeysValues<'_>,
        queries: &Queries<'_>,
        inputs: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let mixed = backend.attention(q, kv, self.head_dim, queries.spans, inputs)?; // (queries, d_model)
        let (x, normed) = backend.add_norm(x, &self.attn_out.product(&mixed)?, &self.ff_norm)?;
        let update = self.ff_out.product(&backend.gated(&normed, &*self.gate_up)?)?;
        Ok((x, update))
    }

    /// What the block computes in a pass; of the last block queries and all that follows are
    /// computed of the asked tokens only.
    pub(super) fn cost(&self, pass: &Pass, is_last: bool) -> Cost {
        let attention = |row: &PassRow| {
            let run = |(queries, seen): (Range<usize>, usize)| {
                let queries = if is_last { row.asked_in(&queries).count() } else { queries.len() };
                Cost::attention(queries, row.key_count(seen), self.width)
            };
            row.runs(0..row.tokens.len()).map(run).sum()
        };
        let (tokens, mixed) = (pass.ids.len(), if is_last { pass.asked } else { pass.ids.len() });
        let products = Cost::products(self.keys_values, tokens) + Cost::products(self.rest, mixed);
        products + pass.rows.iter().map(attention).sum()
    }
}

/// As many tensors as there must be.
fn parts<const N: usize>(tensors: Vec<Tensor>) -> Result<[Tensor; N]> {
    tensors.try_into().or_else(|tensors: Vec<Tensor>| bail!("{} tensors where there must be {N}", tensors.len()))
}
