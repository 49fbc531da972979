//! Remasking by quality: the cells that the quality head judges worst (PRISM, arXiv 2510.01384,
//! section 4), or those that are worst by the exact number which the head predicts.

use super::remask::{BELOW, BUDGET, HOLD, WINDOW};
use super::rule::{FilledCell, Needs, Rule, View};
use crate::diffusion::canvas::Edit;
use crate::diffusion::units::Probability;

/// The cells of the block with the lowest quality.
pub static QUALITY: Rule = Rule {
    name: "quality",
    help: "The cells with the lowest quality; needs a quality head.",
    source: "arXiv 2510.01384",
    knobs: &[&BUDGET, &BELOW, &WINDOW, &HOLD],
    needs: Needs::QUALITY,
    decide,
    ..Rule::NONE
};

/// The cells of the block with the lowest exact quality: what a perfect head would erase.
pub static EXACT: Rule = Rule {
    name: "exact",
    help: "The cells with the lowest exact quality: the probability of the token with its own cell masked. Reads a row \
           for each filled cell: it is for measurements.",
    needs: Needs::EXACT,
    ..QUALITY
};

fn decide(view: &View<'_>) -> Vec<Edit> {
    let below = view.settings.fraction(BELOW.name);
    let judged = |cell: &FilledCell| Some((cell.quality?, *cell));
    let is_doubted = |(quality, _): &(Probability, FilledCell)| below.is_none_or(|below| *quality < below);
    let mut judged: Vec<_> = view.filled.iter().filter_map(judged).filter(is_doubted).collect();
    judged.sort_by_key(|(quality, cell)| (*quality, cell.at));
    judged.into_iter().map(|(quality, cell)| cell.erase(Some(quality))).collect()
}
