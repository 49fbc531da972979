//! How many cells a step fills and may erase. Counts only: which cells they are is chosen in `select`.
//!
//! The laws (all of them tested over every small input): fills made = blanks at the start + erasures made;
//! nothing is erased on a block's last step; a finished block has no blanks; no more is erased than the budget.
//! The published PRISM sampler plans erasures that its last steps cannot refill and drops those blanks; ours
//! counts the erasures really made and spreads what is left over the steps that are left.

use super::policy::{Pace, Remask, Stretch};
use super::units::Probability;

/// The place of one block in its schedule.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pace: BlockPace,
    budget: u32,
    window: Stretch,
    blanks_at_start: u32,
    step: u32,
    erased: u32,
}

/// A run's pace, as one block keeps it.
#[derive(Clone, Copy, Debug)]
enum BlockPace {
    Steps(u32),
    Threshold { threshold: Probability, steps_max: Option<u32> },
}

impl Schedule {
    /// The schedule of a block with `blanks` blanks and `steps` steps of its own (`None` without a bound, which
    /// only `Pace::Threshold` allows).
    pub(super) fn new(pace: Pace, steps: Option<u32>, remask: &Remask, blanks: u32) -> Self {
        let pace = match pace {
            Pace::Steps(all) => BlockPace::Steps(steps.unwrap_or(all.get())),
            Pace::Threshold { threshold, .. } => BlockPace::Threshold { threshold, steps_max: steps },
        };
        Self { pace, budget: remask.budget(), window: remask.window(), blanks_at_start: blanks, step: 0, erased: 0 }
    }

    /// The confidence from which a blank is filled however many that makes, if the pace has one.
    pub(super) fn threshold(&self) -> Option<Probability> {
        match self.pace {
            BlockPace::Steps(_) => None,
            BlockPace::Threshold { threshold, .. } => Some(threshold),
        }
    }

    /// Erasures this step may make, with `blanks` blanks of which `ready` reach the threshold.
    pub(super) fn erasures_max(&self, blanks: u32, ready: u32) -> u32 {
        if self.steps_left() == Some(1) {
            return 0;
        }
        match self.pace {
            BlockPace::Steps(steps) => planned_erasures(self.budget, self.window.of_steps(steps), self.step),
            // never more than are filled, so that an unbounded run moves forward until its budget is spent
            BlockPace::Threshold { .. } if self.window.contains(self.progress(blanks)) => {
                self.fills(blanks, ready, 0).min(self.budget - self.erased)
            }
            BlockPace::Threshold { .. } => 0,
        }
    }

    /// Blanks this step fills, with `blanks` blanks of which `ready` reach the threshold, and `erased` erasures
    /// made in the same step. At least one while there is a blank, at most `blanks`.
    pub(super) fn fills(&self, blanks: u32, ready: u32, erased: u32) -> u32 {
        let share = self.steps_left().map_or(1, |left| blanks.div_ceil(left));
        let fills = match self.pace {
            BlockPace::Steps(_) => share + erased,
            BlockPace::Threshold { .. } => share.max(ready),
        };
        fills.min(blanks)
    }

    /// Records a step that made `erased` erasures.
    pub(super) fn advance(&mut self, erased: u32) {
        self.step += 1;
        self.erased += erased;
    }

    /// Steps left, this one included and at least one; `None` without a bound.
    fn steps_left(&self) -> Option<u32> {
        let steps = match self.pace {
            BlockPace::Steps(steps) => Some(steps),
            BlockPace::Threshold { steps_max, .. } => steps_max,
        };
        steps.map(|steps| steps.saturating_sub(self.step).max(1))
    }

    #[allow(clippy::cast_precision_loss)] // counts of cells
    fn progress(&self, blanks: u32) -> f32 {
        1.0 - blanks as f32 / self.blanks_at_start.max(1) as f32
    }
}

/// Erasures planned for step `step` when `budget` is spread over the steps of `window`: an even share each, the
/// remainder at the steps nearest the middle, ties to the earlier (PRISM's published LLaDA sampler).
fn planned_erasures(budget: u32, window: std::ops::Range<u32>, step: u32) -> u32 {
    if !window.contains(&step) {
        return 0;
    }
    let (steps, step) = (window.end - window.start, step - window.start);
    let twice_from_middle = (2 * i64::from(step) - i64::from(steps - 1)).unsigned_abs();
    let nearer_steps = twice_from_middle - u64::from(2 * step + 1 < steps);
    budget / steps + u32::from(nearer_steps < u64::from(budget % steps))
}

/// Steps of each of `blocks` blocks when a run has `steps`: an even share, the remainder to the first blocks.
pub(super) fn share_of_steps(steps: u32, blocks: u32) -> impl Iterator<Item = u32> {
    (0..blocks).map(move |block| steps / blocks + u32::from(block < steps % blocks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn quality(budget: u32) -> Remask {
        Remask::Quality { budget, below: None, window: Stretch::WHOLE }
    }

    #[test]
    fn the_published_plan_of_erasures_is_kept() {
        let plan = |budget, steps| (0..steps).map(|j| planned_erasures(budget, 0..steps, j)).collect::<Vec<_>>();
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
                    let plan: Vec<u32> = (0..steps).map(|j| planned_erasures(budget, from..steps, j)).collect();
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

    /// Runs a block in which every third filled cell (by `pattern`) may be erased, and checks the laws.
    fn check_laws(pace: Pace, steps: Option<u32>, blanks_at_start: u32, budget: u32, pattern: u32) {
        let mut schedule = Schedule::new(pace, steps, &quality(budget), blanks_at_start);
        let (mut blanks, mut fills_made, mut erasures_made, mut taken) = (blanks_at_start, 0, 0, 0);
        let case = format!("{pace:?} steps {steps:?} blanks {blanks_at_start} budget {budget} pattern {pattern}");
        while blanks > 0 {
            let filled = blanks_at_start - blanks;
            let ready = (pattern >> (taken % 8)) % (blanks + 1);
            let erasable = (pattern >> (taken % 5)) % (filled + 1);
            let erased = schedule.erasures_max(blanks, ready).min(erasable);
            let fills = schedule.fills(blanks, ready, erased);
            assert!((1..=blanks).contains(&fills), "{case}");
            taken += 1;
            if steps == Some(taken) {
                assert_eq!((erased, fills), (0, blanks), "the last step erases nothing and leaves no blank: {case}");
            }
            schedule.advance(erased);
            blanks = blanks - fills + erased;
            fills_made += fills;
            erasures_made += erased;
            assert!(taken <= steps.unwrap_or(blanks_at_start + budget), "{case}");
        }
        assert_eq!(fills_made, blanks_at_start + erasures_made, "{case}");
        assert!(erasures_made <= budget, "{case}");
    }

    #[test]
    fn the_laws_hold_over_all_small_inputs() {
        let threshold = Probability::new(0.9).unwrap();
        for blanks in 1..=7 {
            for budget in 0..=7 {
                for pattern in 0..256 {
                    for steps in 1..=9 {
                        let bound = NonZeroU32::new(steps);
                        check_laws(Pace::Steps(bound.unwrap()), Some(steps), blanks, budget, pattern);
                        let pace = Pace::Threshold { threshold, steps_max: bound };
                        check_laws(pace, Some(steps), blanks, budget, pattern);
                    }
                    check_laws(Pace::Threshold { threshold, steps_max: None }, None, blanks, budget, pattern);
                }
            }
        }
    }
}
