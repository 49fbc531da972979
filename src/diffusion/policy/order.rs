//! Orders: which blank is filled first. Ties go to the left.

use super::knob::{Knob, Range, Setting, Settings};
use super::rule::{Kind, Rule, View};
use crate::diffusion::canvas::Edit;
use crate::diffusion::random::Purpose;
use crate::diffusion::reading::Proposal;
use std::cmp::Reverse;

/// The most confident proposal first (LLaDA's low-confidence remasking, arXiv 2502.09992).
pub static CONFIDENCE: Rule =
    order("confidence", "Highest probability of the proposed token first.", "arXiv 2502.09992", |view| {
        sorted(view, |proposals| proposals.sort_by_key(|proposal| Reverse(proposal.confidence)))
    });

/// The largest margin first.
pub static MARGIN: Rule = order("margin", "Largest margin between the two most probable tokens first.", "", |view| {
    sorted(view, |proposals| proposals.sort_by_key(|proposal| Reverse(proposal.margin)))
});

/// The lowest entropy first.
pub static ENTROPY: Rule = order("entropy", "Lowest entropy of the distribution first.", "", |view| {
    sorted(view, |proposals| proposals.sort_by(|a, b| a.entropy.total_cmp(&b.entropy)))
});

/// Uniformly at random, drawn anew in each step.
pub static RANDOM: Rule = order("random", "At random, drawn anew in each step.", "", |view| {
    sorted(view, |proposals| {
        proposals.sort_by_cached_key(|proposal| view.key.rank(Purpose::Fill, proposal.at));
    })
});

/// From left to right.
pub static LEFTMOST: Rule = order("leftmost", "From left to right.", "", |view| {
    sorted(view, |proposals| proposals.sort_by_key(|proposal| proposal.at))
});

/// The knob that gives blanks credit for what earlier passes found most probable there.
pub static CREDIT: Knob = Knob {
    name: "credit",
    help: "Weight of credit, 0.7 in the paper: the logit of a token in a blank gains this times ln(1 + C), where C sums \
           up the passes in which it was the most probable one there; default: 0, no credit.",
    range: Range::Number { max: 100 },
    default: |_, _| None,
};

/// The knob that lets credit fade.
pub static CREDIT_DECAY: Knob = Knob {
    name: "credit_decay",
    help: "What is left of credit after a pass; default: 0.8.",
    range: Range::Fraction,
    default: |asked, _| with_credit(asked, 0.8),
};

/// The knob that says how much credit depends on probability.
pub static CREDIT_POWER: Knob = Knob {
    name: "credit_power",
    help: "The most probable token's credit gains its probability to this power; default: 0.2.",
    range: Range::Fraction,
    default: |asked, _| with_credit(asked, 0.2),
};

fn with_credit(asked: &Settings, default: f32) -> Option<Setting> {
    asked.get(CREDIT.name).map(|_| Setting::Number(default))
}

/// A knob of credit, without which it does nothing.
pub(super) fn without_credit(asked: &Settings) -> Option<&'static str> {
    let is_set = |knob: &&&Knob| asked.get(knob.name).is_some();
    if is_set(&&&CREDIT) { None } else { KNOBS.iter().find(is_set).map(|knob| knob.name) }
}

/// The knobs that every order has: the model applies them, whatever the order.
static KNOBS: [&Knob; 3] = [&CREDIT, &CREDIT_DECAY, &CREDIT_POWER];

const fn order(
    name: &'static str,
    help: &'static str,
    source: &'static str,
    decide: fn(&View<'_>) -> Vec<Edit>,
) -> Rule {
    Rule { kind: Kind::Order, name, help, source, knobs: &KNOBS, decide, ..Rule::NONE }
}

/// Fills of all blanks, in the order that `sort` brings them into. `sort` has to be stable.
fn sorted(view: &View<'_>, sort: impl FnOnce(&mut [Proposal])) -> Vec<Edit> {
    let mut proposals = view.proposals.to_vec();
    sort(&mut proposals);
    proposals.iter().map(Proposal::fill).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rule::Choice;
    use super::*;
    use crate::diffusion::random::{DrawKey, Seed};
    use crate::diffusion::units::{Position, Probability, TokenId};

    fn proposal(at: u32, confidence: f32, margin: f32, entropy: f32) -> Proposal {
        let [confidence, margin] = [confidence, margin].map(|p| Probability::new(p).unwrap());
        Proposal { at: Position(at), token: TokenId(at), confidence, margin, entropy }
    }

    fn ranked(order: &'static Rule, proposals: &[Proposal], step: u32) -> Vec<u32> {
        let fills = Choice::of(order).decide(View::of(proposals, &[], DrawKey { seed: Seed(3), step }));
        fills.iter().map(|fill| fill.at().0).collect()
    }

    #[test]
    fn each_order_ranks_by_its_own_number_and_ties_go_left() {
        let proposals = [
            proposal(0, 0.5, 0.3, 0.9),
            proposal(1, 0.7, 0.1, 0.8),
            proposal(2, 0.5, 0.2, 0.2),
            proposal(3, 0.9, 0.3, 0.9),
        ];
        for (order, expected) in
            [(&CONFIDENCE, [3, 1, 0, 2]), (&MARGIN, [0, 3, 2, 1]), (&ENTROPY, [2, 1, 0, 3]), (&LEFTMOST, [0, 1, 2, 3])]
        {
            assert_eq!(ranked(order, &proposals, 0), expected, "{order:?}");
        }
    }

    #[test]
    fn random_order_is_a_fresh_permutation_each_step() {
        let proposals: Vec<_> = (0..12).map(|at| proposal(at, 0.5, 0.5, 0.5)).collect();
        let order = |step| ranked(&RANDOM, &proposals, step);
        assert_ne!(order(0), order(1));
        assert_eq!(order(0), order(0));
        let mut sorted = order(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
    }
}
