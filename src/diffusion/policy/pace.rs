//! Paces: how many blanks are filled per step. What a pace returns is filled at once, whatever the
//! order; if that is nothing, the first in order is filled.

use super::knob::{Knob, Range, Setting};
use super::rule::{Choice, Kind, Needs, Rule, View};
use crate::diffusion::canvas::Edit;
use crate::diffusion::random::{DrawKey, Purpose};
use crate::diffusion::reading::Proposal;
use crate::diffusion::units::Probability;
use std::cmp::Reverse;
use std::num::NonZeroU32;

/// How many blanks are filled per step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// An even share per step, `steps` steps for the whole run, split evenly over the blocks.
    Steps(NonZeroU32),
    /// As many as a rule of [`Kind::Pace`] chooses, at least the first in order.
    Adaptive {
        /// The rule, its knobs checked and complete.
        rule: Choice,
        /// Steps for the whole run at most: a step then fills at least its even share. `None` is no
        /// bound.
        steps_max: Option<NonZeroU32>,
    },
}

impl Pace {
    /// Steps the whole run may take, where a bound was given.
    pub const fn steps_max(&self) -> Option<NonZeroU32> {
        match self {
            Self::Steps(steps) => Some(*steps),
            Self::Adaptive { steps_max, .. } => *steps_max,
        }
    }
}

/// Every blank whose confidence reaches a threshold (Fast-dLLM, arXiv 2505.22618).
pub static THRESHOLD: Rule = Rule {
    kind: Kind::Pace,
    name: "threshold",
    help: "Every blank whose confidence reaches the threshold, and at least one.",
    source: "arXiv 2505.22618",
    knobs: &[&Knob {
        name: "threshold",
        help: "Confidence from which blanks are filled.",
        range: Range::Fraction,
        default: |_, _| None,
    }],
    decide: |view| {
        let threshold = view.settings.fraction("threshold");
        let is_ready = |proposal: &&Proposal| threshold.is_some_and(|least| proposal.confidence >= least);
        view.proposals.iter().filter(is_ready).map(Proposal::fill).collect()
    },
    ..Rule::NONE
};

/// As many of the most confident blanks as their confidences bear together (Fast-dLLM, the factor
/// of arXiv 2505.22618).
pub static FACTOR: Rule = Rule {
    kind: Kind::Pace,
    name: "factor",
    help: "The n most confident blanks, for the largest n at which all have a confidence of 1 - factor / (n + 1).",
    source: "arXiv 2505.22618",
    knobs: &[&Knob {
        name: "factor",
        help: "The larger, the more blanks are filled at once.",
        range: Range::Number { max: 1000 },
        default: |_, _| None,
    }],
    decide: |view| {
        let factor = view.settings.number("factor").unwrap_or(0.0);
        let sorted = by_confidence(view);
        let bears = |(before, proposal): &(usize, &Proposal)| {
            *before == 0 || proposal.confidence.get() >= 1.0 - factor / (before + 2) as f32
        };
        let count = sorted.iter().enumerate().take_while(bears).count();
        // the published code fills the last blank, too, when it alone is left over
        let count = if count + 1 == sorted.len() { sorted.len() } else { count };
        sorted[..count].iter().map(Proposal::fill).collect()
    },
    ..Rule::NONE
};

/// The blanks of lowest entropy, as far as what they may depend on each other is bounded
/// (EB-sampler).
pub static ENTROPY_BOUND: Rule = Rule {
    kind: Kind::Pace,
    name: "entropy_bound",
    help: "The blanks of lowest entropy, as long as the entropies of all but the last add up to the bound at most.",
    source: "arXiv 2505.24857",
    knobs: &[&Knob {
        name: "entropy_bound",
        help: "The bound in nats.",
        range: Range::Number { max: 1000 },
        default: |_, _| None,
    }],
    decide: |view| {
        let bound = view.settings.number("entropy_bound").unwrap_or(0.0);
        let mut sorted = view.proposals.to_vec();
        sorted.sort_by(|a, b| a.entropy.total_cmp(&b.entropy));
        let mut sum = 0.0;
        let is_within = |proposal: &&Proposal| {
            let before = sum;
            sum += proposal.entropy;
            before <= bound
        };
        sorted.iter().take_while(is_within).map(Proposal::fill).collect()
    },
    ..Rule::NONE
};

/// Every confident blank, and around it those that are nearly so (LocalLeap).
pub static LEAP: Rule = Rule {
    kind: Kind::Pace,
    name: "leap",
    help: "Every blank whose confidence reaches `leap`, and those near it that reach `leap_near`; at least the most \
           confident one.",
    source: "arXiv 2510.07081",
    knobs: &[
        &Knob {
            name: "leap",
            help: "Confidence from which a blank is filled; 0.9 in the paper.",
            range: Range::Fraction,
            default: |_, _| None,
        },
        &Knob {
            name: "leap_near",
            help: "Confidence from which a blank near such a one is filled; default: 0.75.",
            range: Range::Fraction,
            default: |_, _| Some(Setting::Number(0.75)),
        },
        &Knob {
            name: "leap_distance",
            help: "How many cells away is near; default: 4.",
            range: Range::Count { min: 0 },
            default: |_, _| Some(Setting::Count(4)),
        },
    ],
    decide: |view| {
        let fraction = |knob| view.settings.fraction(knob).unwrap_or(Probability::ONE);
        let (least, near) = (fraction("leap"), fraction("leap_near"));
        let distance = view.settings.count("leap_distance").unwrap_or(0);
        let anchors: Vec<u32> =
            view.proposals.iter().filter(|blank| blank.confidence >= least).map(|blank| blank.at.0).collect();
        let is_near = |at: u32| {
            let next = anchors.partition_point(|anchor| anchor.saturating_add(distance) < at);
            anchors.get(next).is_some_and(|anchor| anchor.abs_diff(at) <= distance)
        };
        let is_ready =
            |blank: &&Proposal| blank.confidence >= least || (blank.confidence >= near && is_near(blank.at.0));
        with_best(view, is_ready)
    },
    ..Rule::NONE
};

/// The best blank of every gap, so that each gap is split further (hierarchical decoding of
/// dInfer).
pub static HIERARCHICAL: Rule = Rule {
    kind: Kind::Pace,
    name: "hierarchical",
    help: "The most confident blank of every gap between filled cells if it reaches `hierarchical`, every blank that \
           reaches `hierarchical_all`, and the most confident one.",
    source: "dInfer",
    knobs: &[
        &Knob {
            name: "hierarchical",
            help: "Confidence from which the best blank of a gap is filled; 0.4 in dInfer.",
            range: Range::Fraction,
            default: |_, _| None,
        },
        &Knob {
            name: "hierarchical_all",
            help: "Confidence from which every blank is filled; default: 0.9.",
            range: Range::Fraction,
            default: |_, _| Some(Setting::Number(0.9)),
        },
    ],
    decide: |view| {
        let fraction = |knob| view.settings.fraction(knob).unwrap_or(Probability::ONE);
        let (least, all) = (fraction("hierarchical"), fraction("hierarchical_all"));
        let gaps = view.proposals.chunk_by(|blank, next| blank.at.0 + 1 == next.at.0);
        let best: Vec<_> = gaps.filter_map(most_confident).filter(|blank| blank.confidence > least).collect();
        with_best(view, |blank| blank.confidence > all || best.iter().any(|best| best.at == blank.at))
    },
    ..Rule::NONE
};

/// Every confident blank whose distribution has come to rest (KLASS).
pub static KLASS: Rule = Rule {
    kind: Kind::Pace,
    name: "klass",
    help: "Every blank whose confidence is above `klass`, if its distribution moved by less than `klass_shift` in each \
           of the last two passes.",
    source: "arXiv 2511.05664",
    knobs: &[
        &Knob {
            name: "klass",
            help: "Confidence above which a blank is filled; 0.6 to 0.9 in the paper.",
            range: Range::Fraction,
            default: |_, _| None,
        },
        &Knob {
            name: "klass_shift",
            help: "Divergence from the pass before, in nats, below which a distribution is at rest; default: 0.01.",
            range: Range::Number { max: 1000 },
            default: |_, _| Some(Setting::Number(0.01)),
        },
    ],
    needs: Needs::SHIFT,
    decide: |view| {
        let confidence = view.settings.fraction("klass").unwrap_or(Probability::ONE);
        let most = view.settings.number("klass_shift").unwrap_or(0.0);
        let is_ready = |(blank, shift): &(&Proposal, &f32)| blank.confidence > confidence && **shift < most;
        view.proposals.iter().zip(view.shifts).filter(is_ready).map(|(blank, _)| blank.fill()).collect()
    },
    ..Rule::NONE
};

/// Each blank at a time of its own, drawn evenly from those of a schedule that is linear in time
/// (ancestral sampling of MDLM). Of such a sampler this is the distribution, but a time at which
/// nothing is filled takes no pass.
pub static ANCESTRAL: Rule = Rule {
    kind: Kind::Pace,
    name: "ancestral",
    help: "Each blank at one of `ancestral` times, drawn at random; a time without a blank takes no step.",
    source: "arXiv 2406.07524",
    knobs: &[&Knob {
        name: "ancestral",
        help: "Steps of a block at most, if nothing is erased.",
        range: Range::Count { min: 1 },
        default: |_, _| None,
    }],
    decide: |view| {
        let times = f64::from(view.settings.count("ancestral").unwrap_or(1));
        // the same in every step: a cell that is erased is filled again as soon as possible
        let key = DrawKey { step: 0, ..view.key };
        let time = |at| (key.uniform(Purpose::Fill, at) * times) as u32;
        let now = view.filled.iter().map(|cell| time(cell.at)).max();
        let is_later = |time: &u32| now.is_none_or(|now| *time > now);
        let next = view.proposals.iter().map(|blank| time(blank.at)).filter(is_later).min().unwrap_or(u32::MAX);
        view.proposals.iter().filter(|blank| time(blank.at) <= next).map(Proposal::fill).collect()
    },
    ..Rule::NONE
};

/// All blanks, the most confident first; ties go to the left.
fn by_confidence(view: &View<'_>) -> Vec<Proposal> {
    let mut sorted = view.proposals.to_vec();
    sorted.sort_by_key(|proposal| Reverse(proposal.confidence));
    sorted
}

/// The most confident of some blanks, the leftmost of several.
fn most_confident(blanks: &[Proposal]) -> Option<Proposal> {
    blanks.iter().copied().rev().max_by_key(|blank| blank.confidence)
}

/// Fills of the blanks that are ready, and of the most confident one.
pub(super) fn with_best(view: &View<'_>, is_ready: impl Fn(&&Proposal) -> bool) -> Vec<Edit> {
    let best = most_confident(view.proposals).map(|best| best.at);
    view.proposals.iter().filter(|blank| is_ready(blank) || best == Some(blank.at)).map(Proposal::fill).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rule::FilledCell;
    use super::*;
    use crate::diffusion::random::Seed;
    use crate::diffusion::units::{Position, TokenId};
    use std::collections::BTreeMap;

    /// Blanks at positions with confidences; the entropies are the confidences.
    fn filled(choice: Choice, blanks: &[(u32, f32)]) -> Vec<u32> {
        let proposal = |(at, number): &(u32, f32)| Proposal {
            at: Position(*at),
            token: TokenId(*at),
            confidence: Probability::new(*number).unwrap(),
            margin: Probability::ONE,
            entropy: *number,
        };
        let proposals: Vec<_> = blanks.iter().map(proposal).collect();
        let view = View::of(&proposals, &[], DrawKey { seed: Seed(0), step: 0 });
        let mut filled: Vec<u32> = choice.with_defaults(1).decide(view).iter().map(|fill| fill.at().0).collect();
        filled.sort_unstable();
        filled
    }

    #[test]
    fn a_factor_takes_the_longest_prefix_that_bears_it() {
        let factor = |factor: f32, blanks: &[(u32, f32)]| filled(Choice::of(&FACTOR).with("factor", factor), blanks);
        let blanks = [(0, 0.1), (1, 0.9), (2, 0.7), (3, 0.3), (4, 0.2)];
        assert_eq!(factor(0.0, &blanks), [1]); // the best, whatever its confidence
        assert_eq!(factor(0.95, &blanks), [1, 2]); // 0.7 >= 1 - 0.95 / 3, 0.3 < 1 - 0.95 / 4
        assert_eq!(factor(2.85, &blanks), [1, 2, 3]); // 0.3 >= 1 - 2.85 / 4, 0.2 < 1 - 2.85 / 5
        assert_eq!(factor(4.0, &blanks), [0, 1, 2, 3, 4]); // the last one fails, and is alone
        assert_eq!(factor(0.0, &blanks[..2]), [0, 1]); // so it is with two blanks
    }

    #[test]
    fn an_entropy_bound_leaves_the_last_one_out_of_the_sum() {
        let bound =
            |bound: f32, blanks: &[(u32, f32)]| filled(Choice::of(&ENTROPY_BOUND).with("entropy_bound", bound), blanks);
        let blanks = [(0, 0.5), (1, 0.25), (2, 0.125), (3, 1.0)];
        assert_eq!(bound(0.0, &blanks), [2]);
        assert_eq!(bound(0.124, &blanks), [2]);
        assert_eq!(bound(0.125, &blanks), [1, 2]);
        assert_eq!(bound(0.375, &blanks), [0, 1, 2]);
        assert_eq!(bound(0.875, &blanks), [0, 1, 2, 3]);
    }

    /// Four blanks and three times: every way to share them out, and how often it comes.
    #[test]
    fn ancestral_times_are_drawn_evenly_and_empty_ones_take_no_step() {
        const DRAWS: u64 = 20_000;
        let choice = Choice::of(&ANCESTRAL).with("ancestral", 3);
        let groups = |seed: u64| {
            let key = |step| DrawKey { seed: Seed(seed), step };
            let (mut blanks, mut filled, mut groups) = ((0..4).map(blank).collect::<Vec<_>>(), Vec::new(), Vec::new());
            while !blanks.is_empty() {
                let view = View::of(&blanks, &filled, key(groups.len() as u32));
                let group: Vec<u32> = choice.decide(view).iter().map(|fill| fill.at().0).collect();
                filled.extend(group.iter().map(|at| cell(*at)));
                blanks.retain(|blank| !group.contains(&blank.at.0));
                groups.push(group);
            }
            groups
        };
        let mut expected: BTreeMap<Vec<Vec<u32>>, f64> = BTreeMap::new();
        for code in 0..81u32 {
            let at_time = |time: u32| (0..4).filter(|at| code / 3u32.pow(*at) % 3 == time).collect::<Vec<_>>();
            let groups = (0..3).map(at_time).filter(|group| !group.is_empty()).collect();
            *expected.entry(groups).or_default() += DRAWS as f64 / 81.0;
        }
        let mut counts: BTreeMap<_, f64> = BTreeMap::new();
        (0..DRAWS).for_each(|seed| *counts.entry(groups(seed)).or_default() += 1.0);
        let distance = |(way, expected): (&Vec<Vec<u32>>, &f64)| {
            (counts.get(way).copied().unwrap_or_default() - expected).powi(2) / expected
        };
        let chi2: f64 = expected.iter().map(distance).sum();
        assert_eq!(counts.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        // 50 degrees of freedom exceed 93 once in ten thousand times
        assert!(expected.len() == 51 && chi2 < 93.0, "{} ways, {chi2}", expected.len());
        // who was erased does not hold up the others
        let first = groups(1)[0].clone();
        let again: Vec<_> = first.iter().map(|at| blank(*at)).chain((4..8).map(blank)).collect();
        let filled = choice.decide(View::of(&again, &[cell(first[0])], DrawKey { seed: Seed(1), step: 5 }));
        assert!(first.iter().all(|at| filled.iter().any(|fill| fill.at().0 == *at)), "{filled:?}");
    }

    fn blank(at: u32) -> Proposal {
        let (confidence, margin) = (Probability::ONE, Probability::ONE);
        Proposal { at: Position(at), token: TokenId(at), confidence, margin, entropy: 0.0 }
    }

    fn cell(at: u32) -> FilledCell {
        let (token, confidence) = (TokenId(at), Probability::ONE);
        FilledCell {
            at: Position(at),
            token,
            confidence,
            age: 1,
            quality: None,
            present: None,
            best: None,
            memory: 0.0,
        }
    }

    #[test]
    fn a_leap_reaches_from_confident_blanks_to_those_near_them() {
        let leap = |blanks: &[(u32, f32)]| {
            filled(Choice::of(&LEAP).with("leap", 0.9).with("leap_near", 0.7).with("leap_distance", 2), blanks)
        };
        // 3 and 7 are two cells from the anchor at 5; 2 and 8 are three away; 6 is not confident
        assert_eq!(leap(&[(2, 0.8), (3, 0.7), (5, 0.9), (6, 0.6), (7, 0.89), (8, 0.8)]), [3, 5, 7]);
        assert_eq!(leap(&[(0, 0.8), (1, 0.85), (2, 0.85)]), [1]); // no anchor: the best, the leftmost
    }

    #[test]
    fn the_best_of_every_gap_is_filled() {
        let gaps = |blanks: &[(u32, f32)]| filled(Choice::of(&HIERARCHICAL).with("hierarchical", 0.4), blanks);
        let blanks = [(0, 0.3), (1, 0.5), (2, 0.45), (4, 0.4), (6, 0.95), (7, 0.92), (9, 0.6)];
        assert_eq!(gaps(&blanks), [1, 6, 7, 9]);
        assert_eq!(gaps(&[(0, 0.1), (1, 0.3), (5, 0.3)]), [1]);
    }
}
