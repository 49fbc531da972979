//! What a policy needs to know about one blank, from its row of logits: a token, its probability, the margin, the
//! entropy. Refuses to know tensors and canvases.

use crate::diffusion::{Draws, Probability, TokenId, gumbel};
use std::borrow::Cow;

/// Logits summed in f32 before the sum goes on in f64: short enough to lose nothing that f32 could show.
const CHUNK: usize = 64;
/// Further below the maximum nothing counts: exp of it is zero in f32.
const FLOOR: f32 = -200.0;

/// The ids that may be proposed: those below `size`, the mask excepted. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    pub(crate) size: usize,
    pub(crate) mask: usize,
}

/// A distribution over the vocabulary in the numbers a policy compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) token: u32,
    pub(crate) confidence: Probability,
    pub(crate) margin: Probability,
    pub(crate) entropy: f32,
}

/// How a token is drawn: `argmax(logit + temperature * gumbel)`, noise keyed by vocabulary index. Temperature
/// above zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    pub(crate) temperature: f64,
    pub(crate) draws: Draws,
}

/// Summarises one row; `None` when a logit of a token that may be proposed is not finite.
///
/// `logits` may be longer than the vocabulary. The mask and what lies beyond count as minus infinity; they have no
/// probability. Among equals the lowest id is taken. All but the token ignore the noise.
pub(crate) fn summarise(logits: &[f32], vocabulary: Vocabulary, noise: Option<Noise>) -> Option<Summary> {
    let best = Best::of(logits, vocabulary)?;
    let token = match noise {
        None => best.token,
        Some(noise) => sample(logits, vocabulary, noise, best.token),
    };
    let (mut mass, mut moment) = (0.0, 0.0);
    for (_, chunk) in chunks(logits, vocabulary) {
        let (mut chunk_mass, mut chunk_moment) = (0.0f32, 0.0f32);
        for logit in chunk {
            let below = (logit - best.logit).max(FLOOR);
            let weight = below.exp();
            chunk_mass += weight;
            chunk_moment += weight * below;
        }
        mass += f64::from(chunk_mass);
        moment += f64::from(chunk_moment);
    }
    Summary::of(token, [logits[token as usize], best.logit, best.second], mass, moment)
}

impl Summary {
    /// From the logits of the token, of the likeliest one and of the second, and two sums over the vocabulary: of exp(l - max),
    /// and of exp(l - max) (l - max).
    pub(super) fn of(token: u32, [logit, largest, second]: [f32; 3], mass: f64, moment: f64) -> Option<Self> {
        let probability = |logit: f32| f64::from(logit - largest).exp() / mass;
        #[allow(clippy::cast_possible_truncation)] // the readings are f32
        let narrow = |value: f64| value as f32;
        Some(Self {
            token,
            confidence: Probability::rounded(narrow(probability(logit)))?,
            margin: Probability::rounded(narrow(1.0 / mass - probability(second)))?,
            // H = ln Z - sum p (l - max), with Z relative to the maximum
            entropy: narrow(mass.ln() - moment / mass).max(0.0),
        })
    }
}

/// The logits with what is added to some of them. A banned token's is the lowest finite one: it is neither proposed nor of
/// any weight, and a logit that is not finite stays the sign of a broken model.
pub(crate) fn biased<'a>(logits: Cow<'a, [f32]>, biases: &[(TokenId, f32)]) -> Cow<'a, [f32]> {
    if biases.is_empty() {
        return logits;
    }
    let mut logits = logits.into_owned();
    for (token, bias) in biases {
        if let Some(logit) = logits.get_mut(token.0 as usize) {
            *logit = if *bias == f32::NEG_INFINITY { f32::MIN } else { *logit + bias };
        }
    }
    Cow::Owned(logits)
}

/// The two largest logits.
struct Best {
    token: u32,
    logit: f32,
    second: f32,
}

impl Best {
    fn of(logits: &[f32], vocabulary: Vocabulary) -> Option<Self> {
        let mut best = Self { token: 0, logit: f32::NEG_INFINITY, second: f32::NEG_INFINITY };
        for (first, chunk) in chunks(logits, vocabulary) {
            // a sum is not finite where a term is not; one that only overflows is found finite term by term
            if !chunk.iter().sum::<f32>().is_finite() && !chunk.iter().all(|logit| logit.is_finite()) {
                return None;
            }
            if chunk.iter().copied().fold(f32::NEG_INFINITY, larger) <= best.second {
                continue;
            }
            for (id, &logit) in (first..).zip(chunk) {
                if logit > best.logit {
                    best = Self { token: id, logit, second: best.logit };
                } else {
                    best.second = larger(best.second, logit);
                }
            }
        }
        Some(best)
    }
}

/// The larger of two numbers that are finite; unlike `f32::max` a single instruction.
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The logits of the tokens that may be proposed, a few at a time, each with its first token's id.
fn chunks(logits: &[f32], vocabulary: Vocabulary) -> impl Iterator<Item = (u32, &[f32])> {
    let Vocabulary { size, mask } = vocabulary;
    let before = 0..mask.min(size);
    let after = (mask + 1).min(size)..size;
    [before, after].into_iter().flat_map(move |range| {
        let starts = range.clone().step_by(CHUNK);
        #[allow(clippy::cast_possible_truncation)] // ids are 32 bits wide
        starts.zip(logits[range].chunks(CHUNK)).map(|(start, chunk)| (start as u32, chunk))
    })
}

/// The Gumbel-max trick (Gumbel 1954): the winner is distributed as softmax(logits / temperature).
fn sample(logits: &[f32], vocabulary: Vocabulary, noise: Noise, likeliest: u32) -> u32 {
    let Noise { temperature, draws } = noise;
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

/// At least `gumbel(uniform)`, without a logarithm: -ln(-ln u) < -ln(1 - u), which the binary exponent of 1 - u
/// bounds.
fn gumbel_bound(uniform: f64) -> f64 {
    let exponent = ((1.0 - uniform).to_bits() >> 52) as i32 - 1023; // of a positive number below one
    f64::from(-exponent) * std::f64::consts::LN_2 + 1e-12
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Position, Purpose, Seed};

    const NO_MASK: usize = usize::MAX - 1;

    fn draws(seed: u64, position: u32) -> Draws {
        Draws::new(Seed(seed), Purpose::Token, 0, Position(position))
    }

    /// Logits between -4 and 4, some far outside.
    fn random_logits(seed: u64, size: usize) -> Vec<f32> {
        let mut uniforms = vec![0.0; size];
        draws(seed, 0).fill(0, &mut uniforms);
        #[allow(clippy::cast_possible_truncation)]
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
                let noise = Noise { temperature, draws: draws(9, position) };
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
    fn skipping_hopeless_tokens_changes_no_sample() {
        let logits = random_logits(3, 999);
        let vocabulary = Vocabulary { size: 999, mask: 17 };
        for position in 0..200 {
            let noise = Noise { temperature: 0.9, draws: draws(4, position) };
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
