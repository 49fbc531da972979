//! The plan of a run: the blocks that are left, each with its schedule, and a shorter plan where
//! there is no time for it. Out of scope: which cells a step changes.

use super::canvas::Canvas;
use super::policy::Policy;
use super::schedule::Schedule;
use super::shares::share_of_steps;
use super::units::{Position, u32_of};
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;

/// Why a policy does not fit a canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A block needs a step of its own.
    #[error(
        "{} too few for {blocks} blocks, each of which needs at least one; \
         give at least {blocks} steps or a larger block length",
        if *steps == 1 { "1 step is".to_owned() } else { format!("{steps} steps are") }
    )]
    TooFewSteps {
        /// Steps given for the whole run.
        steps: u32,
        /// Blocks that hold a blank.
        blocks: u32,
    },
}

/// The most forward passes that a run may still take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Blocks that are left.
    pub blocks: u32,
    /// Passes over the canvas until every block is full.
    pub filling: u64,
    /// Passes over the working copies of the steps that correct.
    pub correcting: u64,
    /// Passes that proofread full blocks.
    pub proofreading: u64,
}

impl Passes {
    /// All of them.
    pub const fn all(&self) -> u64 {
        self.filling + self.correcting + self.proofreading
    }
}

/// One block and its schedule.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) range: Range<usize>,
    pub(super) schedule: Schedule,
}

/// The blocks that are left, the next one first.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// As the policy has them.
    blocks: VecDeque<Block>,
    /// Passes of the first block's next step that were made already.
    begun: u32,
    /// What is done in their place while there is no time for them: the same cells in fewer steps.
    hurried: Option<VecDeque<Block>>,
}

impl Plan {
    /// Cuts `canvas` into blocks, the first one starting at the first blank. Blocks without a blank
    /// are left out.
    pub(super) fn new(canvas: &Canvas, policy: &Policy) -> Result<Self, PolicyError> {
        let length = policy.block_length.get() as usize;
        let start = canvas.blanks(0..canvas.len()).next().map_or(canvas.len(), Position::index);
        let with_blanks: Vec<(Range<usize>, u32)> = (start..canvas.len())
            .step_by(length)
            .map(|from| from..canvas.len().min(from.saturating_add(length)))
            .map(|range| (range.clone(), blanks(canvas, &range)))
            .filter(|(_, blanks)| *blanks > 0)
            .collect();
        let blocks = u32_of(with_blanks.len());
        let steps_max = policy.pace.steps_max().map(NonZeroU32::get);
        if let Some(steps) = steps_max.filter(|steps| *steps < blocks) {
            return Err(PolicyError::TooFewSteps { steps, blocks });
        }
        let mut shares = steps_max.into_iter().flat_map(|steps| share_of_steps(steps, blocks.max(1)));
        let block = |(range, blanks)| Block { range, schedule: Schedule::new(policy, shares.next(), blanks) };
        Ok(Self { blocks: with_blanks.into_iter().map(block).collect(), begun: 0, hurried: None })
    }

    /// A full canvas as one block, to be proofread in at most `steps` steps; nothing where it is
    /// not full, or the steps are too few to change anything.
    pub(super) fn proofreading(canvas: &Canvas, steps: u32) -> Self {
        let block = Block { range: 0..canvas.len(), schedule: Schedule::proofreading(steps) };
        let can_change = blanks(canvas, &block.range) == 0 && steps >= 2;
        Self { blocks: can_change.then_some(block).into_iter().collect(), begun: 0, hurried: None }
    }

    /// The block of the next step.
    pub(super) fn front(&self) -> Option<&Block> {
        self.hurried.as_ref().unwrap_or(&self.blocks).front()
    }

    /// Whether there is too little time for the plan of the policy.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.is_some()
    }

    /// Passes that are left at most.
    pub(super) fn passes(&self) -> Passes {
        self.hurried.as_ref().map_or_else(|| self.own_passes(), passes)
    }

    /// The same by the plan of the policy.
    fn own_passes(&self) -> Passes {
        let all = passes(&self.blocks);
        // the next step counts as one that fills, and as those of its passes that correct
        Passes { correcting: all.correcting.saturating_sub(self.begun.into()), ..all }
    }

    /// Records a pass of the next step that is not its last.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
    }

    /// Nothing is left.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        (self.begun, self.hurried) = (0, None);
    }

    /// Plans for at most `passes` more steps, at least one. Where the policy's own plan may take
    /// more, the steps are shared by the blanks of the blocks, and nothing is erased or proofread;
    /// with fewer steps than blocks, these become one. Where there is time for it again, the
    /// policy's plan goes on with the cells that are left.
    pub(super) fn fit(&mut self, canvas: &Canvas, passes: u32) {
        let steps = passes.max(1);
        if self.hurried.take().is_some() {
            self.blocks = joined(&self.blocks, canvas);
        }
        if self.own_passes().all() > u64::from(steps) {
            self.hurried = Some(shortened(&self.blocks, canvas, steps));
        }
    }

    /// So many steps of the front block are not taken.
    pub(super) fn skip(&mut self, steps: u32) {
        if let Some(block) = self.hurried.as_mut().unwrap_or(&mut self.blocks).front_mut() {
            block.schedule.skip(steps);
        }
    }

    /// Records a step of the front block, `changed` of whose edits erase or replace. Returns the
    /// cells that can never change again if it has finished a block.
    pub(super) fn advance(&mut self, canvas: &Canvas, edits: u32, changed: u32) -> Option<Range<usize>> {
        self.begun = 0;
        let advance = |block: &mut Block| block.schedule.advance(edits, changed, blanks(canvas, &block.range));
        let Some(hurried) = &mut self.hurried else {
            let is_finished = self.blocks.front_mut().is_some_and(advance);
            return if is_finished { self.blocks.pop_front().map(|block| block.range) } else { None };
        };
        if let Some(block) = self.blocks.front_mut() {
            block.schedule.skip(1);
        }
        let is_finished = hurried.front_mut().is_some_and(advance);
        let finished = if is_finished { hurried.pop_front()?.range } else { return None };
        self.blocks.retain(|block| block.range.start >= finished.end);
        if self.blocks.is_empty() {
            self.hurried = None;
        }
        Some(finished)
    }
}

fn blanks(canvas: &Canvas, range: &Range<usize>) -> u32 {
    u32_of(canvas.blanks(range.clone()).count())
}

fn passes(blocks: &VecDeque<Block>) -> Passes {
    let schedules = || blocks.iter().map(|block| &block.schedule);
    Passes {
        blocks: u32_of(blocks.len()),
        filling: schedules().map(|schedule| u64::from(schedule.fill_steps())).sum(),
        correcting: schedules().map(Schedule::corrector_passes_left).sum(),
        proofreading: schedules().map(|schedule| u64::from(schedule.proofread_steps())).sum(),
    }
}

/// The blocks in so many steps.
fn shortened(blocks: &VecDeque<Block>, canvas: &Canvas, steps: u32) -> VecDeque<Block> {
    let count = u32_of(blocks.len());
    let (Some(first), Some(last)) = (blocks.front(), blocks.back()) else { return VecDeque::new() };
    let Some(more) = steps.checked_sub(count) else {
        let range = first.range.start..last.range.end;
        let schedule = Schedule::shortened(steps, blanks(canvas, &range));
        return VecDeque::from([Block { range, schedule }]);
    };
    // one step each, and a share of the others by its blanks
    let all = u64::from(blanks(canvas, &(first.range.start..last.range.end))).max(1);
    let mut before = 0;
    let block = |Block { range, .. }: &Block| {
        let share = |blanks: u64| u32::try_from(u64::from(more) * blanks / all).unwrap_or(more);
        let own = blanks(canvas, range);
        let steps = 1 + share(before + u64::from(own)) - share(before);
        before += u64::from(own);
        Block { range: range.clone(), schedule: Schedule::shortened(steps, own) }
    };
    blocks.iter().map(block).collect()
}

/// The blocks that still have something to do; one that became full in a hurry is finished together
/// with the next one, or with the last.
fn joined(blocks: &VecDeque<Block>, canvas: &Canvas) -> VecDeque<Block> {
    let mut left: VecDeque<Block> = VecDeque::new();
    let mut full: Option<Range<usize>> = None;
    for Block { range, schedule } in blocks {
        let range = full.take().map_or(range.start, |full| full.start)..range.end;
        if blanks(canvas, &range) == 0 && !schedule.is_proofreading() {
            full = Some(range);
        } else {
            left.push_back(Block { range, schedule: schedule.clone() });
        }
    }
    if let (Some(full), Some(last)) = (full, left.back_mut()) {
        last.range.end = full.end;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::super::canvas::{Cell, Edit};
    use super::super::policy::{Choice, OFF, Pace, order};
    use super::super::units::{Probability, TokenId};
    use super::*;

    /// Blocks of four blanks, four steps each.
    fn plan(blocks: u32) -> (Plan, Canvas) {
        let number = |number: u32| NonZeroU32::new(number).unwrap();
        let policy = Policy {
            order: Choice::of(&order::LEFTMOST),
            pace: Pace::Steps(number(4 * blocks)),
            remasking: Choice::of(&OFF),
            block_length: number(4),
            proofreading: None,
        };
        let canvas = Canvas::new(vec![Cell::Blank; 4 * blocks as usize]);
        (Plan::new(&canvas, &policy).unwrap(), canvas)
    }

    /// Takes a step; returns how many cells it filled, and the block that it finished.
    fn step(plan: &mut Plan, canvas: &mut Canvas) -> (u32, Option<Range<usize>>) {
        let Block { range, schedule } = plan.front().unwrap();
        let fills = schedule.fills(blanks(canvas, range), 0, 0);
        let places: Vec<Position> = canvas.blanks(range.clone()).take(fills as usize).collect();
        for at in places {
            canvas.apply(&Edit::Fill { at, token: TokenId(1), confidence: Probability::ONE }).unwrap();
        }
        (fills, plan.advance(canvas, fills, 0))
    }

    #[test]
    fn steps_that_a_moment_of_load_took_come_back_when_it_is_over() {
        let (mut plan, mut canvas) = plan(2);
        plan.fit(&canvas, 2);
        assert!(plan.is_hurried());
        plan.fit(&canvas, 100); // the load went before a step was taken
        assert!(!plan.is_hurried());
        let filled: Vec<u32> = (0..8).map(|_| step(&mut plan, &mut canvas).0).collect();
        assert_eq!(filled, [1; 8]);
        assert!(plan.front().is_none());

        let (mut plan, mut canvas) = self::plan(2);
        plan.fit(&canvas, 4); // two steps for each block
        assert_eq!(step(&mut plan, &mut canvas), (2, None));
        plan.fit(&canvas, 100);
        let rest: Vec<_> = (0..6).map(|_| step(&mut plan, &mut canvas)).collect();
        assert_eq!(rest.iter().map(|(filled, _)| *filled).collect::<Vec<_>>(), [1; 6]);
        let finished: Vec<_> = rest.into_iter().filter_map(|(_, finished)| finished).collect();
        assert_eq!(finished, [0..4, 4..8]);
        assert!(plan.front().is_none());
    }

    #[test]
    fn blocks_that_became_one_are_blocks_again_and_none_is_finished_twice() {
        let (mut plan, mut canvas) = plan(4);
        plan.fit(&canvas, 2); // sixteen blanks in two steps
        assert_eq!(step(&mut plan, &mut canvas), (8, None));
        plan.fit(&canvas, 100);
        assert_eq!(plan.front().unwrap().range, 0..12, "two full blocks with the third");
        let finished: Vec<_> = (0..8).filter_map(|_| step(&mut plan, &mut canvas).1).collect();
        assert_eq!(finished, [0..12, 12..16]);
        assert!(plan.front().is_none());
    }

    #[test]
    fn blocks_that_are_full_take_no_pass_of_a_shorter_plan() {
        let (mut plan, mut canvas) = plan(4);
        plan.fit(&canvas, 2);
        assert_eq!(step(&mut plan, &mut canvas), (8, None));
        plan.fit(&canvas, 4); // more time, but not enough for the plan of the policy
        assert!(plan.is_hurried());
        assert_eq!(plan.front().unwrap().range, 0..12, "two full blocks with the third");
        let filled: Vec<u32> = (0..4).map(|_| step(&mut plan, &mut canvas).0).collect();
        assert_eq!(filled, [2; 4]);
        assert!(plan.front().is_none());
    }

    #[test]
    fn a_hurry_is_shared_by_blanks_and_may_change_with_each_step() {
        let (mut plan, mut canvas) = plan(2);
        for passes in (1..=5).rev() {
            plan.fit(&canvas, passes);
            assert!(plan.passes().filling <= u64::from(passes));
            step(&mut plan, &mut canvas);
        }
        assert!(plan.front().is_none() && blanks(&canvas, &(0..8)) == 0);
    }
}
