//! Drawing a token from a row of logits on the CPU. Out of scope: the numbers of a summary.

use crate::diffusion::{gumbel, u32_of};
use crate::model::backend::summary::{Vocabulary, larger};
use crate::model::sampling::{Filter, Noise};

/// Uniforms drawn at once.
const CHUNK: usize = 64;

/// The Gumbel-max trick (Gumbel 1954): the winner is distributed as softmax(logits / temperature).
pub(super) fn sample(logits: &[f32], vocabulary: Vocabulary, noise: Noise, likeliest: u32) -> u32 {
    let Noise { temperature, draws, .. } = noise;
    let score = |id: usize, uniform: f64| f64::from(logits[id]) + temperature * gumbel(uniform);
    let mut uniforms = [0.0; CHUNK];

    // start from a strong candidate, so that few others need their noise computed
    let likeliest = likeliest as usize;
    draws.fill(likeliest & !1, &mut uniforms[..2]);
    let mut winner = (score(likeliest, uniforms[likeliest & 1]), likeliest);

    for (start, chunk) in (0..).step_by(CHUNK).zip(logits[..vocabulary.size].chunks(CHUNK)) {
        draws.fill(start, &mut uniforms[..chunk.len()]);
        for (id, (&logit, &uniform)) in (start..).zip(chunk.iter().zip(&uniforms)) {
            if id == vocabulary.mask || f64::from(logit) + temperature * gumbel_bound(uniform) < winner.0 {
                continue;
            }
            let score = score(id, uniform);
            if score > winner.0 || (score == winner.0 && id < winner.1) {
                winner = (score, id);
            }
        }
    }
    u32_of(winner.1)
}

/// Candidates looked at first, and the factor by which they grow: the smallest set that reaches
/// `top_p` is mostly small, and selecting a few tokens is far faster than sorting a vocabulary.
const CANDIDATES: usize = 64;

/// The ids that a filter leaves, at least one.
pub(super) fn allowed(logits: &[f32], vocabulary: Vocabulary, noise: Noise) -> Vec<u32> {
    let Noise { temperature, filter: Filter { top_k, top_p, min_p }, .. } = noise;
    let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let first = |ids: &mut Vec<u32>, count: usize| {
        if (1..ids.len()).contains(&count) {
            ids.select_nth_unstable_by(count - 1, likelier);
        }
    };
    let mut ids: Vec<u32> = vocabulary.chunks(logits).flat_map(|(start, chunk)| (start..).take(chunk.len())).collect();
    let largest = ids.iter().map(|id| logits[*id as usize]).fold(f32::NEG_INFINITY, larger);
    let least = min_p.map_or(f32::NEG_INFINITY, |min_p| largest + temperature as f32 * min_p.ln());
    let is_likely = |id: &u32| logits[*id as usize] >= least;
    if let Some(top_k) = top_k {
        first(&mut ids, top_k.get() as usize);
        ids.truncate(top_k.get() as usize);
    }
    let Some(top_p) = top_p.filter(|top_p| *top_p < 1.0) else {
        ids.retain(is_likely);
        return ids;
    };
    let weight = |id: &u32| (f64::from(logits[*id as usize] - largest) / temperature).exp();
    let wanted = f64::from(top_p) * ids.iter().map(weight).sum::<f64>();
    let mut candidates = CANDIDATES.min(ids.len());
    loop {
        first(&mut ids, candidates);
        if candidates == ids.len() || ids[..candidates].iter().map(weight).sum::<f64>() >= wanted {
            break;
        }
        candidates = (candidates * CANDIDATES).min(ids.len());
    }
    ids.truncate(candidates);
    ids.sort_unstable_by(likelier);
    let mut mass = 0.0;
    let short = ids.iter().take_while(|id| {
        mass += weight(id);
        mass < wanted
    });
    let kept = short.count() + 1;
    ids.truncate(kept);
    ids.retain(is_likely);
    ids
}

/// The Gumbel-max trick among some tokens, each with the noise that it has among all.
pub(super) fn sample_among(ids: impl Iterator<Item = u32>, logits: &[f32], noise: Noise) -> u32 {
    let mut winner = (f64::NEG_INFINITY, u32::MAX);
    for id in ids {
        let mut pair = [0.0; 2];
        noise.draws.fill(id as usize & !1, &mut pair);
        let score = f64::from(logits[id as usize]) + noise.temperature * gumbel(pair[id as usize & 1]);
        if score > winner.0 || (score == winner.0 && id < winner.1) {
            winner = (score, id);
        }
    }
    winner.1
}

/// An upper bound of `gumbel(uniform)` without a logarithm: -ln(-ln u) < -ln(1 - u), which the
/// binary exponent of 1 - u bounds.
pub(super) fn gumbel_bound(uniform: f64) -> f64 {
    let exponent = ((1.0 - uniform).to_bits() >> 52) as i32 - 1023; // of a positive number below one
    f64::from(-exponent) * std::f64::consts::LN_2 + 1e-12
}
