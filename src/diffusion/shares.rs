//! How the steps of a block share its blanks and its budget: evenly, except for a hold.

use super::policy::Stretch;
use std::ops::Range;

/// Changes planned for step `step` when `budget` is spread over the steps of `window`: an even
/// share each, the remainder at the steps nearest the middle, ties to the earlier (PRISM's
/// published LLaDA sampler).
pub(super) fn planned_changes(budget: u32, window: Range<u32>, step: u32) -> u32 {
    if !window.contains(&step) {
        return 0;
    }
    let (steps, step) = (window.end - window.start, step - window.start);
    let twice_from_middle = (2 * i64::from(step) - i64::from(steps - 1)).unsigned_abs();
    let nearer_steps = twice_from_middle - u64::from(2 * step + 1 < steps);
    budget / steps + u32::from(nearer_steps < u64::from(budget % steps))
}

/// Cells of `cells` that are filled after step `step` of `steps`, each of which adds an even share,
/// the last ones one more (`RemeDi`'s published sampler).
pub(super) fn filled_after(cells: u32, steps: u32, step: u32) -> u32 {
    let steps = steps.max(1);
    let (share, rest, taken) = (cells / steps, cells % steps, step.saturating_add(1).min(steps));
    share * taken + taken.saturating_sub(steps - rest)
}

/// Steps of each of `blocks` blocks when a run has `steps`: an even share, the remainder to the
/// first blocks.
pub(super) fn share_of_steps(steps: u32, blocks: u32) -> impl Iterator<Item = u32> {
    (0..blocks).map(move |block| steps / blocks + u32::from(block < steps % blocks))
}

/// A part of a block's steps in which the number of filled cells stands still: a step fills as many
/// blanks as it erases cells (the loops of ReMDM, arXiv 2503.00307, section 4.2, and of PRISM,
/// arXiv 2510.01384). The blanks are shared evenly by the other steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    steps: Range<u32>,
    /// Blanks of the block meanwhile.
    blanks: u32,
}

impl Hold {
    /// The hold in this part of `steps` steps that fill `blanks` blanks. At least the first step
    /// comes before it and the last one after it. `None` where that leaves no step, or where there
    /// is only one blank, so that nothing is filled while another cell is blank.
    pub(super) fn new(part: Stretch, steps: u32, blanks: u32) -> Option<Self> {
        let part = part.of_steps(steps);
        let (from, until) = (part.start.max(1), part.end.min(steps.saturating_sub(1)));
        if from >= until || blanks < 2 {
            return None;
        }
        let after = steps - until;
        let left = u64::from(blanks) * u64::from(after) / u64::from(from + after);
        Some(Self { steps: from..until, blanks: u32::try_from(left).unwrap_or(blanks).max(1) })
    }

    /// How many of `blanks` blanks step `step` fills, besides as many as it erases. `left` is the
    /// number of steps left, that one included, at least one.
    pub(super) fn share(&self, blanks: u32, step: u32, left: u32) -> u32 {
        if step < self.steps.start {
            blanks.saturating_sub(self.blanks).div_ceil(self.steps.start - step)
        } else if self.steps.contains(&step) {
            0
        } else {
            blanks.div_ceil(left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Choice, HOLD, QUALITY};
    use super::*;

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
    fn the_last_steps_fill_one_cell_more() {
        let filled = |cells, steps| (0..steps).map(|step| filled_after(cells, steps, step)).collect::<Vec<_>>();
        assert_eq!(filled(32, 8), [4, 8, 12, 16, 20, 24, 28, 32]);
        assert_eq!(filled(8, 3), [2, 5, 8]);
        assert_eq!(filled(7, 4), [1, 3, 5, 7]);
        assert_eq!(filled(2, 5), [0, 0, 0, 1, 2]);
        assert_eq!((filled_after(7, 4, 9), filled_after(7, 0, 0)), (7, 7));
    }

    #[test]
    fn steps_are_shared_evenly_the_first_blocks_taking_the_remainder() {
        assert_eq!(share_of_steps(8, 3).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!(share_of_steps(2, 2).collect::<Vec<_>>(), [1, 1]);
    }

    /// Blanks after each step, where each erases nothing or fills as many again.
    fn blanks_left(part: [f32; 2], steps: u32, blanks: u32) -> Vec<u32> {
        let part = Choice::of(&QUALITY).with(HOLD.name, part).hold().unwrap();
        let hold = Hold::new(part, steps, blanks);
        let share = |blanks: u32, step: u32| {
            hold.as_ref().map_or(blanks.div_ceil(steps - step), |hold| hold.share(blanks, step, steps - step))
        };
        let mut left = blanks;
        (0..steps)
            .map(|step| {
                left -= share(left, step);
                left
            })
            .collect()
    }

    #[test]
    fn a_hold_keeps_the_share_of_blanks_that_the_steps_after_it_fill() {
        // LLaDA's loop: seven eighths are filled, 32 rounds, then the rest
        let left = blanks_left([28.0 / 64.0, 60.0 / 64.0], 64, 64);
        assert_eq!(left[..28], (4..32).rev().map(|half| 2 * half).collect::<Vec<_>>());
        assert_eq!(left[28..60], [8; 32]);
        assert_eq!(left[60..], [6, 4, 2, 0]);
        // ReMDM's: nine tenths
        assert_eq!(blanks_left([0.45, 0.95], 20, 50)[8..], [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0]);
        // the first step and the last one fill; steps without a blank of their own fill nothing
        assert_eq!(blanks_left([0.0, 1.0], 4, 6), [3, 3, 3, 0]);
        assert_eq!(blanks_left([0.5, 0.75], 8, 3), [2, 1, 1, 1, 1, 1, 0, 0]);
        // too short for a hold, or nothing to hold
        assert_eq!(blanks_left([0.0, 1.0], 2, 6), [3, 0]);
        assert_eq!(blanks_left([0.25, 0.5], 4, 1), [0; 4]);
    }

    #[test]
    fn with_any_hold_the_last_step_leaves_no_blank_and_the_hold_changes_nothing() {
        for (steps, blanks) in (3..9).flat_map(|steps| (2..12).map(move |blanks| (steps, blanks))) {
            for (from, until) in (0..8u8).flat_map(|from| (from + 1..=8).map(move |until| (from, until))) {
                let eighths = [from, until].map(|eighth| f32::from(eighth) / 8.0);
                let left = blanks_left(eighths, steps, blanks);
                let edge = |eighths: f32| ((eighths * steps as f32).round() as usize).clamp(1, steps as usize - 1);
                let held = edge(eighths[0]) - 1..edge(eighths[1]);
                assert_eq!(left.last(), Some(&0));
                assert!(left[held.clone()].windows(2).all(|pair| pair[0] == pair[1]), "{held:?} {left:?}");
                let other = steps - (held.len() as u32 - 1);
                let most = blanks.div_ceil(other) + 1;
                assert!(left.windows(2).all(|pair| pair[0] - pair[1] <= most), "{left:?}");
            }
        }
    }
}
