//! Remasking by the present probability: how probable the output layer finds the token that stands
//! in a cell, on the canvas as it is now. It comes from the same forward pass and needs no
//! training. The model sees the token that it judges, so these probabilities are higher than those
//! of a blank; only their order and large differences mean something.

use super::knob::{Knob, Range, Setting};
use super::remask::{BELOW, BUDGET, HOLD, WINDOW, erase_by};
use super::rule::{Count, FilledCell, Needs, Rule, View};
use crate::diffusion::canvas::Edit;
use crate::diffusion::units::Probability;

/// The cells whose token has the lowest present probability.
pub static PRESENT: Rule = Rule {
    name: "present",
    help: "The cells whose token is the least probable on the canvas as it is now.",
    knobs: &[&BUDGET, &BELOW, &WINDOW, &HOLD],
    needs: Needs::PRESENT,
    decide: |view| lowest(view, |cell| cell.present),
    ..Rule::NONE
};

/// The cells whose token had the lowest present probability on average since it was written
/// (training-free self-correction).
pub static RUNNING: Rule = Rule {
    name: "running",
    help: "The cells whose token was the least probable on average since it was written.",
    source: "arXiv 2602.02927",
    remember: Some(|cell| mean(cell).map_or(cell.memory, Probability::get)),
    decide: |view| lowest(view, mean),
    ..PRESENT
};

/// Every cell whose token has become improbable (T2M).
pub static T2M: Rule = Rule {
    name: "t2m",
    help: "All cells whose token is improbable on the canvas as it is now.",
    source: "arXiv 2604.18738",
    knobs: &[&BUDGET, &Knob { default: |_, _| Some(Setting::Number(0.1)), ..BELOW }, &WINDOW, &HOLD],
    count: Count::Own,
    ..PRESENT
};

/// The paper's eta.
static WEIGHT: Knob = Knob {
    name: "weight",
    help: "How much the log-probability of a filled cell counts against that of a blank; above 1 more is erased; \
           default: 1.",
    range: Range::Number { max: 100 },
    default: |_, _| Some(Setting::Number(1.0)),
};

/// Filled cells that do not belong to the best of the block, blanks included (P2, path planning).
pub static P2: Rule = Rule {
    name: "p2",
    help: "The cells that are less probable than blanks that could be filled in their place (path planning).",
    source: "arXiv 2502.03540",
    knobs: &[&BUDGET, &WEIGHT, &WINDOW, &HOLD],
    count: Count::Own,
    decide: |view| {
        let weight = view.settings.number(WEIGHT.name).unwrap_or(1.0);
        let blanks = view.proposals.iter().map(|blank| (blank.confidence.get().ln(), None));
        let filled = view.filled.iter().filter_map(|cell| Some((weight * cell.present?.get().ln(), Some(cell))));
        let mut all: Vec<(f32, Option<&FilledCell>)> = filled.chain(blanks).collect();
        all.sort_by(|(one, _), (other, _)| other.total_cmp(one)); // stable: filled cells win ties
        let kept = view.filled.len() + view.due as usize;
        all.iter().skip(kept).rev().filter_map(|(_, cell)| cell.map(|cell| cell.erase(None))).collect()
    },
    ..PRESENT
};

/// The mean of a cell's present probabilities since it was written, this pass included.
fn mean(cell: &FilledCell) -> Option<Probability> {
    let passes = cell.age as f32;
    Probability::rounded((cell.memory * (passes - 1.0) + cell.present?.get()) / passes)
}

/// Erasures of the cells that have this number, below the knob's bar, the lowest first.
fn lowest(view: &View<'_>, number: fn(&FilledCell) -> Option<Probability>) -> Vec<Edit> {
    let below = view.settings.fraction(BELOW.name);
    let is_doubted = |cell: &&FilledCell| number(cell).is_some_and(|number| below.is_none_or(|below| number < below));
    erase_by(view.filled.iter().filter(is_doubted), number)
}

#[cfg(test)]
mod tests {
    use super::super::rule::Choice;
    use super::*;
    use crate::diffusion::random::{DrawKey, Seed};
    use crate::diffusion::reading::Proposal;
    use crate::diffusion::units::{Position, TokenId};

    fn probability(p: f32) -> Probability {
        Probability::new(p).unwrap()
    }

    fn cell(at: u32, present: f32, age: u32, memory: f32) -> FilledCell {
        let (confidence, present) = (Probability::ONE, Some(probability(present)));
        FilledCell { at: Position(at), token: TokenId(at), confidence, age, quality: None, present, best: None, memory }
    }

    fn erased(choice: Choice, proposals: &[Proposal], filled: &[FilledCell], due: u32) -> Vec<u32> {
        let view = View::of(proposals, filled, DrawKey { seed: Seed(0), step: 0 });
        choice.decide(View { due, ..view }).iter().map(|edit| edit.at().0).collect()
    }

    #[test]
    fn the_least_probable_token_goes_first() {
        let filled = [cell(0, 0.4, 1, 0.0), cell(1, 0.2, 1, 0.0), cell(2, 0.9, 1, 0.0), cell(3, 0.2, 1, 0.0)];
        assert_eq!(erased(Choice::of(&PRESENT), &[], &filled, 0), [1, 3, 0, 2]);
        assert_eq!(erased(Choice::of(&PRESENT).with("below", 0.4), &[], &filled, 0), [1, 3]);
        assert_eq!(erased(Choice::of(&T2M).with_defaults(4), &[], &filled, 0), [0; 0]);
        assert_eq!(erased(Choice::of(&T2M).with("below", 0.3).with_defaults(4), &[], &filled, 0), [1, 3]);
    }

    #[test]
    fn a_running_mean_counts_every_pass_since_the_fill_once() {
        let presents = [0.9, 0.3, 0.6, 0.2];
        let mut memory = 0.0;
        for (age, present) in (1..).zip(presents) {
            memory = RUNNING.remember.unwrap()(&cell(0, present, age, memory));
            let expected = presents[..age as usize].iter().sum::<f32>() / age as f32;
            assert!((memory - expected).abs() < 1e-6, "{memory} {expected}");
        }
        // 0.3 now and 0.9 before, against 0.5 now and 0.5 before
        let filled = [cell(0, 0.3, 2, 0.9), cell(1, 0.5, 2, 0.5)];
        assert_eq!(erased(Choice::of(&RUNNING), &[], &filled, 0), [1, 0]);
    }

    /// By brute force: of all ways to keep as many cells as planned, the one with the best scores.
    #[test]
    fn path_planning_keeps_the_best_of_filled_cells_and_blanks() {
        let numbers = [0.9, 0.05, 0.5, 0.3, 0.7, 0.15];
        for due in 0..=3 {
            for weight in [0.5, 1.0, 2.0] {
                let filled: Vec<_> = (0..3).map(|at| cell(at, numbers[at as usize], 1, 0.0)).collect();
                let blank = |at: u32| Proposal {
                    at: Position(at),
                    token: TokenId(at),
                    confidence: probability(numbers[at as usize]),
                    margin: Probability::ONE,
                    entropy: 0.0,
                };
                let proposals: Vec<_> = (3..6).map(blank).collect();
                let score = |at: usize| if at < 3 { weight * numbers[at].ln() } else { numbers[at].ln() };
                let kept = 3 + due;
                let of = |set: u32| (0..6).filter(move |at| set >> at & 1 == 1);
                let total = |set: u32| of(set).map(score).sum::<f32>();
                let sets = (0..64u32).filter(|set| set.count_ones() == kept);
                let best = sets.max_by(|a, b| total(*a).total_cmp(&total(*b))).unwrap();
                let expected: Vec<u32> = (0..3).filter(|at| best >> at & 1 == 0).collect();
                let mut given = erased(Choice::of(&P2).with("weight", weight), &proposals, &filled, due);
                given.sort_unstable();
                assert_eq!(given, expected, "due {due}, weight {weight}");
            }
        }
    }
}
