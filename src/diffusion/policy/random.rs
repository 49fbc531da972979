//! Remasking at random: the control that every other remasking has to beat.

use super::remask::{BUDGET, WINDOW, erase_by};
use super::rule::{Kind, Needs, Rule};
use crate::diffusion::random::Purpose;

/// Cells of the block drawn uniformly.
pub static RANDOM: Rule = Rule {
    kind: Kind::Remasking,
    name: "random",
    help: "Cells drawn at random.",
    source: "",
    knobs: &[&BUDGET, &WINDOW],
    needs: Needs::NOTHING,
    remember: None,
    decide: |view| erase_by(view.filled.iter(), |cell| view.key.rank(Purpose::Erase, cell.at)),
};
