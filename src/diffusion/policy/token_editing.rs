//! Remasking by token editing (LLaDA2.1, arXiv 2602.08676, "token-to-token"): a filled cell gets
//! another token at once, in the step that finds the other one more probable. No cell becomes
//! blank, so this takes no steps. A model sees the token that it judges, and one that was not
//! trained on wrong tokens mostly confirms it.

use super::knob::{Knob, Range, Setting};
use super::remask::{BUDGET, HOLD, WINDOW};
use super::rule::{Count, FilledCell, Needs, Rule, View};
use crate::diffusion::canvas::Edit;
use std::cmp::Reverse;

/// The paper's tau_edit. Its published sampler has 0.9, too, and for its own models recommends 0.5
/// ("quality mode") and 0 ("speed mode").
static ABOVE: Knob = Knob {
    name: "above",
    help: "Only tokens of a higher probability replace others; default: 0.9.",
    range: Range::Fraction,
    default: |_, _| Some(Setting::Number(0.9)),
};

/// Every cell in which another token is the most probable one, and probable enough.
pub static TOKEN_EDITING: Rule = Rule {
    name: "token_editing",
    help: "Nothing is erased; a cell in which another token has become the most probable gets that one at once.",
    source: "arXiv 2602.08676",
    knobs: &[&BUDGET, &ABOVE, &WINDOW, &HOLD],
    count: Count::Own,
    needs: Needs::BEST,
    decide,
    ..Rule::NONE
};

/// The most probable tokens first; ties go to the left.
fn decide(view: &View<'_>) -> Vec<Edit> {
    let above = view.settings.fraction(ABOVE.name);
    let is_sure =
        |edit: &Edit| edit.written().is_some_and(|(_, confidence)| above.is_none_or(|above| confidence > above));
    let replacements = view.filled.iter().filter_map(FilledCell::replace).filter(is_sure);
    let mut replacements: Vec<Edit> = replacements.collect();
    replacements.sort_by_key(|edit| Reverse(edit.written().map(|(_, confidence)| confidence)));
    replacements
}
