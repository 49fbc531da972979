//! Which cells: the best proposals in the policy's order, the worst of the filled cells. Refuses to know how many
//! are wanted in a step; it is told.

use super::canvas::{Canvas, Edit};
use super::policy::{Order, Remask};
use super::random::{Draws, Purpose, Seed};
use super::reading::{Proposal, Reading};
use super::units::{Position, Probability, TokenId};
use std::cmp::Reverse;
use std::ops::Range;

/// Fills the `count` blanks that come first in `order`, whatever the order those of a lower class before those of a higher.
/// What filling means in training as in serving.
#[must_use]
pub fn fills(
    order: Order,
    proposals: &[Proposal],
    class: impl Fn(&Proposal) -> u8,
    count: u32,
    (seed, step): (Seed, u32),
) -> Vec<Edit> {
    let mut ranked = ranked(order, proposals, seed, step);
    ranked.sort_by_key(class); // the sort is stable
    let first = ranked.into_iter().take(count as usize);
    first.map(|Proposal { at, token, confidence, .. }| Edit::Fill { at, token, confidence }).collect()
}

/// The proposals, first to fill first. Ties go to the left.
fn ranked(order: Order, proposals: &[Proposal], seed: Seed, step: u32) -> Vec<Proposal> {
    let mut ranked = proposals.to_vec();
    match order {
        Order::Confidence => ranked.sort_by_key(|proposal| Reverse(proposal.confidence)),
        Order::Margin => ranked.sort_by_key(|proposal| Reverse(proposal.margin)),
        Order::Entropy => ranked.sort_by(|a, b| a.entropy.total_cmp(&b.entropy)),
        Order::Random => ranked.sort_by_cached_key(|proposal| draw(seed, Purpose::Fill, step, proposal.at)),
        Order::Leftmost => ranked.sort_by_key(|proposal| proposal.at),
    }
    ranked
}

/// At most `count` erasures in `window`, the worst cell first. Ties go to the left. `confidences` has one number per cell of
/// the canvas: that with which it was filled last.
pub(super) fn erasures(
    remask: &Remask,
    (canvas, confidences): (&Canvas, &[Probability]),
    window: Range<usize>,
    reading: &Reading,
    count: u32,
    (seed, step): (Seed, u32),
) -> Vec<Edit> {
    let filled = canvas.filled(window);
    let confidence = |at: Position| confidences[at.index()];
    let mut edits: Vec<Edit> = match remask {
        Remask::Never => Vec::new(),
        Remask::Quality { below, .. } => doubtful(filled, reading, *below),
        Remask::Confidence { below, .. } => {
            let doubted = filled.filter(|(at, _)| below.is_none_or(|below| confidence(*at) < below));
            sorted(doubted, |at| (confidence(at), at))
        }
        // an exponential clock of rate exp(-confidence) for each; the first to ring are a draw without replacement, each with a
        // chance proportional to its rate
        Remask::ReMdm { .. } => sorted(filled, |at| {
            let rings =
                -Draws::new(seed, Purpose::Erase, step, at).first().ln() * f64::from(confidence(at).get()).exp();
            rings.to_bits() // of a positive number, hence in its order
        }),
        Remask::Random { .. } => sorted(filled, |at| draw(seed, Purpose::Erase, step, at)),
    };
    edits.truncate(count as usize);
    edits
}

/// Erasures of all cells, smallest key first.
fn sorted<K: Ord>(filled: impl Iterator<Item = (Position, TokenId)>, key: impl Fn(Position) -> K) -> Vec<Edit> {
    let mut cells: Vec<_> = filled.collect();
    cells.sort_by_cached_key(|&(at, _)| key(at));
    cells.into_iter().map(|(at, was)| Edit::Erase { at, was, quality: None }).collect()
}

/// Erasures of the reviewed cells whose quality is below `below`, lowest quality first.
fn doubtful(
    filled: impl Iterator<Item = (Position, TokenId)>,
    reading: &Reading,
    below: Option<Probability>,
) -> Vec<Edit> {
    let mut reviews = reading.reviews.iter().peekable();
    let mut judged: Vec<(Probability, Position, TokenId)> = filled
        .filter_map(|(at, was)| {
            while reviews.next_if(|review| review.at < at).is_some() {}
            reviews.next_if(|review| review.at == at).map(|review| (review.quality, at, was))
        })
        .filter(|(quality, ..)| below.is_none_or(|below| *quality < below))
        .collect();
    judged.sort_by_key(|&(quality, at, _)| (quality, at));
    judged.into_iter().map(|(quality, at, was)| Edit::Erase { at, was, quality: Some(quality) }).collect()
}

/// A uniform draw as a sortable number: the bits of a positive float are in its order.
fn draw(seed: Seed, purpose: Purpose, step: u32, at: Position) -> u64 {
    Draws::new(seed, purpose, step, at).first().to_bits()
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Cell;
    use super::super::policy::Stretch;
    use super::*;

    fn proposal(at: u32, confidence: f32, margin: f32, entropy: f32) -> Proposal {
        let [confidence, margin] = [confidence, margin].map(|p| Probability::new(p).unwrap());
        Proposal { at: Position(at), token: TokenId(at), confidence, margin, entropy }
    }

    fn check(order: Order, expected: [u32; 4]) {
        let proposals = [
            proposal(0, 0.5, 0.3, 0.9),
            proposal(1, 0.7, 0.1, 0.8),
            proposal(2, 0.5, 0.2, 0.2),
            proposal(3, 0.9, 0.3, 0.9),
        ];
        let ranked = ranked(order, &proposals, Seed(1), 0);
        assert_eq!(ranked.iter().map(|proposal| proposal.at.0).collect::<Vec<_>>(), expected, "{order:?}");
    }

    #[test]
    fn each_order_ranks_by_its_own_number_and_ties_go_left() {
        check(Order::Confidence, [3, 1, 0, 2]);
        check(Order::Margin, [0, 3, 2, 1]);
        check(Order::Entropy, [2, 1, 0, 3]);
        check(Order::Leftmost, [0, 1, 2, 3]);
    }

    #[test]
    fn random_order_is_a_fresh_permutation_each_step() {
        let proposals: Vec<_> = (0..12).map(|at| proposal(at, 0.5, 0.5, 0.5)).collect();
        let order = |step| ranked(Order::Random, &proposals, Seed(3), step);
        assert_ne!(order(0), order(1));
        assert_eq!(order(0), order(0));
        let mut sorted = order(0);
        sorted.sort_by_key(|proposal| proposal.at);
        assert_eq!(sorted, proposals);
    }

    #[test]
    fn remdm_sooner_erases_what_was_filled_with_little_confidence() {
        const DRAWS: u64 = 20_000;
        let canvas = Canvas::new((0..4).map(|id| Cell::Filled(TokenId(id))).collect());
        let confidences = [0.1, 0.5, 0.9, 1.0].map(|confidence| Probability::new(confidence).unwrap());
        let remask = Remask::ReMdm { budget: 1, window: Stretch::WHOLE };
        let mut counts = [0u32; 4];
        for seed in 0..DRAWS {
            let key = (Seed(seed), 0);
            let edits = erasures(&remask, (&canvas, &confidences), 0..4, &Reading::default(), 1, key);
            counts[edits[0].at().index()] += 1;
        }
        let weights = confidences.map(|confidence| f64::from(-confidence.get()).exp());
        let mass: f64 = weights.iter().sum();
        let distance = |(weight, count): (&f64, u32)| {
            #[allow(clippy::cast_precision_loss)]
            let expected = DRAWS as f64 * weight / mass;
            (f64::from(count) - expected).powi(2) / expected
        };
        let chi2: f64 = weights.iter().zip(counts).map(distance).sum();
        // 3 degrees of freedom exceed 21.1 once in ten thousand times
        assert!(chi2 < 21.1, "{chi2} {counts:?}");
    }
}
