//! One step: the edits that a policy makes of a reading. Out of scope: the canvas, and what later
//! steps depend on.

use super::canvas::Edit;
use super::fills::{Class, fills};
use super::plan::Block;
use super::policy::{Choice, FilledCell, Pace, Policy, View};
use super::random::{DrawKey, Seed};
use super::reading::Reading;
use super::room::Room;
use super::schedule::Schedule;
use super::units::{Position, TokenId, u32_of};
use std::collections::BTreeSet;

/// Steps that one pass skips at most, so that a hold of many steps does not keep other requests
/// waiting. A step more than that is taken without an edit.
const SKIPPED_MAX: u32 = 1 << 10;

/// What decides the edits of a step.
pub(super) struct Chooser<'a> {
    pub(super) policy: &'a Policy,
    /// Tokens that are filled in only where nothing else is left.
    pub(super) postponed: &'a [TokenId],
    pub(super) seed: Seed,
    pub(super) step: u32,
}

impl Chooser<'_> {
    /// The edits of the next step that makes any, those of filled cells first, and how many steps
    /// were skipped before it. The canvas stays as it is in those, so the reading serves them all.
    pub(super) fn choose(
        &self,
        block: &Block,
        reading: &Reading,
        shifts: &[f32],
        filled: &[FilledCell],
    ) -> (Vec<Edit>, u32) {
        let of_block = &filled[filled.partition_point(|cell| cell.at.index() < block.range.start)..];
        let mut schedule = block.schedule.clone();
        let mut skipped = 0;
        loop {
            // each skipped step draws anew; the passes of a run are fewer than 2^17
            let key = DrawKey { seed: self.seed, step: self.step.wrapping_add(skipped << 17) };
            let view = View { shifts, ..View::of(&reading.proposals, filled, key) };
            let edits = self.edits(&schedule, view, of_block);
            if !edits.is_empty() || !schedule.may_skip() || skipped == SKIPPED_MAX {
                return (edits, skipped);
            }
            schedule.skip(1);
            skipped += 1;
        }
    }

    /// The edits of one step, those of filled cells first. A pace sees the filled cells of the
    /// block alone.
    fn edits(&self, schedule: &Schedule, view: View<'_>, of_block: &[FilledCell]) -> Vec<Edit> {
        let blanks = count(view.proposals.iter());
        let at_once = match self.policy.pace {
            Pace::Adaptive { rule, .. } if schedule.is_adaptive() => rule.decide(View { filled: of_block, ..view }),
            Pace::Adaptive { .. } | Pace::Steps(_) => Vec::new(),
        };
        let places: BTreeSet<Position> = at_once.iter().map(Edit::at).collect();
        let class = |fill: &Edit| match fill {
            Edit::Fill { token, .. } if self.postponed.contains(token) => Class::Postponed,
            fill if places.contains(&fill.at()) => Class::AtOnce,
            _ => Class::InTurn,
        };
        let ready = count(at_once.iter().filter(|fill| class(fill) == Class::AtOnce));

        let remasking = self.remasking(schedule, view.filled, schedule.room(blanks, ready));
        let mut edits = remasking.map_or_else(Vec::new, |(rule, mut room)| {
            let due = schedule.fills(blanks, ready, 0);
            let mut changes = rule.decide(View { due, blanks_at_start: schedule.blanks_at_start(), ..view });
            changes.retain(|edit| room.take(edit));
            changes
        });
        let erased = count(edits.iter().filter(|edit| matches!(edit, Edit::Erase { .. })));
        let fills_max = schedule.fills(blanks, ready, erased);
        edits.extend(fills(&self.policy.order, view.proposals, class, fills_max, view.key));
        edits
    }

    /// What erases or replaces in this step, if anything: the policy's remasking, or a round of
    /// proofreading. And how many cells at most, where the schedule has this room.
    fn remasking(&self, schedule: &Schedule, filled: &[FilledCell], room: Room) -> Option<(Choice, Room)> {
        match self.policy.proofreading {
            _ if room.changes == 0 => None,
            Some(proofreading) if schedule.is_proofreading() => {
                let changes = proofreading.most.map_or(room.changes, |limit| room.changes.min(limit.get()));
                proofreading.remasking(schedule.rounds(), filled).map(|rule| (rule, Room { changes, ..room }))
            }
            Some(_) | None => Some((self.policy.remasking, room)),
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32_of(items.count())
}
