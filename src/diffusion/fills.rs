//! Which blanks a step fills, of those that it may fill. Out of scope: how many they are.

use super::canvas::Edit;
use super::policy::{Choice, View};
use super::random::DrawKey;
use super::reading::Proposal;
use super::units::Position;
use std::collections::BTreeSet;

/// Classes of fills, the first to be made first, whatever the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// The pace's rule fills it in this step.
    AtOnce,
    /// It waits for its turn in the order.
    InTurn,
    /// Its token is filled in only where nothing else is left.
    Postponed,
}

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
