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
           above the first; default: `hold` if that is given, else all.",
    range: Range::Span,
    default: |asked, _| Some(asked.get(HOLD.name).unwrap_or(Setting::Span([0.0, 1.0]))),
};

/// When the number of filled cells stands still.
pub static HOLD: Knob = Knob {
    name: "hold",
    help: "Part of each block's steps, as two fractions, in which a step fills only as many blanks as it erases cells, \
           so that cells are written anew and none is added; default: none.",
    range: Range::Span,
    default: |_, _| None,
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

    /// The part of a block's steps in which the number of filled cells stands still.
    pub fn hold(&self) -> Option<Stretch> {
        self.settings.stretch(HOLD.name)
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
