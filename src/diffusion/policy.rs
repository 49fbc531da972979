//! What a request may decide about its own refinement: which blanks are filled first, how many at once, and
//! which filled cells are erased again. Only words and their limits; the deciding is done in `step`.

use super::units::Probability;
use std::num::NonZeroU32;

/// Which blank is filled first ("unmasking order").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Highest probability of the proposed token (LLaDA's low-confidence remasking, arXiv 2502.09992).
    Confidence,
    /// Largest lead of the most probable token over the second.
    Margin,
    /// Lowest entropy.
    Entropy,
    /// Uniformly at random, keyed by (seed, step, position).
    Random,
    /// Left to right.
    Leftmost,
}

/// How many blanks are filled per step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// An even share per step, `steps` steps for the whole run, split evenly over the blocks.
    Steps(NonZeroU32),
    /// Every blank whose confidence reaches `threshold`, at least the first in order (Fast-dLLM, arXiv
    /// 2505.22618). `steps_max`, when given, bounds the run: a step then fills at least its even share.
    Threshold {
        /// Confidence from which a blank is filled.
        threshold: Probability,
        /// Steps for the whole run at most.
        steps_max: Option<NonZeroU32>,
    },
}

impl Pace {
    /// Steps the whole run may take, where a bound was given.
    #[must_use]
    pub const fn steps_max(&self) -> Option<NonZeroU32> {
        match self {
            Self::Steps(steps) => Some(*steps),
            Self::Threshold { steps_max, .. } => *steps_max,
        }
    }
}

/// The part of a block's refinement during which erasing is allowed, as fractions of its progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    from: Probability,
    until: Probability,
}

impl Stretch {
    /// From the first step to the last.
    pub const WHOLE: Self = Self { from: Probability::ZERO, until: Probability::ONE };

    /// `None` unless `from < until`.
    #[must_use]
    pub fn new(from: Probability, until: Probability) -> Option<Self> {
        (from < until).then_some(Self { from, until })
    }

    /// The steps of `0..steps` that lie in the stretch, as a half-open range.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a product of fractions and steps
    pub fn of_steps(&self, steps: u32) -> std::ops::Range<u32> {
        let edge = |fraction: Probability| (f64::from(fraction.get()) * f64::from(steps)).round() as u32;
        edge(self.from)..edge(self.until)
    }

    /// Whether a block that is filled to `progress` is inside the stretch.
    #[must_use]
    pub fn contains(&self, progress: f32) -> bool {
        (self.from.get()..=self.until.get()).contains(&progress)
    }
}

/// Which filled cells are erased again ("remasking").
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Remask {
    /// What is filled stays.
    Never,
    /// The cells of the active block with the lowest quality (PRISM, arXiv 2510.01384, section 4).
    Quality {
        /// Erasures per block at most.
        budget: u32,
        /// Only cells whose quality is below this are erased; `None` erases the worst whatever their quality.
        below: Option<Probability>,
        /// When in a block's life erasing is allowed.
        window: Stretch,
    },
    /// The cells of the active block that were filled with the lowest confidence: what can be had without training. A cell's
    /// confidence does not change while it stands, so a token that only later turns out wrong is not found.
    Confidence {
        /// Erasures per block at most.
        budget: u32,
        /// Only cells that were filled with a confidence below this are erased; `None` erases the worst whatever it was.
        below: Option<Probability>,
        /// When in a block's life erasing is allowed.
        window: Stretch,
    },
    /// Cells of the active block drawn without replacement, each with a chance proportional to exp(-confidence at fill):
    /// ReMDM-conf (arXiv 2503.00307, section 4.1) on a schedule that counts. The paper erases each cell by itself with that
    /// softmax times sigma; here the step's planned number of cells is drawn from the same softmax.
    ReMdm {
        /// Erasures per block at most.
        budget: u32,
        /// When in a block's life erasing is allowed.
        window: Stretch,
    },
    /// Cells of the active block drawn at random: the control every learned policy has to beat.
    Random {
        /// Erasures per block at most.
        budget: u32,
        /// When in a block's life erasing is allowed.
        window: Stretch,
    },
}

impl Remask {
    /// Erasures per block at most.
    #[must_use]
    pub const fn budget(&self) -> u32 {
        match self {
            Self::Never => 0,
            Self::Quality { budget, .. }
            | Self::Confidence { budget, .. }
            | Self::ReMdm { budget, .. }
            | Self::Random { budget, .. } => *budget,
        }
    }

    /// When in a block's life erasing is allowed.
    #[must_use]
    pub const fn window(&self) -> Stretch {
        match self {
            Self::Never => Stretch::WHOLE,
            Self::Quality { window, .. }
            | Self::Confidence { window, .. }
            | Self::ReMdm { window, .. }
            | Self::Random { window, .. } => *window,
        }
    }

    /// Whether the policy needs a model with a quality head.
    #[must_use]
    pub const fn needs_quality(&self) -> bool {
        match self {
            Self::Quality { .. } => true,
            Self::Never | Self::Confidence { .. } | Self::ReMdm { .. } | Self::Random { .. } => false,
        }
    }
}

/// What happens once a block is full: the quality head reads it through, what it doubts is erased and written again, and so on,
/// until it doubts nothing or the steps are spent. From round to round more is erased with it: what is wrong mostly stands on
/// other mistakes, which look right beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proofreading {
    /// Steps per block at most, beyond those of the pace. With fewer than two, one to erase and one to write, nothing happens.
    pub steps: u32,
    /// A cell whose quality is below this is doubted.
    pub below: Probability,
    /// Erasures of a round at most, the worst first; `None` is all that are doubted.
    pub most: Option<NonZeroU32>,
}

impl Proofreading {
    /// Quality below which cells are erased in a round, counted from 0, if any is doubted: `below` at first, then half as far
    /// from 1 in each round as in the one before.
    #[must_use]
    pub fn bar(&self, round: u32) -> Probability {
        let distance = (1.0 - self.below.get()) * 0.5f32.powi(round.min(24).cast_signed());
        Probability::rounded(1.0 - distance).unwrap_or(Probability::ONE)
    }
}

/// Everything that decides a sequence's edits besides the model and the seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Which blank is filled first.
    pub order: Order,
    /// How many blanks per step.
    pub pace: Pace,
    /// Which filled cells are erased.
    pub remask: Remask,
    /// Cells per block; blocks are refined left to right, and a finished block never changes again.
    pub block_length: NonZeroU32,
    /// What happens to a block that is full; `None` finishes it at once.
    pub proofreading: Option<Proofreading>,
}
