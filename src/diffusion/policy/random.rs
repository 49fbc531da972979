//! Remasking at random: the control that every other remasking has to beat.

use super::remask::{BUDGET, HOLD, WINDOW, erase_by};
use super::rule::Rule;
use crate::diffusion::random::Purpose;

/// Cells of the block drawn uniformly.
pub static RANDOM: Rule = Rule {
    name: "random",
    help: "Cells drawn at random.",
    knobs: &[&BUDGET, &WINDOW, &HOLD],
    decide: |view| erase_by(view.filled.iter(), |cell| view.key.rank(Purpose::Erase, cell.at)),
    ..Rule::NONE
};
