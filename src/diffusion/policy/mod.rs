//! Policies: which blanks are filled first, how many at once, and which filled cells are erased
//! or replaced. Each rule is one file here and one entry in the registry.

mod cache;
pub mod confidence;
mod knob;
mod lock;
pub mod order;
mod pace;
mod present;
mod proofreading;
mod proseco;
mod quality;
pub mod random;
mod registry;
mod remask;
mod remdm;
mod remedi;
mod rule;
mod saber;
mod token_editing;

pub use cache::{DUAL, NO_CACHE, PREFIX, REFRESH, SUFFIX_WINDOW};
pub use knob::{COUNT_MAX, Knob, KnobError, Range, Setting, Settings, Stretch};
pub use lock::{LOCK, LOCK_ABOVE};
pub use order::{CREDIT, CREDIT_DECAY, CREDIT_POWER};
pub use pace::{ANCESTRAL, ENTROPY_BOUND, FACTOR, HIERARCHICAL, KLASS, LEAP, Pace, THRESHOLD};
pub use present::{P2, PRESENT, RUNNING, T2M};
pub use proofreading::Proofreading;
pub(super) use proseco::Correcting;
pub use proseco::{CORRECT_EVERY, CORRECTOR_PASSES, PROSECO};
pub use quality::{EXACT, QUALITY};
pub use registry::{RegistryError, find, knobs, pace, register, rules, table};
pub use remask::{BELOW, BUDGET, HOLD, OFF, WINDOW};
pub use remdm::{CAP as REMDM_CAP, REMDM, RESCALE as REMDM_RESCALE};
pub use remedi::{REMEDI, REMEDI_LOGIT};
pub use rule::{Choice, Count, FilledCell, Kind, Needs, Rule, Scoring, Stage, View};
pub use saber::{PACE as SABER_PACE, SABER};
pub use token_editing::TOKEN_EDITING;

use std::num::NonZeroU32;

/// Everything that decides a sequence's edits besides the model and the seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Which blank is filled first: a rule of [`Kind::Order`].
    pub order: Choice,
    /// How many blanks per step.
    pub pace: Pace,
    /// Which filled cells are erased or replaced: a rule of [`Kind::Remasking`], its knobs checked
    /// and complete.
    pub remasking: Choice,
    /// Cells per block; blocks are refined left to right. A finished block never changes again,
    /// unless the remasking corrects.
    pub block_length: NonZeroU32,
    /// What happens to a block that is full; `None` finishes it at once.
    pub proofreading: Option<Proofreading>,
}

impl Policy {
    /// What the rules need of a reading.
    pub fn needs(&self) -> Needs {
        let pace = match self.pace {
            Pace::Steps(_) => None,
            Pace::Adaptive { rule, .. } => Some(rule),
        };
        let rules = [Some(self.order), pace, Some(self.remasking)];
        rules.into_iter().flatten().fold(Needs::default(), |needs, choice| needs.and(choice.rule.needs))
    }
}
