//! A row of logits summarised on the CPU, in one order of sums whatever the other rows are.

use super::sampling::{allowed, sample, sample_among};
use crate::diffusion::{Credit, Probability, TokenId};
use crate::model::backend::summary::{Summary, SummaryOptions, Vocabulary, larger};
use crate::model::sampling::{Change, Filter};
use std::borrow::Cow;

/// Further below the maximum nothing counts: exp of it is zero in f32.
const FLOOR: f32 = -200.0;

/// Summarises one row, guidance applied already; `None` when a logit of a token that may be
/// proposed is not finite. Ids beyond the vocabulary and the mask have no probability.
///
/// Among equals the lowest id is taken. Noise and allowed tokens affect the token alone; the
/// numbers refer to the whole row, biases included.
pub(crate) fn summarise(
    logits: Cow<'_, [f32]>,
    vocabulary: Vocabulary,
    options: &SummaryOptions<'_>,
) -> Option<Summary> {
    let logits = biased(logits, options.biases);
    let Some(credit) = options.credit else { return measured(&logits, vocabulary, options) };
    let favourite = Favourite::of(&logits, vocabulary, options.only)?;
    let summary = measured(&credited(logits, credit, &favourite), vocabulary, options)?;
    Some(Summary { favourite: Some((favourite.token, favourite.probability)), ..summary })
}

/// The summary of logits that are as they are to be.
fn measured(logits: &[f32], vocabulary: Vocabulary, options: &SummaryOptions<'_>) -> Option<Summary> {
    let best = Best::of(logits, vocabulary)?;
    let token = match (options.only, options.noise) {
        (Some(only), None) => likeliest(only, logits)?,
        (Some(only), Some(noise)) => sample_among(only.iter().map(|token| token.0), logits, noise),
        (None, None) => best.token,
        (None, Some(noise)) if noise.filter == Filter::ALL => sample(logits, vocabulary, noise, best.token),
        (None, Some(noise)) => sample_among(allowed(logits, vocabulary, noise).into_iter(), logits, noise),
    };
    let [mass, moment] = sums(logits, vocabulary, best.logit);
    Summary::of(token, [logits[token as usize], best.logit, best.second], mass, moment)
}

/// The sums of exp(l - largest) and of exp(l - largest) (l - largest).
fn sums(logits: &[f32], vocabulary: Vocabulary, largest: f32) -> [f64; 2] {
    let (mut mass, mut moment) = (0.0, 0.0);
    for (_, chunk) in vocabulary.chunks(logits) {
        // in f32 within a chunk, in f64 between them
        let (mut chunk_mass, mut chunk_moment) = (0.0f32, 0.0f32);
        for logit in chunk {
            let below = (logit - largest).max(FLOOR);
            let weight = below.exp();
            chunk_mass += weight;
            chunk_moment += weight * below;
        }
        mass += f64::from(chunk_mass);
        moment += f64::from(chunk_moment);
    }
    [mass, moment]
}

/// The most probable of the tokens that may be written.
struct Favourite {
    token: u32,
    probability: Probability,
}

impl Favourite {
    fn of(logits: &[f32], vocabulary: Vocabulary, only: Option<&[TokenId]>) -> Option<Self> {
        let best = Best::of(logits, vocabulary)?;
        let token = only.map_or(Some(best.token), |only| likeliest(only, logits))?;
        let [mass, _] = sums(logits, vocabulary, best.logit);
        let probability = f64::from(logits[token as usize] - best.logit).exp() / mass;
        Some(Self { token, probability: Probability::rounded(probability as f32)? })
    }
}

/// The logits with credit: that of earlier passes, and of this one.
fn credited<'a>(logits: Cow<'a, [f32]>, credit: Credit<'_>, favourite: &Favourite) -> Cow<'a, [f32]> {
    let mut logits = logits.into_owned();
    let gain = credit.gain(favourite.probability.get());
    let others = credit.held.iter().filter(|(token, _)| token.0 != favourite.token);
    let held = credit.held.iter().find(|(token, _)| token.0 == favourite.token).map_or(0.0, |(_, held)| *held);
    for (token, credit_of_token) in others.copied().chain([(TokenId(favourite.token), held + gain)]) {
        if let Some(logit) = logits.get_mut(token.0 as usize) {
            *logit += credit.bonus(credit_of_token);
        }
    }
    Cow::Owned(logits)
}

/// Classifier-free guidance, as [`crate::model::backend::summary::Guidance`] defines it.
pub(crate) fn guided(logits: &[f32], unguided: &[f32], weight: f32) -> Vec<f32> {
    logits.iter().zip(unguided).map(|(l, u)| u + (1.0 + weight) * (l - u)).collect()
}

/// The logits with their changes.
fn biased<'a>(logits: Cow<'a, [f32]>, biases: &[(TokenId, Change)]) -> Cow<'a, [f32]> {
    if biases.is_empty() {
        return logits;
    }
    let mut logits = logits.into_owned();
    for (token, change) in biases {
        if let Some(logit) = logits.get_mut(token.0 as usize) {
            *logit = change.of(*logit);
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
        for (first, chunk) in vocabulary.chunks(logits) {
            // a sum is not finite where a term is not, or where it overflows
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

/// The token with the largest logit, the lowest id among equals; `None` for an empty list.
fn likeliest(only: &[TokenId], logits: &[f32]) -> Option<u32> {
    let better = |a: &&TokenId, b: &&TokenId| logits[a.0 as usize].total_cmp(&logits[b.0 as usize]).then(b.0.cmp(&a.0));
    only.iter().max_by(better).map(|token| token.0)
}
