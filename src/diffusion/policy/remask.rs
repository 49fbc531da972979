//! What the remaskings have in common: the knobs of the schedule, and erasing in the order of a
//! key.

use super::knob::{Knob, Range, Setting, Stretch};
use super::rule::{Choice, FilledCell, Rule};
use crate::diffusion::canvas::Edit;
use crate::diffusion::units::DOUBTFUL;

/// Erasures and replacements per block at most. Every remasking that changes anything has this
/// knob: it bounds a run.
pub static BUDGET: Knob = Knob {
    name: "budget",
    help: "Erasures and replacements per block at most; default: one per blank of the block.",
    range: Range::Count { min: 0 },
    default: |_, blanks| Some(Setting::Count(blanks)),
};

/// The quality or confidence below which cells are erased.
pub static BELOW: Knob = Knob {
    name: "below",
    help: "Only cells whose quality (or what else the policy goes by) is lower; default: 0.1 with `t2m`, 0.5 without a \
           budget, else no limit.",
    range: Range::Fraction,
    default: |asked, _| asked.count(BUDGET.name).is_none().then_some(Setting::Number(DOUBTFUL)),
};

/// When erasing and replacing are allowed.
pub static WINDOW: Knob = Knob {
    name: "window",
    help: "Part of each block's steps in which erasing and replacing are allowed, as two fractions, the second \
           above the first.",
    range: Range::Span,
    default: |_, _| Some(Setting::Span([0.0, 1.0])),
};

/// What is filled stays.
pub static OFF: Rule = Rule { name: "off", help: "Nothing is erased.", ..Rule::NONE };

impl Choice {
    /// Erasures and replacements per block at most.
    pub fn budget(&self) -> u32 {
        self.settings.count(BUDGET.name).unwrap_or(0)
    }

    /// The part of a block's steps in which erasing and replacing are allowed.
    pub fn window(&self) -> Stretch {
        self.settings.stretch(WINDOW.name).unwrap_or(Stretch::WHOLE)
    }
}

/// Erasures of these cells, smallest key first. Ties go to the left.
pub(super) fn erase_by<'a, K: Ord>(
    cells: impl Iterator<Item = &'a FilledCell>,
    key: impl Fn(&FilledCell) -> K,
) -> Vec<Edit> {
    let mut cells: Vec<&FilledCell> = cells.collect();
    cells.sort_by_cached_key(|cell| key(cell));
    cells.into_iter().map(|cell| cell.erase(None)).collect()
}
