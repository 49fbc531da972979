//! Summaries and draws against their definitions.

use super::sampling::{allowed, gumbel_bound};
use crate::diffusion::{Draws, Position, Probability, Purpose, Seed, TokenId, gumbel};
use crate::model::backend::summary::{Summary, SummaryOptions, Vocabulary};
use crate::model::sampling::{Filter, Noise};

fn summarise(logits: &[f32], vocabulary: Vocabulary, noise: Option<Noise>) -> Option<Summary> {
    super::summary::summarise(logits.into(), vocabulary, &SummaryOptions { noise, ..SummaryOptions::default() })
}

const NO_MASK: usize = usize::MAX - 1;

fn draws(seed: u64, position: u32) -> Draws {
    Draws::new(Seed(seed), Purpose::Token, 0, Position(position))
}

/// Logits between -4 and 4, some far outside.
fn random_logits(seed: u64, size: usize) -> Vec<f32> {
    let mut uniforms = vec![0.0; size];
    draws(seed, 0).fill(0, &mut uniforms);
    let logit = |u: f64| if u > 0.995 { 30.0 * u as f32 } else { 8.0 * u as f32 - 4.0 };
    uniforms.into_iter().map(logit).collect()
}

/// The definitions, in f64, by sorting.
fn naive(logits: &[f32], mask: usize) -> (usize, f64, f64, f64) {
    let allowed: Vec<usize> = (0..logits.len()).filter(|id| *id != mask).collect();
    let mass: f64 = allowed.iter().map(|id| f64::from(logits[*id]).exp()).sum();
    let p = |id: usize| f64::from(logits[id]).exp() / mass;
    let mut sorted = allowed.clone();
    sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let entropy = -allowed.iter().map(|id| p(*id) * p(*id).ln()).sum::<f64>();
    (sorted[0], p(sorted[0]), p(sorted[0]) - p(sorted[1]), entropy)
}

#[test]
fn a_summary_is_the_definitions() {
    for (seed, size) in [(1, 2), (2, 11), (3, 64), (4, 65), (5, 1000), (6, 50_000)] {
        for mask in [0, size / 2, size - 1, NO_MASK] {
            let logits = random_logits(seed, size);
            let found = summarise(&logits, Vocabulary { size, mask }, None);
            if size == 2 && mask != NO_MASK {
                let found = found.unwrap();
                assert_eq!((found.confidence, found.margin), (Probability::ONE, Probability::ONE));
                continue;
            }
            let (token, confidence, margin, entropy) = naive(&logits, mask);
            let found = found.unwrap();
            assert_eq!(found.token as usize, token, "{size} {mask}");
            let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 2e-6 * b.abs().max(0.1);
            assert!(near(found.confidence.get(), confidence), "{size} {mask}: {found:?} {confidence}");
            assert!(near(found.margin.get(), margin), "{size} {mask}: {found:?} {margin}");
            assert!(near(found.entropy, entropy), "{size} {mask}: {found:?} {entropy}");
        }
    }
}

#[test]
fn among_equals_the_lowest_id_is_taken() {
    let found = summarise(&[0.5; 200], Vocabulary { size: 200, mask: 0 }, None).unwrap();
    assert_eq!((found.token, found.margin), (1, Probability::ZERO));
    assert!((found.entropy - 199f32.ln()).abs() < 1e-6);
}

#[test]
fn among_some_tokens_the_likeliest_is_taken_and_judged_among_all() {
    let (logits, vocabulary) = ([0.5f32, 0.2, 0.15, 0.1, 0.05].map(f32::ln), Vocabulary { size: 5, mask: 4 });
    let among = |only: &[u32], noise| {
        let only: Vec<TokenId> = only.iter().copied().map(TokenId).collect();
        let options = SummaryOptions { noise, only: Some(&only), ..SummaryOptions::default() };
        super::summary::summarise(logits.as_slice().into(), vocabulary, &options).unwrap()
    };
    let found = among(&[3, 1, 2], None);
    let whole = summarise(&logits, vocabulary, None).unwrap();
    assert_eq!((found.token, found.margin, found.entropy), (1, whole.margin, whole.entropy));
    assert!((found.confidence.get() - 0.2 / 0.95).abs() < 1e-6, "{found:?}");
    assert_eq!(among(&[3], None).token, 3);
    let drawn = |position| {
        let filter = Filter { top_k: std::num::NonZeroU32::new(1), top_p: None, min_p: None };
        among(&[2, 3], Some(Noise { temperature: 1.0, draws: draws(3, position), filter })).token
    };
    let twos = (0..5000).filter(|position| drawn(*position) == 2).count();
    assert!((2850..3150).contains(&twos), "{twos} of 5000, where 0.15 to 0.1 makes 3000");
    assert!((0..5000).all(|position| [2, 3].contains(&drawn(position))));
}

#[test]
fn what_is_not_finite_is_no_summary_unless_nobody_may_propose_it() {
    let vocabulary = Vocabulary { size: 3, mask: 1 };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(summarise(&[0.0, 1.0, bad, 0.0], vocabulary, None), None, "{bad}");
        let harmless = summarise(&[0.0, bad, 1.0, bad], vocabulary, None).unwrap();
        assert_eq!(harmless.token, 2);
    }
    let huge = summarise(&[f32::MAX, 0.0, f32::MIN], vocabulary, None).unwrap();
    assert_eq!((huge.token, huge.confidence, huge.entropy), (0, Probability::ONE, 0.0));
}

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
        let filter = Filter { top_k: std::num::NonZeroU32::new(top_k), top_p: Some(top_p), min_p: None };
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
    let likely = |temperature: f64, min_p: f32, top_p: Option<f32>| {
        let filter = Filter { top_k: None, top_p, min_p: Some(min_p) };
        let mut ids = allowed(&logits, vocabulary, Noise { temperature, draws: draws(1, 0), filter });
        ids.sort_unstable();
        ids
    };
    assert_eq!(likely(1.0, 0.05, None), [0, 1, 2, 3, 4], "each has a tenth of the largest probability");
    assert_eq!(likely(1.0, 0.15, None), [0, 1, 2, 3]);
    assert_eq!(likely(1.0, 0.35, None), [0, 1]);
    assert_eq!(likely(1.0, 1.0, None), [0]);
    assert_eq!(likely(2.0, 0.35, None), [0, 1, 2, 3], "of the tempered distribution");
    assert_eq!(likely(1.0, 0.15, Some(0.6)), [0, 1], "what both limits leave");
    assert_eq!(likely(1.0, 0.35, Some(0.8)), [0, 1]);
    // in a large vocabulary as by sorting all of it
    let logits = random_logits(8, 70_000);
    let vocabulary = Vocabulary { size: 70_000, mask: 33 };
    for top_p in [0.3, 0.9, 0.999] {
        let filter = Filter { top_k: None, top_p: Some(top_p), min_p: None };
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
        let all = Filter { top_k: std::num::NonZeroU32::new(499), top_p: None, min_p: None };
        let token = |noise| summarise(&logits, vocabulary, Some(noise)).unwrap().token;
        assert_eq!(token(unfiltered), token(Noise { filter: all, ..unfiltered }));
        let few = Filter { top_k: std::num::NonZeroU32::new(3), top_p: None, min_p: None };
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
