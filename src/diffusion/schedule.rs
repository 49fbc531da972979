//! How many cells a step fills and may erase or replace. Counts only: which cells they are is
//! decided by the rules in `policy`.
//!
//! The laws, tested over all small inputs: fills made = blanks at the start + erasures made;
//! nothing is erased on a block's last step; a finished block has no blanks; erasures and
//! replacements together never exceed the budget. The published PRISM sampler plans erasures that
//! its last steps cannot refill, and drops those blanks. This one counts the erasures really made
//! and spreads the blanks left over the steps left.

use super::canvas::Edit;
use super::policy::{Count, Pace, Policy, Stretch};

/// Steps that proofreading needs to change anything: one to erase, one to write.
const ROUND: u32 = 2;

/// The place of one block in its schedule.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pace: BlockPace,
    budget: u32,
    count: Count,
    window: Stretch,
    blanks_at_start: u32,
    phase: Phase,
    /// Counted from the phase's start.
    step: u32,
    /// Erasures and replacements made.
    changed: u32,
    proofreading_steps: u32,
    /// Rounds of proofreading that erased something.
    rounds: u32,
}

/// The changes of filled cells that a step may still make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Erasures and replacements together.
    pub(super) changes: u32,
    /// Erasures among them.
    pub(super) erasures: u32,
}

impl Room {
    /// Whether there is room for this edit, which is then taken. A fill is no change of a filled
    /// cell.
    pub(super) fn take(&mut self, edit: &Edit) -> bool {
        let erasures = match edit {
            Edit::Erase { .. } => self.erasures.checked_sub(1),
            Edit::Replace { .. } => Some(self.erasures),
            Edit::Fill { .. } => None,
        };
        let left = self.changes.checked_sub(1).zip(erasures);
        *self = left.map_or(*self, |(changes, erasures)| Self { changes, erasures });
        left.is_some()
    }
}

/// Phase of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Filling,
    Proofreading,
}

/// A run's pace, as one block keeps it.
#[derive(Clone, Copy, Debug)]
enum BlockPace {
    Steps(u32),
    Adaptive { steps_max: Option<u32> },
}

impl Schedule {
    /// The schedule of a block with `blanks` blanks and `steps` steps of its own (`None` without a
    /// bound, which only `Pace::Adaptive` allows).
    pub(super) fn new(policy: &Policy, steps: Option<u32>, blanks: u32) -> Self {
        let pace = match policy.pace {
            Pace::Steps(all) => BlockPace::Steps(steps.unwrap_or(all.get())),
            Pace::Adaptive { .. } => BlockPace::Adaptive { steps_max: steps },
        };
        Self {
            pace,
            budget: policy.remasking.budget(),
            count: policy.remasking.rule.count,
            window: policy.remasking.window(),
            blanks_at_start: blanks,
            phase: Phase::Filling,
            ..Self::proofreading(policy.proofreading.map_or(0, |proofreading| proofreading.steps))
        }
    }

    /// The schedule of a block that is full already, and is proofread in at most `steps` steps.
    pub(super) fn proofreading(steps: u32) -> Self {
        Self {
            pace: BlockPace::Steps(0),
            budget: 0,
            count: Count::Planned,
            window: Stretch::WHOLE,
            blanks_at_start: 0,
            phase: Phase::Proofreading,
            step: 0,
            changed: 0,
            proofreading_steps: steps,
            rounds: 0,
        }
    }

    /// The schedule of a block with `blanks` blanks left that has to be finished in `steps` steps:
    /// nothing is erased any more.
    pub(super) fn shortened(steps: u32, blanks: u32) -> Self {
        let phase = Phase::Filling;
        Self { pace: BlockPace::Steps(steps), blanks_at_start: blanks, phase, ..Self::proofreading(0) }
    }

    /// Steps until the block is full at the latest; in a block that is proofread, none.
    pub(super) fn fill_steps(&self) -> u32 {
        match self.phase {
            // a step fills at least one blank, and each erasure makes one
            Phase::Filling => {
                self.steps_left().unwrap_or(u32::MAX).min(self.blanks_at_start.saturating_add(self.budget))
            }
            Phase::Proofreading => 0,
        }
    }

    /// Steps that proofread the block at most, once it is full.
    pub(super) fn proofread_steps(&self) -> u32 {
        match self.phase {
            Phase::Filling if self.proofreading_steps >= ROUND => self.proofreading_steps,
            Phase::Filling => 0,
            Phase::Proofreading => self.steps_left().unwrap_or(0),
        }
    }

    /// A step of another plan was taken in place of one of this schedule's.
    pub(super) fn skip(&mut self) {
        self.step += 1;
    }

    /// Whether the block has been full, and is now proofread.
    pub(super) fn is_proofreading(&self) -> bool {
        self.phase == Phase::Proofreading
    }

    /// Rounds of proofreading that have erased something.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Blanks that the block began with.
    pub(super) fn blanks_at_start(&self) -> u32 {
        self.blanks_at_start
    }

    /// Whether the pace's rule chooses how many blanks are filled.
    pub(super) fn is_adaptive(&self) -> bool {
        matches!(self.pace, BlockPace::Adaptive { .. })
    }

    /// Erasures and replacements this step may make, with `blanks` blanks of which the pace's rule
    /// fills `ready`.
    pub(super) fn room(&self, blanks: u32, ready: u32) -> Room {
        let is_last = self.steps_left() == Some(1);
        if self.is_proofreading() {
            let changes = if is_last || blanks > 0 { 0 } else { u32::MAX };
            return Room { changes, erasures: changes };
        }
        let fills = self.fills(blanks, ready, 0);
        let is_inside = match self.pace {
            BlockPace::Steps(steps) => self.window.of_steps(steps).contains(&self.step),
            BlockPace::Adaptive { .. } => self.window.contains(self.progress(blanks)),
        };
        let left = if is_inside { self.budget - self.changed } else { 0 };
        let changes = match (self.pace, self.count) {
            (BlockPace::Steps(steps), Count::Planned) => {
                planned_changes(self.budget, self.window.of_steps(steps), self.step)
            }
            (BlockPace::Adaptive { .. }, Count::Planned) => fills.min(left),
            (BlockPace::Steps(_) | BlockPace::Adaptive { .. }, Count::Own) => left,
        };
        // a replaced cell is not blank: only erasures have to be filled again
        let erasures = match (self.pace, self.count) {
            _ if is_last => 0,
            (BlockPace::Steps(_), Count::Planned) => changes,
            // no more than can be filled again: the step ends with as many blanks as planned
            (BlockPace::Steps(_), Count::Own) => changes.min(blanks - fills),
            // never more than are filled, so that an unbounded run moves forward until its budget
            // is spent
            (BlockPace::Adaptive { .. }, Count::Planned | Count::Own) => changes.min(fills),
        };
        Room { changes, erasures }
    }

    /// Blanks this step fills, with `blanks` blanks of which the pace's rule fills `ready`, and
    /// `erased` erasures made in the same step. At least one while there is a blank, at most
    /// `blanks`. What proofreading erases is written again one cell a step, as far as its steps
    /// allow, before anything else is erased.
    pub(super) fn fills(&self, blanks: u32, ready: u32, erased: u32) -> u32 {
        let share = self.steps_left().map_or(1, |left| blanks.div_ceil(left));
        let fills = match self.pace {
            BlockPace::Steps(_) if self.is_proofreading() => share,
            BlockPace::Steps(_) => share + erased,
            BlockPace::Adaptive { .. } => share.max(ready),
        };
        fills.min(blanks)
    }

    /// Records a step that made `edits` edits, `changed` of them erasures and replacements, and
    /// left `blanks` blanks. Returns whether the block is finished.
    pub(super) fn advance(&mut self, edits: u32, changed: u32, blanks: u32) -> bool {
        self.step += 1;
        self.changed += changed;
        self.rounds += u32::from(self.is_proofreading() && changed > 0);
        match self.phase {
            Phase::Filling | Phase::Proofreading if blanks > 0 => false,
            Phase::Filling if self.proofreading_steps < ROUND => true,
            Phase::Filling => {
                (self.phase, self.step) = (Phase::Proofreading, 0);
                false
            }
            Phase::Proofreading => edits == 0 || self.proofreading_steps - self.step < ROUND,
        }
    }

    /// Steps left, this one included and at least one; `None` without a bound.
    fn steps_left(&self) -> Option<u32> {
        let steps = match self.pace {
            BlockPace::Steps(_) | BlockPace::Adaptive { .. } if self.is_proofreading() => Some(self.proofreading_steps),
            BlockPace::Steps(steps) => Some(steps),
            BlockPace::Adaptive { steps_max } => steps_max,
        };
        steps.map(|steps| steps.saturating_sub(self.step).max(1))
    }

    fn progress(&self, blanks: u32) -> f32 {
        1.0 - blanks as f32 / self.blanks_at_start.max(1) as f32
    }
}

/// Changes planned for step `step` when `budget` is spread over the steps of `window`: an even
/// share each, the remainder at the steps nearest the middle, ties to the earlier (PRISM's
/// published LLaDA sampler).
fn planned_changes(budget: u32, window: std::ops::Range<u32>, step: u32) -> u32 {
    if !window.contains(&step) {
        return 0;
    }
    let (steps, step) = (window.end - window.start, step - window.start);
    let twice_from_middle = (2 * i64::from(step) - i64::from(steps - 1)).unsigned_abs();
    let nearer_steps = twice_from_middle - u64::from(2 * step + 1 < steps);
    budget / steps + u32::from(nearer_steps < u64::from(budget % steps))
}

/// Steps of each of `blocks` blocks when a run has `steps`: an even share, the remainder to the
/// first blocks.
pub(super) fn share_of_steps(steps: u32, blocks: u32) -> impl Iterator<Item = u32> {
    (0..blocks).map(move |block| steps / blocks + u32::from(block < steps % blocks))
}

#[cfg(test)]
mod tests {
    use super::super::policy::{BUDGET, Choice, Proofreading, QUALITY, Rule, T2M, THRESHOLD, order};
    use super::super::units::{Position, Probability, TokenId};
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn the_published_plan_of_erasures_is_kept() {
        let plan = |budget, steps| (0..steps).map(|j| planned_changes(budget, 0..steps, j)).collect::<Vec<_>>();
        assert_eq!(plan(3, 8), [0, 0, 1, 1, 1, 0, 0, 0]);
        assert_eq!(plan(4, 12), [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(plan(1, 3), [0, 1, 0]);
        assert_eq!(plan(7, 3), [2, 3, 2]);
        assert_eq!(plan(5, 3), [2, 2, 1]);
    }

    #[test]
    fn a_plan_spends_its_budget_inside_its_window() {
        for budget in 0..20 {
            for steps in 1..12 {
                for from in 0..steps {
                    let plan: Vec<u32> = (0..steps).map(|j| planned_changes(budget, from..steps, j)).collect();
                    assert_eq!(plan.iter().sum::<u32>(), budget);
                    assert!(plan[..from as usize].iter().all(|&erasures| erasures == 0));
                    let inside = &plan[from as usize..];
                    assert!(inside.iter().max().unwrap() - inside.iter().min().unwrap() <= 1);
                }
            }
        }
    }

    #[test]
    fn steps_are_shared_evenly_the_first_blocks_taking_the_remainder() {
        assert_eq!(share_of_steps(8, 3).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!(share_of_steps(2, 2).collect::<Vec<_>>(), [1, 1]);
    }

    fn policy(rule: &'static Rule, pace: Pace, budget: u32, proofreading_steps: u32) -> Policy {
        let proofreading = Some(Proofreading { steps: proofreading_steps, below: Probability::ONE, most: None });
        Policy {
            order: Choice::of(&order::LEFTMOST),
            pace,
            remasking: Choice::of(rule).with(BUDGET.name, budget),
            block_length: NonZeroU32::MAX,
            proofreading,
        }
    }

    /// How many of so many replacements, and then of so many erasures, there is room for.
    fn taken(mut room: Room, replacements: u32, erasures: u32) -> [u32; 2] {
        let (at, was) = (Position(0), TokenId(0));
        let replace = Edit::Replace { at, was, token: TokenId(1), confidence: Probability::ONE };
        let erase = Edit::Erase { at, was, quality: None };
        [(replacements, replace), (erasures, erase)]
            .map(|(count, edit)| u32::try_from((0..count).filter(|_| room.take(&edit)).count()).unwrap())
    }

    #[test]
    fn a_fill_is_no_change_of_a_filled_cell_and_erasures_have_less_room() {
        let mut room = Room { changes: 3, erasures: 1 };
        assert!(!room.take(&Edit::Fill { at: Position(0), token: TokenId(0), confidence: Probability::ONE }));
        assert_eq!(taken(room, 0, 3), [0, 1]);
        assert_eq!(taken(room, 5, 3), [3, 0]);
        assert_eq!(taken(room, 2, 3), [2, 1]);
    }

    /// Runs a block in which some of the filled cells (by `pattern`) may be erased or replaced, and
    /// checks the laws.
    fn check_laws(policy: &Policy, steps: Option<u32>, blanks_at_start: u32, pattern: u32) {
        let budget = policy.remasking.budget();
        let proofreading = policy.proofreading.map_or(0, |proofreading| proofreading.steps);
        let mut schedule = Schedule::new(policy, steps, blanks_at_start);
        let (mut blanks, mut fills_made, mut erasures_made, mut taken) = (blanks_at_start, 0, 0, 0);
        let (mut changes_made, mut is_finished) = (0, false);
        let case = format!("{policy:?} {steps:?} blanks {blanks_at_start} pattern {pattern}");
        while !is_finished {
            let filled = blanks_at_start - blanks;
            let ready = (pattern >> (taken % 8)) % (blanks + 1);
            let replaceable = if schedule.is_proofreading() { 0 } else { (pattern >> (taken % 3)) % (filled + 1) };
            let erasable = (pattern >> (taken % 5)) % (filled - replaceable + 1);
            let [replaced, erased] = self::taken(schedule.room(blanks, ready), replaceable, erasable);
            let fills = schedule.fills(blanks, ready, erased);
            assert!(fills <= blanks && (fills > 0 || blanks == 0), "{case}");
            taken += 1;
            if !schedule.is_proofreading() {
                changes_made += replaced + erased;
                if steps == Some(taken) {
                    assert_eq!(
                        (erased, fills),
                        (0, blanks),
                        "the last step erases nothing and leaves no blank: {case}"
                    );
                }
            }
            blanks = blanks - fills + erased;
            is_finished = schedule.advance(fills + replaced + erased, replaced + erased, blanks);
            assert!(!is_finished || blanks == 0 && erased == 0, "a finished block is full: {case}");
            fills_made += fills;
            erasures_made += erased;
            assert!(taken <= steps.unwrap_or(blanks_at_start + budget) + proofreading, "{case}");
        }
        assert_eq!(fills_made, blanks_at_start + erasures_made, "{case}");
        assert!(changes_made <= budget, "{case}");
    }

    #[test]
    fn the_laws_hold_over_all_small_inputs() {
        let rule = Choice::of(&THRESHOLD).with("threshold", 0.9);
        let budgets = (1..=7).flat_map(|blanks| (0..=7).map(move |budget| (blanks, budget)));
        // an even share of the budget in each step, and as many as the rule says
        for (remasking, (blanks, budget)) in budgets.flat_map(|case| [(&QUALITY, case), (&T2M, case)]) {
            for (proofreading, pattern) in [0, 1, 2, 3, 5].into_iter().flat_map(|p| (0..256).map(move |q| (p, q))) {
                let policy = |pace| policy(remasking, pace, budget, proofreading);
                for steps in 1..=9 {
                    let bound = NonZeroU32::new(steps);
                    check_laws(&policy(Pace::Steps(bound.unwrap())), Some(steps), blanks, pattern);
                    check_laws(&policy(Pace::Adaptive { rule, steps_max: bound }), Some(steps), blanks, pattern);
                }
                check_laws(&policy(Pace::Adaptive { rule, steps_max: None }), None, blanks, pattern);
            }
        }
    }
}
