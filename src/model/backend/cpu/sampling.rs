//! Which token is drawn from a row of logits. Refuses to know what else is said of them.

use crate::diffusion::{Draws, gumbel};
use crate::model::Filter;
use crate::model::backend::cpu::summary::{Vocabulary, chunks, larger};

/// Uniforms drawn at once.
const CHUNK: usize = 64;

/// How a token is drawn: `argmax(logit + temperature * gumbel)`, noise keyed by vocabulary index. Temperature
/// above zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    pub(crate) temperature: f64,
    pub(crate) draws: Draws,
    pub(crate) filter: Filter,
}

/// The Gumbel-max trick (Gumbel 1954): the winner is distributed as softmax(logits / temperature).
pub(crate) fn sample(logits: &[f32], vocabulary: Vocabulary, noise: Noise, likeliest: u32) -> u32 {
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
    #[allow(clippy::cast_possible_truncation)] // ids are 32 bits wide
    let token = winner.1 as u32;
    token
}

/// Candidates looked at first, and how many times as many next: the smallest set that reaches `top_p` is mostly small, and
/// finding the first few of a vocabulary takes far less than sorting it.
const CANDIDATES: usize = 64;

/// The ids that a filter leaves, at least one.
pub(crate) fn allowed(logits: &[f32], vocabulary: Vocabulary, noise: Noise) -> Vec<u32> {
    let Noise { temperature, filter: Filter { top_k, top_p }, .. } = noise;
    let likelier = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let first = |ids: &mut Vec<u32>, count: usize| {
        if (1..ids.len()).contains(&count) {
            ids.select_nth_unstable_by(count - 1, likelier);
        }
    };
    let mut ids: Vec<u32> = chunks(logits, vocabulary).flat_map(|(start, chunk)| (start..).take(chunk.len())).collect();
    if let Some(top_k) = top_k {
        first(&mut ids, top_k.get() as usize);
        ids.truncate(top_k.get() as usize);
    }
    let Some(top_p) = top_p.filter(|top_p| *top_p < 1.0) else { return ids };
    let largest = ids.iter().map(|id| logits[*id as usize]).fold(f32::NEG_INFINITY, larger);
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
    ids
}

/// The Gumbel-max trick among some tokens, with the noise they would have among all.
pub(crate) fn sample_among(ids: &[u32], logits: &[f32], noise: Noise) -> u32 {
    let mut winner = (f64::NEG_INFINITY, u32::MAX);
    for &id in ids {
        let mut pair = [0.0; 2];
        noise.draws.fill(id as usize & !1, &mut pair);
        let score = f64::from(logits[id as usize]) + noise.temperature * gumbel(pair[id as usize & 1]);
        if score > winner.0 || (score == winner.0 && id < winner.1) {
            winner = (score, id);
        }
    }
    winner.1
}

/// At least `gumbel(uniform)`, without a logarithm: -ln(-ln u) < -ln(1 - u), which the binary exponent of 1 - u
/// bounds.
fn gumbel_bound(uniform: f64) -> f64 {
    let exponent = ((1.0 - uniform).to_bits() >> 52) as i32 - 1023; // of a positive number below one
    f64::from(-exponent) * std::f64::consts::LN_2 + 1e-12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::cpu::summary::summarise;
    use crate::model::backend::cpu::summary::tests::{NO_MASK, draws, random_logits};

    #[test]
    fn samples_follow_the_tempered_distribution_and_never_show_what_is_banned() {
        const DRAWS: u32 = 20_000;
        let logits = [0.3, 9.0, -1.0, 1.2, 0.0, 2.0, 9.0, 9.0];
        let vocabulary = Vocabulary { size: 6, mask: 1 };
        for temperature in [0.5, 1.0, 2.5] {
            let mut counts = [0u32; 8];
            for position in 0..DRAWS {
                let noise = Noise { temperature, draws: draws(9, position), filter: Filter::ALL };
                counts[summarise(&logits, vocabulary, Some(noise)).unwrap().token as usize] += 1;
            }
            assert_eq!((counts[1], counts[6], counts[7]), (0, 0, 0), "banned");
            let weight = |id: usize| (f64::from(logits[id]) / temperature).exp();
            let mass: f64 = [0, 2, 3, 4, 5].map(weight).iter().sum();
            let chi2: f64 = [0, 2, 3, 4, 5]
                .map(|id| {
                    let expected = f64::from(DRAWS) * weight(id) / mass;
                    (f64::from(counts[id]) - expected).powi(2) / expected
                })
                .iter()
                .sum();
            // 4 degrees of freedom exceed 23.5 once in ten thousand times
            assert!(chi2 < 23.5, "{temperature}: {chi2} {counts:?}");
        }
    }

    #[test]
    fn a_filter_leaves_the_likeliest_as_few_as_reach_it() {
        let logits: Vec<f32> = [0.5f32, 0.2, 0.15, 0.1, 0.05].map(f32::ln).to_vec();
        let vocabulary = Vocabulary { size: 5, mask: NO_MASK };
        let left = |temperature: f64, top_k: u32, top_p: f32| {
            let filter = Filter { top_k: std::num::NonZeroU32::new(top_k), top_p: Some(top_p) };
            let mut ids = allowed(&logits, vocabulary, Noise { temperature, draws: draws(1, 0), filter });
            ids.sort_unstable();
            ids
        };
        assert_eq!(left(1.0, 0, 0.5), [0]);
        assert_eq!(left(1.0, 0, 0.51), [0, 1], "the crossing one is included");
        assert_eq!(left(1.0, 0, 0.96), [0, 1, 2, 3, 4]);
        assert_eq!(left(1.0, 0, 1.0), [0, 1, 2, 3, 4]);
        assert_eq!(left(1.0, 3, 1.0), [0, 1, 2]);
        assert_eq!(left(1.0, 2, 0.72), [0, 1], "of what the first limit leaves");
        assert_eq!(left(1.0, 2, 0.7), [0]);
        assert_eq!(left(100.0, 0, 0.41), [0, 1, 2], "of the tempered distribution");
        assert_eq!(left(1.0, 0, 1e-9), [0]);
        // in a large vocabulary as by sorting all of it
        let logits = random_logits(8, 70_000);
        let vocabulary = Vocabulary { size: 70_000, mask: 33 };
        for top_p in [0.3, 0.9, 0.999] {
            let filter = Filter { top_k: None, top_p: Some(top_p) };
            let ids = allowed(&logits, vocabulary, Noise { temperature: 1.5, draws: draws(1, 0), filter });
            let weight = |id: u32| (f64::from(logits[id as usize]) / 1.5).exp();
            let total: f64 = (0..70_000).filter(|id| *id != 33).map(weight).sum();
            let mass: f64 = ids.iter().map(|id| weight(*id)).sum();
            let without: f64 = ids[..ids.len() - 1].iter().map(|id| weight(*id)).sum();
            assert!(mass >= f64::from(top_p) * total * (1.0 - 1e-9) && without < f64::from(top_p) * total, "{top_p}");
            assert!(!ids.contains(&33));
        }
    }

    #[test]
    fn a_filtered_draw_is_the_best_of_those_left_with_the_same_noise() {
        let logits = random_logits(5, 500);
        let vocabulary = Vocabulary { size: 500, mask: 0 };
        for position in 0..100 {
            let unfiltered = Noise { temperature: 1.0, draws: draws(2, position), filter: Filter::ALL };
            let all = Filter { top_k: std::num::NonZeroU32::new(499), top_p: None };
            let token = |noise| summarise(&logits, vocabulary, Some(noise)).unwrap().token;
            assert_eq!(token(unfiltered), token(Noise { filter: all, ..unfiltered }));
            let few = Filter { top_k: std::num::NonZeroU32::new(3), top_p: None };
            let noise = Noise { filter: few, ..unfiltered };
            assert!(allowed(&logits, vocabulary, noise).contains(&token(noise)));
        }
    }

    #[test]
    fn skipping_hopeless_tokens_changes_no_sample() {
        let logits = random_logits(3, 999);
        let vocabulary = Vocabulary { size: 999, mask: 17 };
        for position in 0..200 {
            let noise = Noise { temperature: 0.9, draws: draws(4, position), filter: Filter::ALL };
            let mut uniforms = vec![0.0; 999];
            noise.draws.fill(0, &mut uniforms);
            let score = |id: &usize| f64::from(logits[*id]) + 0.9 * gumbel(uniforms[*id]);
            let full = (0..999).filter(|id| *id != 17).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
            let found = summarise(&logits, vocabulary, Some(noise)).unwrap();
            assert_eq!(found.token as usize, full);
        }
    }

    #[test]
    fn the_bound_is_above_the_noise() {
        for position in 0..10_000 {
            let uniform = draws(1, position).first();
            assert!(gumbel_bound(uniform) >= gumbel(uniform), "{uniform}");
        }
        for uniform in [f64::EPSILON, 0.5, 1.0 - f64::EPSILON, 1.0 - f64::EPSILON / 2.0] {
            assert!(gumbel_bound(uniform) >= gumbel(uniform), "{uniform}");
        }
    }
}
