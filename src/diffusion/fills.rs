//! The fills of a step: the first blanks in an order.

use super::canvas::Edit;
use super::policy::{Choice, View};
use super::random::DrawKey;
use super::reading::Proposal;
use super::units::Position;
use std::collections::BTreeSet;

/// Fills of the first `count` blanks in `order`; fills of a lower class come before all of a higher
/// one. Training fills blanks in the same way.
pub fn fills<C: Ord>(
    order: &Choice,
    proposals: &[Proposal],
    class: impl Fn(&Edit) -> C,
    count: u32,
    key: DrawKey,
) -> Vec<Edit> {
    if count == 0 {
        return Vec::new();
    }
    let mut fills = order.decide(View::of(proposals, &[], key));
    if fills.len() < proposals.len() {
        // no blank is lost: those that the order leaves out come last
        let ranked: BTreeSet<Position> = fills.iter().map(Edit::at).collect();
        fills.extend(proposals.iter().filter(|proposal| !ranked.contains(&proposal.at)).map(Proposal::fill));
    }
    fills.sort_by_key(class); // the sort is stable
    fills.truncate(count as usize);
    fills
}
