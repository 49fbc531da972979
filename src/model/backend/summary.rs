//! What a policy needs to know about one cell: a token, its probability, the margin, the entropy.
//! Out of scope: how they are computed from a row of logits.

use super::inputs::AskPlaces;
use crate::diffusion::{Best, Credit, Position, Probability, Proposal, TokenId, u32_of};
use crate::model::sampling::{Change, Noise};
use candle_core::{Result, Tensor, bail};
use std::sync::Arc;

/// A distribution over the vocabulary in the numbers that a policy compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) token: u32,
    pub(crate) confidence: Probability,
    pub(crate) margin: Probability,
    pub(crate) entropy: f32,
    /// With credit, the most probable token without it, and its probability.
    pub(crate) favourite: Option<(u32, Probability)>,
}

/// Summaries of several rows; `None` for a row with a logit that is not finite.
pub(crate) type Summaries = Vec<Option<Summary>>;

/// How some rows of logits are summarised.
pub(crate) struct Asks<'a> {
    pub(crate) options: Vec<SummaryOptions<'a>>,
    /// Where a GPU finds the same among the inputs of the pass.
    pub(crate) places: Option<AskPlaces>,
}

impl Asks<'_> {
    /// Summaries that there will be, those of what fills up included.
    pub(crate) fn rows(&self) -> usize {
        self.places.as_ref().map_or(self.options.len(), |places| places.count)
    }
}

/// Summaries where they were computed.
pub(crate) enum Answers {
    Host(Summaries),
    /// Words of a kernel (rows, words of an answer), as f32.
    Device(Tensor),
}

impl Answers {
    /// Those of a device that computes on the host.
    pub(crate) fn on_host(self) -> Result<Summaries> {
        match self {
            Self::Host(summaries) => Ok(summaries),
            Self::Device(words) => bail!("summaries of {:?} on a device", words.shape()),
        }
    }
}

/// How one row of logits is summarised.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SummaryOptions<'a> {
    /// How the token is drawn; `None` takes the most probable one.
    pub(crate) noise: Option<Noise>,
    /// What is done to the logits of some tokens; several changes of a token in their order.
    pub(crate) biases: &'a [(TokenId, Change)],
    /// Credit, which is added after that.
    pub(crate) credit: Option<Credit<'a>>,
    /// The tokens that may be drawn; `None` is all.
    pub(crate) only: Option<&'a [TokenId]>,
    /// Classifier-free guidance, applied before the biases.
    pub(crate) guidance: Option<Guidance>,
}

/// l = `l_u` + (1 + weight) (l - `l_u`) (LLaDA, arXiv 2502.09992, appendix A.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Guidance {
    pub(crate) weight: f32,
    /// The row that holds `l_u`.
    pub(crate) unguided: usize,
}

impl Summary {
    /// From the logits of the token, of the most probable one and of the second, and the sums of
    /// exp(l - max) and of exp(l - max) (l - max). `None` where they are not finite.
    pub(crate) fn of(token: u32, [logit, largest, second]: [f32; 3], mass: f64, moment: f64) -> Option<Self> {
        let probability = |logit: f32| f64::from(logit - largest).exp() / mass;
        let narrow = |value: f64| value as f32;
        Some(Self {
            token,
            confidence: Probability::rounded(narrow(probability(logit)))?,
            margin: Probability::rounded(narrow(1.0 / mass - probability(second)))?,
            // H = ln Z - sum p (l - max), with Z relative to the maximum
            entropy: narrow(mass.ln() - moment / mass).max(0.0),
            favourite: None,
        })
    }

    /// What is the most probable without credit in the cell at `at`.
    pub(crate) fn favourite(self, at: Position) -> Option<Best> {
        self.favourite.map(|(token, confidence)| Best { at, token: TokenId(token), confidence })
    }

    /// The proposal for the blank at `at`.
    pub(crate) fn proposal(self, at: Position) -> Proposal {
        let Self { token, confidence, margin, entropy, favourite: _ } = self;
        Proposal { at, token: TokenId(token), confidence, margin, entropy }
    }

    /// What the output layer would write into the filled cell at `at`.
    pub(crate) fn best(self, at: Position) -> Best {
        Best { at, token: TokenId(self.token), confidence: self.confidence }
    }
}

/// 1 / (1 + e^-x): from a quality logit to a quality.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Logits looked at together; a sum over so few in f32 loses nothing that f32 could show.
const CHUNK: usize = 64;

/// The ids that may be proposed: those below `size`, the mask excepted. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    pub(crate) size: usize,
    pub(crate) mask: usize,
}

impl Vocabulary {
    /// The logits of these ids, a few at a time, each chunk with the id of its first.
    pub(crate) fn chunks(self, logits: &[f32]) -> impl Iterator<Item = (u32, &[f32])> {
        let Self { size, mask } = self;
        let before = 0..mask.min(size);
        let after = (mask + 1).min(size)..size;
        [before, after].into_iter().flat_map(move |range| {
            let starts = range.clone().step_by(CHUNK).map(u32_of);
            starts.zip(logits[range].chunks(CHUNK))
        })
    }
}

/// The logarithms of the probabilities of the tokens that may be proposed, from a row of logits.
pub(crate) fn log_probabilities(logits: &[f32], vocabulary: Vocabulary) -> Arc<[f32]> {
    let logits: Vec<f32> = vocabulary.chunks(logits).flat_map(|(_, chunk)| chunk).copied().collect();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, larger);
    let mass: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    let below = largest + mass.ln() as f32;
    logits.into_iter().map(|logit| logit - below).collect()
}

/// The larger of two finite numbers; unlike `f32::max` a single instruction.
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
