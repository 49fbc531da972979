//! Remasking by confidence: the cells that were filled with the lowest probability. Needs no
//! training. A cell's confidence does not change while it stands, so a token that turns out wrong
//! only later is not found.

use super::remask::{BELOW, BUDGET, HOLD, WINDOW, erase_by};
use super::rule::{FilledCell, Rule};

/// The cells of the block that were filled with the lowest confidence.
pub static CONFIDENCE: Rule = Rule {
    name: "confidence",
    help: "The cells that were filled with the lowest confidence.",
    knobs: &[&BUDGET, &BELOW, &WINDOW, &HOLD],
    decide: |view| {
        let below = view.settings.fraction(BELOW.name);
        let is_doubted = |cell: &&FilledCell| below.is_none_or(|below| cell.confidence < below);
        erase_by(view.filled.iter().filter(is_doubted), |cell| cell.confidence)
    },
    ..Rule::NONE
};
