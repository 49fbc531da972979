//! Proofreading: what happens once a block is full. The quality head reads it, the cells it doubts
//! are erased and written again, and so on, until it doubts nothing or the steps are spent.

use super::quality::QUALITY;
use super::remask::BELOW;
use super::rule::{Choice, FilledCell};
use crate::diffusion::units::Probability;
use std::num::NonZeroU32;

/// How a full block is proofread. From round to round more is erased: a wrong token mostly stands
/// among other wrong tokens, which look right beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proofreading {
    /// Steps per block at most, beyond those of the pace. With fewer than two, one to erase and one
    /// to write, nothing happens.
    pub steps: u32,
    /// A cell whose quality is below this is doubted.
    pub below: Probability,
    /// Erasures of a round at most, the lowest quality first; `None` is all that are doubted.
    pub most: Option<NonZeroU32>,
}

impl Proofreading {
    /// Quality below which cells are erased in a round, counted from 0, if any is doubted: `below`
    /// at first, then half as far from 1 in each round as in the one before.
    pub fn bar(&self, round: u32) -> Probability {
        let distance = (1.0 - self.below.get()) * 0.5f32.powi(round.min(24).cast_signed());
        Probability::rounded(1.0 - distance).unwrap_or(Probability::ONE)
    }

    /// What a round erases; `None` where no cell is doubted.
    pub(in crate::diffusion) fn remasking(&self, round: u32, filled: &[FilledCell]) -> Option<Choice> {
        let is_doubted = |cell: &FilledCell| cell.quality.is_some_and(|quality| quality < self.below);
        filled.iter().any(is_doubted).then(|| Choice::of(&QUALITY).with(BELOW.name, self.bar(round).get()))
    }
}
