//! Attention within each row of a packed pass, from the tensor library's matrix products.

use crate::model::backend::{KeysValues, Part, Span};
use candle_core::{Result, Tensor, bail};
use candle_nn::ops::softmax_last_dim;

/// Scores held at once, 64 MiB in f32, so that memory does not grow with the square of the length.
const SCORES_MAX: usize = 1 << 24;

/// [`crate::model::backend::Backend::attention`] in products of whole matrices.
pub(super) fn attention(q: &Tensor, kv: &KeysValues<'_>, d: usize, spans: &[Span]) -> Result<Tensor> {
    let in_heads = |x: &Tensor| x.reshape((x.dim(0)?, x.dim(1)? / d, d)); // (tokens, heads, d)
    let q = in_heads(q)?;
    let (_, heads, _) = q.dims3()?;
    let mut parts = Vec::with_capacity(spans.len());
    for Span { queries, keys } in spans {
        let [k, v] = [in_heads(&joined(kv, 0, keys)?)?, in_heads(&joined(kv, 1, keys)?)?]; // (keys, kv heads, d)
        let step = (SCORES_MAX / (heads * k.dim(0)?)).max(1);
        let k = k.permute((1, 2, 0))?; // (kv heads, d, keys)
        let v = v.transpose(0, 1)?; // (kv heads, keys, d)
        for start in queries.clone().step_by(step) {
            let count = step.min(queries.end - start);
            parts.push(attend(&q.narrow(0, start, count)?, &k, &v)?);
        }
    }
    Tensor::cat(&parts, 0) // (queries, heads * d)
}

/// The keys (0) or values (1) of some parts, one after the other.
fn joined(KeysValues { fresh, kept }: &KeysValues<'_>, which: usize, parts: &[Part]) -> Result<Tensor> {
    let part = |part: &Part| match (part, kept) {
        (Part::Fresh(tokens), _) => fresh[which].narrow(0, tokens.start, tokens.len()),
        (Part::Kept(slots), Some(kept)) => kept[which].narrow(0, slots.start, slots.len()),
        (Part::Kept(_), None) => bail!("keys of a store, in a pass without one"),
    };
    match parts {
        [lone] => part(lone),
        parts => Tensor::cat(&parts.iter().map(part).collect::<Result<Vec<_>>>()?, 0),
    }
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (queries, heads, d) = q.dims3()?;
    let (kv_heads, _, _) = k.dims3()?;
    let sharing = heads / kv_heads;
    let scale = 1.0 / (d as f64).sqrt();
    let q = q.affine(scale, 0.0)?.reshape((queries, kv_heads, sharing, d))?.permute((1, 2, 0, 3))?;
    let q = q.reshape((kv_heads, sharing * queries, d))?;
    let scores = q.matmul(k)?; // (kv heads, sharing * queries, keys)
    let mixed = softmax_last_dim(&scores)?.matmul(v)?; // (kv heads, sharing * queries, d)
    let mixed = mixed.reshape((kv_heads, sharing, queries, d))?.permute((2, 0, 1, 3))?;
    mixed.reshape((queries, heads * d))
}
