//! How many cells a step fills and may erase or replace. Counts only: which cells they are is
//! decided by the rules in `policy`.
//!
//! The laws, tested over all small inputs: fills made = blanks at the start + erasures made;
//! nothing is erased on a block's last step; a finished block has no blanks; erasures and
//! replacements together never exceed the budget. The published PRISM sampler plans erasures that
//! its last steps cannot refill, and drops those blanks. This one counts the erasures really made
//! and spreads the blanks left over the steps left.

use super::policy::{Correcting, Count, Pace, Policy, Stretch};
use super::room::Room;
use super::shares::{Hold, filled_after, planned_changes};

/// Steps that proofreading needs to change anything: one to erase, one to write.
const ROUND: u32 = 2;

/// The place of one block in its schedule.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pace: BlockPace,
    budget: u32,
    count: Count,
    window: Stretch,
    hold: Option<Hold>,
    correcting: Option<Correcting>,
    blanks_at_start: u32,
    phase: Phase,
    /// Counted from the phase's start.
    step: u32,
    /// Those of the steps that were not taken, or not on this schedule.
    skipped: u32,
    /// Erasures and replacements made.
    changed: u32,
    proofreading_steps: u32,
    /// Rounds of proofreading that erased something.
    rounds: u32,
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
        let hold = match pace {
            BlockPace::Steps(steps) => policy.remasking.hold().and_then(|part| Hold::new(part, steps, blanks)),
            BlockPace::Adaptive { .. } => None,
        };
        Self {
            pace,
            hold,
            budget: policy.remasking.budget(),
            count: policy.remasking.rule.count,
            window: policy.remasking.window(),
            correcting: policy.remasking.correcting(),
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
            hold: None,
            correcting: None,
            blanks_at_start: 0,
            phase: Phase::Proofreading,
            step: 0,
            skipped: 0,
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
            Phase::Filling => {
                // a step fills at least one blank, and each erasure makes one, but in a hold
                let taken = self.step - self.skipped;
                let edits_max = self.blanks_at_start.saturating_add(self.budget).saturating_sub(taken).max(1);
                let edits_max = if self.hold.is_some() { u32::MAX } else { edits_max };
                self.steps_left().unwrap_or(u32::MAX).min(edits_max)
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

    /// Passes over a working copy that this step takes at most, after the one over the canvas; 0 if
    /// it does not correct.
    pub(super) fn corrector_passes(&self) -> u32 {
        let is_due = |correcting: &Correcting| (self.step + 1).is_multiple_of(correcting.every);
        let correcting = self.correcting.filter(|_| self.phase == Phase::Filling).filter(is_due);
        correcting.map_or(0, |correcting| correcting.passes)
    }

    /// The same for all steps that are left until the block is full.
    pub(super) fn corrector_passes_left(&self) -> u64 {
        let Some(Correcting { every, passes }) = self.correcting else { return 0 };
        let [first, end] = [self.step, self.step.saturating_add(self.fill_steps())];
        u64::from(end / every - first / every) * u64::from(passes)
    }

    /// So many steps are not taken, or steps of another plan were taken in their place.
    pub(super) fn skip(&mut self, steps: u32) {
        self.step += steps;
        self.skipped += steps;
    }

    /// Whether a step that changes nothing may be skipped: one of a block with a hold, or with more
    /// steps than cells, in which steps need not fill anything.
    pub(super) fn may_skip(&self) -> bool {
        (self.hold.is_some() || self.count == Count::Ranked) && self.phase == Phase::Filling
    }

    /// Blanks that this step leaves of `blanks`, of which the pace's rule fills `ready`, where the
    /// remasking ranks the cells.
    pub(super) fn leaves(&self, blanks: u32, ready: u32) -> Option<u32> {
        let is_ranked = self.count == Count::Ranked && self.phase == Phase::Filling;
        is_ranked.then(|| match self.pace {
            BlockPace::Steps(steps) => self.blanks_at_start - filled_after(self.blanks_at_start, steps, self.step),
            BlockPace::Adaptive { .. } => blanks - self.fills(blanks, ready, 0),
        })
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
        match self.count {
            Count::Replacements => return Room { changes: u32::MAX, erasures: 0 },
            Count::Ranked => return Room { changes: 0, erasures: 0 },
            Count::Planned | Count::Own => {}
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
            (BlockPace::Steps(_) | BlockPace::Adaptive { .. }, Count::Own | Count::Replacements | Count::Ranked) => {
                left
            }
        };
        // a replaced cell is not blank: only erasures have to be filled again
        let erasures = match (self.pace, self.count) {
            _ if is_last => 0,
            (BlockPace::Steps(_), Count::Planned) if self.hold.is_none() => changes,
            // no more than can be filled again: the step ends with as many blanks as planned
            (BlockPace::Steps(_), _) => changes.min(blanks - fills),
            // never more than are filled, so that an unbounded run moves forward until its budget
            // is spent
            (BlockPace::Adaptive { .. }, _) => changes.min(fills),
        };
        Room { changes, erasures }
    }

    /// Blanks this step fills, with `blanks` blanks of which the pace's rule fills `ready`, and
    /// `erased` erasures made in the same step. At most `blanks`; at least one while there is a
    /// blank, except that a hold fills no more than was erased. What proofreading erases is written
    /// again one cell a step, as far as its steps allow, before anything else is erased.
    pub(super) fn fills(&self, blanks: u32, ready: u32, erased: u32) -> u32 {
        let share = self.share(blanks);
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
                (self.phase, self.step, self.skipped) = (Phase::Proofreading, 0, 0);
                false
            }
            Phase::Proofreading => edits == 0 || self.proofreading_steps - self.step < ROUND,
        }
    }

    /// The even share of `blanks` blanks that this step fills, whatever it erases.
    fn share(&self, blanks: u32) -> u32 {
        match (&self.hold, self.phase, self.steps_left()) {
            (Some(hold), Phase::Filling, Some(left)) => hold.share(blanks, self.step, left),
            (_, _, left) => left.map_or(1, |left| blanks.div_ceil(left)),
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

#[cfg(test)]
mod tests {
    use super::super::policy::{
        BUDGET, CORRECT_EVERY, CORRECTOR_PASSES, Choice, HOLD, PROSECO, Proofreading, QUALITY, Rule, T2M, THRESHOLD,
        order,
    };
    use super::super::room::tests::taken;
    use super::super::units::Probability;
    use super::*;
    use std::num::NonZeroU32;

    fn policy(rule: &'static Rule, pace: Pace, budget: u32, proofreading_steps: u32) -> Policy {
        let proofreading = Some(Proofreading { steps: proofreading_steps, below: Probability::ONE, most: None });
        Policy {
            order: Choice::of(&order::LEFTMOST),
            pace,
            remasking: Choice::of(rule)
                .with(BUDGET.name, budget)
                .with(CORRECT_EVERY.name, 1 + budget % 4)
                .with(CORRECTOR_PASSES.name, 3),
            block_length: NonZeroU32::MAX,
            proofreading,
        }
    }

    /// Runs a block in which some of the filled cells (by `pattern`) may be erased or replaced, and
    /// checks the laws.
    fn check_laws(policy: &Policy, steps: Option<u32>, blanks_at_start: u32, pattern: u32) {
        let budget = policy.remasking.budget();
        let proofreading = policy.proofreading.map_or(0, |proofreading| proofreading.steps);
        let mut schedule = Schedule::new(policy, steps, blanks_at_start);
        let (mut blanks, mut fills_made, mut erasures_made, mut taken) = (blanks_at_start, 0, 0, 0);
        let (mut changes_made, mut skipped, mut is_finished) = (0, 0, false);
        let (mut corrector_passes, announced) = (0, schedule.corrector_passes_left());
        let case = format!("{policy:?} {steps:?} blanks {blanks_at_start} pattern {pattern}");
        while !is_finished {
            let filled = blanks_at_start - blanks;
            let ready = (pattern >> (taken % 8)) % (blanks + 1);
            let replaceable = if schedule.is_proofreading() { 0 } else { (pattern >> (taken % 3)) % (filled + 1) };
            let erasable = (pattern >> (taken % 5)) % (filled - replaceable + 1);
            let [replaced, erased] = self::taken(schedule.room(blanks, ready), replaceable, erasable);
            let fills = schedule.fills(blanks, ready, erased);
            if fills + replaced + erased == 0 && schedule.may_skip() {
                schedule.skip(1);
                skipped += 1;
                continue;
            }
            assert!(corrector_passes + schedule.corrector_passes_left() <= announced, "{case}");
            corrector_passes += u64::from(schedule.corrector_passes());
            assert!(fills <= blanks && (fills + replaced > 0 || blanks == 0), "{case}");
            if let (Some(part), Some(steps), Phase::Filling) = (policy.remasking.hold(), steps, schedule.phase) {
                let (step, part) = (taken + skipped, part.of_steps(steps));
                let is_held = blanks_at_start > 1 && part.contains(&step) && (1..steps - 1).contains(&step);
                assert!(!is_held || fills == erased, "the number of filled cells stands still: {case}");
                assert!(step < part.end || is_held || fills > 0, "{case}");
            } else {
                assert!(fills > 0 || blanks == 0, "{case}");
            }
            taken += 1;
            if !schedule.is_proofreading() {
                changes_made += replaced + erased;
                if steps == Some(taken + skipped) {
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
        assert!(schedule.hold.is_none() || taken <= blanks_at_start + budget + proofreading, "{case}");
        assert_eq!(fills_made, blanks_at_start + erasures_made, "{case}");
        assert!(changes_made <= budget || policy.remasking.rule.count == Count::Replacements, "{case}");
        assert!(corrector_passes <= announced, "{case}");
    }

    #[test]
    fn the_laws_hold_with_any_hold() {
        let spans = (0..8u8).flat_map(|from| (from + 1..=8).map(move |until| [from, until]));
        for (rule, span) in spans.flat_map(|span| [&QUALITY, &T2M].map(|rule| (rule, span))) {
            let span = span.map(|eighths| f32::from(eighths) / 8.0);
            for (steps, blanks, budget) in
                (1..=9).flat_map(|s| (1..=6).flat_map(move |b| [0, 1, 4, 9].map(|r| (s, b, r))))
            {
                let policy = policy(rule, Pace::Steps(NonZeroU32::new(steps).unwrap()), budget, 3);
                for remasking in
                    [policy.remasking.with(HOLD.name, span), policy.remasking.with(HOLD.name, span).with_defaults(9)]
                {
                    for pattern in (0..256).step_by(5) {
                        check_laws(&Policy { remasking, ..policy }, Some(steps), blanks, pattern);
                    }
                }
            }
        }
    }

    #[test]
    fn the_laws_hold_over_all_small_inputs() {
        let rule = Choice::of(&THRESHOLD).with("threshold", 0.9);
        let budgets = (1..=7).flat_map(|blanks| (0..=7).map(move |budget| (blanks, budget)));
        // an even share of the budget in each step, and as many as the rule says
        for (remasking, (blanks, budget)) in budgets.flat_map(|case| [(&QUALITY, case), (&T2M, case), (&PROSECO, case)])
        {
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
