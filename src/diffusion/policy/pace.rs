//! Paces: how many blanks are filled per step.

use super::knob::{Knob, Range};
use super::rule::{Choice, Kind, Rule};
use crate::diffusion::reading::Proposal;
use std::num::NonZeroU32;

/// How many blanks are filled per step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// An even share per step, `steps` steps for the whole run, split evenly over the blocks.
    Steps(NonZeroU32),
    /// As many as a rule of [`Kind::Pace`] chooses, at least the first in order.
    Adaptive {
        /// The rule, its knobs checked and complete.
        rule: Choice,
        /// Steps for the whole run at most: a step then fills at least its even share. `None` is no
        /// bound.
        steps_max: Option<NonZeroU32>,
    },
}

impl Pace {
    /// Steps the whole run may take, where a bound was given.
    pub const fn steps_max(&self) -> Option<NonZeroU32> {
        match self {
            Self::Steps(steps) => Some(*steps),
            Self::Adaptive { steps_max, .. } => *steps_max,
        }
    }
}

/// Every blank whose confidence reaches a threshold (Fast-dLLM, arXiv 2505.22618).
pub static THRESHOLD: Rule = Rule {
    kind: Kind::Pace,
    name: "threshold",
    help: "Every blank whose confidence reaches the threshold, and at least one.",
    source: "arXiv 2505.22618",
    knobs: &[&Knob {
        name: "threshold",
        help: "Confidence from which blanks are filled.",
        range: Range::Fraction,
        default: |_, _| None,
    }],
    decide: |view| {
        let threshold = view.settings.fraction("threshold");
        let is_ready = |proposal: &&Proposal| threshold.is_some_and(|least| proposal.confidence >= least);
        view.proposals.iter().filter(is_ready).map(Proposal::fill).collect()
    },
    ..Rule::NONE
};
