//! How tokens are drawn: temperature, noise, limits, and changes of logits. Out of scope: logits.

use crate::diffusion::{Draws, Position, Purpose, Seed};
use std::{fmt, num::NonZeroU32};

/// How a token is drawn from the model's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token; finite above, `argmax(logit + temperature * gumbel)`.
    pub temperature: f32,
    /// Key of the noise, together with `step` and the position.
    pub seed: Seed,
    /// Forward passes of the sequence so far, so that a cell filled again gets a fresh draw.
    pub step: u32,
    /// Which tokens may be drawn.
    pub filter: Filter,
}

impl Sampling {
    /// How the token of one blank is drawn; `None` at temperature 0.
    pub(crate) fn noise(&self, at: Position) -> Option<Noise> {
        (self.temperature > 0.0).then(|| Noise {
            temperature: f64::from(self.temperature),
            draws: Draws::new(self.seed, Purpose::Token, self.step, at),
            filter: self.filter,
        })
    }
}

/// How the token of one blank is drawn, with noise keyed by the token's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    /// Above zero.
    pub(crate) temperature: f64,
    pub(crate) draws: Draws,
    pub(crate) filter: Filter,
}

/// Which tokens may be drawn: those that all limits leave of the tempered distribution.
/// Confidence, margin and entropy of a token still refer to the whole distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Filter {
    /// This many of the most probable tokens.
    pub top_k: Option<NonZeroU32>,
    /// The smallest set of most probable tokens whose probabilities sum to at least this; above 0
    /// and at most 1.
    pub top_p: Option<f32>,
    /// Tokens whose probability is at least this share of the largest one; above 0 and at most 1.
    pub min_p: Option<f32>,
}

impl Filter {
    /// Every token.
    pub const ALL: Self = Self { top_k: None, top_p: None, min_p: None };
}

/// What is done to a logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// This is added: a finite number, or minus infinity, which bans the token and is its last
    /// change.
    Add(f32),
    /// A logit above 0 is divided by this, another one multiplied (arXiv 1909.05858, section 4.1):
    /// a finite number above 0.
    Scale(f32),
}

impl Change {
    /// The logit of a token that is banned: the lowest finite one. It has no weight and is not
    /// proposed, and a logit that is not finite still means a broken model.
    const BANNED: f32 = f32::MIN;

    /// The logit after the change.
    pub(crate) fn of(self, logit: f32) -> f32 {
        match self {
            Self::Add(f32::NEG_INFINITY) => Self::BANNED,
            Self::Add(bias) => logit + bias,
            Self::Scale(penalty) if logit > 0.0 => logit / penalty,
            Self::Scale(penalty) => logit * penalty,
        }
    }

    /// Whether it is one of those that a row may have.
    pub(super) fn is_valid(self) -> bool {
        match self {
            Self::Add(bias) => !bias.is_nan() && bias != f32::INFINITY,
            Self::Scale(penalty) => penalty > 0.0 && penalty.is_finite(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(bias) => write!(f, "a bias of {bias}"),
            Self::Scale(penalty) => write!(f, "a repetition penalty of {penalty}"),
        }
    }
}
