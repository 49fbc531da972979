//! Saber (arXiv 2510.18165): a pace that grows with the confidence of what was filled, and a
//! remasking that takes back what has become less probable.
//!
//! Both go by the block: its filled cells, and their confidences as they stand. The paper takes all
//! cells that were filled so far. The number of erasures is set by a knob whose default is ours.

use super::knob::{Knob, Range, Setting};
use super::pace::with_best;
use super::present::PRESENT;
use super::remask::{BUDGET, WINDOW};
use super::rule::{Count, FilledCell, Kind, Rule, View};
use crate::diffusion::canvas::Edit;

/// Every blank that is as confident as the filled cells were on average when they were filled.
pub static PACE: Rule = Rule {
    kind: Kind::Pace,
    name: "saber",
    help: "Every blank whose confidence reaches `saber` times the mean confidence with which the cells of the block \
           were filled, and the most confident one.",
    source: "arXiv 2510.18165",
    knobs: &[&Knob {
        name: "saber",
        help: "The factor of the mean; 1 is the mean itself. The larger, the fewer blanks are filled at once.",
        range: Range::Number { max: 1000 },
        default: |_, _| None,
    }],
    decide: |view| {
        let factor = view.settings.number("saber").unwrap_or(1.0);
        let sum: f32 = view.filled.iter().map(|cell| cell.confidence.get()).sum();
        let mean = (!view.filled.is_empty()).then(|| sum / view.filled.len() as f32);
        with_best(view, |blank| mean.is_some_and(|mean| blank.confidence.get() >= factor * mean))
    },
    ..Rule::NONE
};

/// How many fills there are for an erasure.
static EVERY: Knob = Knob {
    name: "every",
    help: "A step erases one cell for every so many blanks that it fills; default: 8.",
    range: Range::Count { min: 1 },
    default: |_, _| Some(Setting::Count(8)),
};

/// The cells whose token lost most of its probability since it was written. It erases in proportion
/// to what a step fills, so it has no hold, in which nothing is filled.
pub static SABER: Rule = Rule {
    name: "saber",
    help: "The cells whose token has lost most of its probability (or gained least) since it was written, a number in \
           proportion to the blanks that the step fills.",
    source: "arXiv 2510.18165",
    knobs: &[&BUDGET, &EVERY, &WINDOW],
    count: Count::Own,
    decide,
    ..PRESENT
};

/// The greatest losses first; ties go to the left.
fn decide(view: &View<'_>) -> Vec<Edit> {
    let gain = |cell: &FilledCell| cell.present.map(|present| present.get() - cell.confidence.get());
    let mut cells: Vec<(f32, FilledCell)> = view.filled.iter().filter_map(|cell| Some((gain(cell)?, *cell))).collect();
    cells.sort_by(|(one, _), (other, _)| one.total_cmp(other)); // stable
    let count = view.due / view.settings.count(EVERY.name).unwrap_or(1).max(1);
    cells.iter().take(count as usize).map(|(_, cell)| cell.erase(None)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rule::Choice;
    use super::*;
    use crate::diffusion::random::{DrawKey, Seed};
    use crate::diffusion::reading::Proposal;
    use crate::diffusion::units::{Position, Probability, TokenId};

    fn probability(number: f32) -> Probability {
        Probability::new(number).unwrap()
    }

    fn cell(at: u32, confidence: f32, present: f32) -> FilledCell {
        let (confidence, present) = (probability(confidence), Some(probability(present)));
        let (at, token) = (Position(at), TokenId(at));
        FilledCell { at, token, confidence, age: 1, quality: None, present, best: None, memory: 0.0 }
    }

    fn blank(at: u32, confidence: f32) -> Proposal {
        let (confidence, margin) = (probability(confidence), Probability::ONE);
        Proposal { at: Position(at), token: TokenId(at), confidence, margin, entropy: 0.0 }
    }

    fn places(choice: Choice, proposals: &[Proposal], filled: &[FilledCell], due: u32) -> Vec<u32> {
        let view = View { due, ..View::of(proposals, filled, DrawKey { seed: Seed(0), step: 0 }) };
        choice.with_defaults(8).decide(view).iter().map(|edit| edit.at().0).collect()
    }

    #[test]
    fn blanks_as_confident_as_the_mean_are_filled_together() {
        let saber = |factor: f32, filled: &[FilledCell]| {
            let blanks = [blank(0, 0.5), blank(1, 0.75), blank(2, 0.8), blank(3, 0.7)];
            places(Choice::of(&PACE).with("saber", factor), &blanks, filled, 0)
        };
        let filled = [cell(4, 0.5, 1.0), cell(5, 1.0, 0.0)]; // 0.75 on average
        assert_eq!(saber(1.0, &filled), [1, 2]);
        assert_eq!(saber(0.5, &filled), [0, 1, 2, 3]);
        assert_eq!(saber(2.0, &filled), [2]); // the most confident one, whatever the mean
        assert_eq!(saber(1.0, &[]), [2]); // nothing is filled yet
    }

    #[test]
    fn the_greatest_losses_are_erased_in_proportion_to_the_fills() {
        // losses 0.25, 0.5, 0, 0.5, and a gain
        let filled = [cell(0, 0.5, 0.25), cell(1, 1.0, 0.5), cell(2, 0.5, 0.5), cell(3, 0.75, 0.25), cell(4, 0.1, 0.9)];
        let erased = |every: u32, due| places(Choice::of(&SABER).with("every", every), &[], &filled, due);
        assert_eq!(erased(2, 8), [1, 3, 0, 2]);
        assert_eq!(erased(3, 8), [1, 3]);
        assert_eq!(erased(1, 9), [1, 3, 0, 2, 4]);
        assert_eq!(erased(8, 7), [0; 0]);
        assert_eq!(places(Choice::of(&SABER), &[], &filled, 16), [1, 3]); // every 8 by default
    }
}
