//! What a policy needs to know about one blank, from its row of logits: a token, its probability, the margin, the
//! entropy. Refuses to know tensors and canvases.

use crate::diffusion::{Probability, TokenId};
use crate::model::Filter;
use crate::model::backend::cpu::sampling::{Noise, allowed, sample, sample_among};
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

/// Summarises one row; `None` when a logit of a token that may be proposed is not finite.
///
/// `logits` may be longer than the vocabulary. The mask and what lies beyond count as minus infinity; they have no
/// probability. Among equals the lowest id is taken. All but the token ignore the noise.
pub(crate) fn summarise(logits: &[f32], vocabulary: Vocabulary, noise: Option<Noise>) -> Option<Summary> {
    summarise_among(None, logits, vocabulary, noise)
}

/// The same, but the token is one of `only`, where that is given. All but the token is said of the whole row all the same.
pub(crate) fn summarise_among(
    only: Option<&[TokenId]>,
    logits: &[f32],
    vocabulary: Vocabulary,
    noise: Option<Noise>,
) -> Option<Summary> {
    let best = Best::of(logits, vocabulary)?;
    let token = match (only, noise) {
        (Some(only), None) => likeliest(only, logits)?,
        (Some(only), Some(noise)) => sample_among(&only.iter().map(|token| token.0).collect::<Vec<_>>(), logits, noise),
        (None, None) => best.token,
        (None, Some(noise)) if noise.filter == Filter::ALL => sample(logits, vocabulary, noise, best.token),
        (None, Some(noise)) => sample_among(&allowed(logits, vocabulary, noise), logits, noise),
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
    pub(crate) fn of(token: u32, [logit, largest, second]: [f32; 3], mass: f64, moment: f64) -> Option<Self> {
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

/// The token with the largest logit, the lowest id among equals; `None` of none.
fn likeliest(only: &[TokenId], logits: &[f32]) -> Option<u32> {
    let better = |a: &&TokenId, b: &&TokenId| logits[a.0 as usize].total_cmp(&logits[b.0 as usize]).then(b.0.cmp(&a.0));
    only.iter().max_by(better).map(|token| token.0)
}

/// The larger of two numbers that are finite; unlike `f32::max` a single instruction.
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The logits of the tokens that may be proposed, a few at a time, each with its first token's id.
pub(crate) fn chunks(logits: &[f32], vocabulary: Vocabulary) -> impl Iterator<Item = (u32, &[f32])> {
    let Vocabulary { size, mask } = vocabulary;
    let before = 0..mask.min(size);
    let after = (mask + 1).min(size)..size;
    [before, after].into_iter().flat_map(move |range| {
        let starts = range.clone().step_by(CHUNK);
        #[allow(clippy::cast_possible_truncation)] // ids are 32 bits wide
        starts.zip(logits[range].chunks(CHUNK)).map(|(start, chunk)| (start as u32, chunk))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::diffusion::{Draws, Position, Purpose, Seed};

    pub(crate) const NO_MASK: usize = usize::MAX - 1;

    pub(crate) fn draws(seed: u64, position: u32) -> Draws {
        Draws::new(Seed(seed), Purpose::Token, 0, Position(position))
    }

    /// Logits between -4 and 4, some far outside.
    pub(crate) fn random_logits(seed: u64, size: usize) -> Vec<f32> {
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
    fn among_some_tokens_the_likeliest_is_taken_and_judged_among_all() {
        let (logits, vocabulary) = ([0.5f32, 0.2, 0.15, 0.1, 0.05].map(f32::ln), Vocabulary { size: 5, mask: 4 });
        let among = |only: &[u32], noise| {
            let only: Vec<TokenId> = only.iter().copied().map(TokenId).collect();
            summarise_among(Some(&only), &logits, vocabulary, noise).unwrap()
        };
        let found = among(&[3, 1, 2], None);
        let whole = summarise(&logits, vocabulary, None).unwrap();
        assert_eq!((found.token, found.margin, found.entropy), (1, whole.margin, whole.entropy));
        assert!((found.confidence.get() - 0.2 / 0.95).abs() < 1e-6, "{found:?}");
        assert_eq!(among(&[3], None).token, 3);
        let drawn = |position| {
            let filter = Filter { top_k: std::num::NonZeroU32::new(1), top_p: None };
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
}
