//! Which cells: the best proposals in the policy's order, the worst of the filled cells. Refuses to know how many
//! are wanted in a step; it is told.

use super::canvas::{Canvas, Edit};
use super::policy::{Order, Remask};
use super::random::{Draws, Purpose, Seed};
use super::reading::{Proposal, Reading};
use super::units::{Position, Probability, TokenId};
use std::cmp::Reverse;
use std::ops::Range;

/// The proposals, first to fill first. Ties go to the left.
pub(super) fn ranked(order: Order, proposals: &[Proposal], seed: Seed, step: u32) -> Vec<Proposal> {
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

/// At most `count` erasures in `window`, the worst cell first. Ties go to the left.
pub(super) fn erasures(
    remask: &Remask,
    canvas: &Canvas,
    window: Range<usize>,
    reading: &Reading,
    count: u32,
    (seed, step): (Seed, u32),
) -> Vec<Edit> {
    let filled = canvas.filled(window);
    let mut edits: Vec<Edit> = match remask {
        Remask::Never => Vec::new(),
        Remask::Quality { below, .. } => doubtful(filled, reading, *below),
        Remask::Random { .. } => {
            let mut cells: Vec<_> = filled.collect();
            cells.sort_by_cached_key(|&(at, _)| draw(seed, Purpose::Erase, step, at));
            cells.into_iter().map(|(at, was)| Edit::Erase { at, was, quality: None }).collect()
        }
    };
    edits.truncate(count as usize);
    edits
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
}
