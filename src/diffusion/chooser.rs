//! One step: the edits that a policy makes of a reading. Out of scope: the canvas, and what later
//! steps depend on.

use super::canvas::Edit;
use super::fills::{Class, fills};
use super::plan::Block;
use super::policy::{Choice, FilledCell, Pace, Policy, View};
use super::random::{DrawKey, Seed};
use super::reading::{Proposal, Reading};
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
            let view = View { shifts, scores: &reading.scores, ..View::of(&reading.proposals, filled, key) };
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
        if let Some(left) = schedule.leaves(blanks, ready) {
            return self.ranked(left, View { filled: of_block, ..view });
        }

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

    /// The edits that leave so many blanks, where the remasking ranks the cells of the block.
    fn ranked(&self, left: u32, view: View<'_>) -> Vec<Edit> {
        let mut ranking = self.policy.remasking.decide(view);
        let ranked: BTreeSet<Position> = ranking.iter().map(Edit::at).collect();
        // no blank is lost: those that the rule leaves out come last
        ranking.extend(view.proposals.iter().filter(|proposal| !ranked.contains(&proposal.at)).map(Proposal::fill));
        ranking.sort_by_key(|edit| match edit {
            Edit::Fill { token, .. } | Edit::Erase { was: token, .. } => self.postponed.contains(token),
            Edit::Replace { .. } => false,
        });
        let kept = ranking.len().saturating_sub(left as usize);
        let blanks = ranking.split_off(kept);
        let erasures = blanks.into_iter().filter(|edit| matches!(edit, Edit::Erase { .. }));
        erasures.chain(ranking.into_iter().filter(|edit| matches!(edit, Edit::Fill { .. }))).collect()
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

#[cfg(test)]
mod tests {
    use super::super::canvas::{Canvas, Cell};
    use super::super::policy::{Needs, REMEDI, Scoring, order};
    use super::super::reading::{Proposal, Score};
    use super::super::token_set::TokenSet;
    use super::super::units::Probability;
    use super::super::{Sequence, policy};
    use super::*;
    use std::num::NonZeroU32;

    /// The canvas after each step of a block of six cells in three steps: letters by their ids,
    /// `_` for a blank. The proposals are `a` to `f`; `scores` of the cells in each step.
    fn run(sequence: Sequence, scores: [[f32; 6]; 3]) -> [String; 3] {
        let mut sequence = sequence;
        scores.map(|scores| {
            let canvas = sequence.canvas().clone();
            let half = Probability::new(0.5).unwrap();
            let propose = |at: Position| {
                let token = TokenId(u32::from(b'a') + at.0);
                Proposal { at, token, confidence: half, margin: half, entropy: 1.0 }
            };
            let proposals = canvas.blanks(0..6).map(propose).collect();
            let scores = (0..6).map(Position::at).zip(scores).map(|(at, score)| Score { at, score }).collect();
            let step = sequence.advance(&Reading { proposals, scores, ..Reading::default() }).unwrap();
            assert!(step.edits.is_sorted_by_key(|edit| matches!(edit, Edit::Fill { .. })), "{step:?}");
            let letter = |cell: &Cell| cell.token().map_or('_', |token| char::from_u32(token.0).unwrap());
            sequence.canvas().cells().iter().map(letter).collect()
        })
    }

    fn sequence() -> Sequence {
        let number = |number| NonZeroU32::new(number).unwrap();
        let policy = policy::Policy {
            order: Choice::of(&order::LEFTMOST),
            pace: Pace::Steps(number(3)),
            remasking: Choice::of(&REMEDI),
            block_length: number(6),
            proofreading: None,
        };
        assert_eq!(policy.needs(), Needs { quality: true, ..Needs::score(Scoring::Quality) });
        Sequence::new(Canvas::continuing(&[], 6), policy, Seed(0)).unwrap()
    }

    #[test]
    fn each_step_keeps_the_best_cells_and_blanks_the_others() {
        let rising = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let falling = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
        assert_eq!(run(sequence(), [rising, rising, rising]), ["____ef", "__cdef", "abcdef"]);
        assert_eq!(run(sequence(), [rising, falling, rising]), ["____ef", "abcd__", "abcdef"]);
        assert_eq!(run(sequence(), [[0.0; 6]; 3]), ["ab____", "abcd__", "abcdef"], "ties go to the left");
    }

    #[test]
    fn a_token_that_is_postponed_comes_last_and_one_that_is_not_judged_stays() {
        let (rising, falling) = ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
        let postponing = sequence().postponing(vec![TokenId(u32::from(b'f'))]);
        assert_eq!(run(postponing, [rising, rising, rising]), ["___de_", "_bcde_", "abcdef"]);
        let judged: TokenSet = "97-101".parse().unwrap(); // not f
        assert_eq!(run(sequence().judging(Some(judged)), [rising, falling, rising]), ["____ef", "abc__f", "abcdef"]);
    }

    #[test]
    fn a_blank_without_a_score_is_filled_at_the_latest_in_the_last_step() {
        let mut sequence = sequence();
        for step in 0..3 {
            let half = Probability::new(0.5).unwrap();
            let propose = |at| Proposal { at, token: TokenId(7), confidence: half, margin: half, entropy: 1.0 };
            let proposals = sequence.canvas().blanks(0..6).map(propose).collect();
            sequence.advance(&Reading { proposals, ..Reading::default() }).unwrap();
            assert_eq!(sequence.canvas().blanks(0..6).count(), 4 - 2 * step, "{step}");
        }
        assert_eq!(sequence.window(), None);
    }
}
