//! Remasking by a corrector loop (ProSeCo, arXiv 2602.11590): one step of several fills all blanks
//! of a working copy, and the model rewrites its own tokens there until nothing changes. What it
//! wrote in place of tokens of the canvas replaces them, in finished blocks, too. Out of scope: the
//! passes over the working copy (`sequence`).

use super::knob::{Knob, Range, Setting};
use super::rule::{Choice, Count, FilledCell, Needs, Rule};

/// The paper's omega; 2 is the default of its published sampler.
pub static CORRECT_EVERY: Knob = Knob {
    name: "correct_every",
    help: "One step of so many corrects the answer, which takes further passes; default: 2.",
    range: Range::Count { min: 1 },
    default: |_, _| Some(Setting::Count(2)),
};

/// The paper's S; 4 is the default of its published sampler.
pub static CORRECTOR_PASSES: Knob = Knob {
    name: "corrector_passes",
    help: "Further passes of a step that corrects, at most; one that changes nothing is the last; default: 4.",
    range: Range::Count { min: 1 },
    default: |_, _| Some(Setting::Count(4)),
};

/// Every token for which the corrector wrote another one.
pub static PROSECO: Rule = Rule {
    name: "proseco",
    help: "Nothing is erased; one step of several corrects a copy of the canvas without blanks, and the tokens of all \
           blocks become those of the copy.",
    source: "arXiv 2602.11590",
    knobs: &[&CORRECT_EVERY, &CORRECTOR_PASSES],
    count: Count::Replacements,
    needs: Needs::CORRECTED,
    decide: |view| view.filled.iter().filter_map(FilledCell::replace).collect(),
    ..Rule::NONE
};

/// The steps of a block that correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::diffusion) struct Correcting {
    /// The last of every so many steps; at least 1.
    pub(in crate::diffusion) every: u32,
    /// Passes over the working copy at most; at least 1.
    pub(in crate::diffusion) passes: u32,
}

impl Choice {
    /// The steps that correct, if the rule needs them.
    pub(in crate::diffusion) fn correcting(&self) -> Option<Correcting> {
        let count = |knob: &Knob| self.settings.count(knob.name).unwrap_or(1).max(1);
        let correcting = || Correcting { every: count(&CORRECT_EVERY), passes: count(&CORRECTOR_PASSES) };
        self.rule.needs.corrected.then(correcting)
    }
}
