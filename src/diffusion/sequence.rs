//! One sequence: a canvas, its blocks, and how far refinement has come. Turns readings into edits.
//! Out of scope: where a reading comes from, and who receives the edits.

use super::canvas::{Canvas, Edit, EditError};
use super::credit::Credits;
use super::fills::fills;
use super::plan::{Block, Passes, Plan, PolicyError};
use super::policy::{Choice, FilledCell, Needs, OFF, Pace, Policy, Proofreading, View};
use super::random::{DrawKey, Seed};
use super::reading::Reading;
use super::rewritten::Rewritten;
use super::schedule::{Room, Schedule};
use super::token_set::TokenSet;
use super::units::{Position, Probability, TokenId, u32_of};
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Range;

/// Steps that one pass skips at most, so that a hold of many steps does not keep other requests
/// waiting. A step more than that is taken without an edit.
const SKIPPED_MAX: u32 = 1 << 10;

/// A reading that does not fit its canvas: a fault of the model, never of the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// Proposals are not exactly the window's blanks, left to right.
    #[error("the reading has {given} proposals that are not the {blanks} blanks of the window")]
    NotTheBlanks {
        /// Proposals in the reading.
        given: usize,
        /// Blanks in the window.
        blanks: usize,
    },
    /// An edit made from it does not fit.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Counted from 0 over the whole run; also the number of the forward pass.
    pub step: u32,
    /// The changes, those of filled cells first; no cell appears twice.
    pub edits: Vec<Edit>,
    /// The cells that can never change again from now on, if this step finished a block.
    pub finished: Option<Range<usize>>,
}

/// A canvas being refined.
#[derive(Clone, Debug)]
pub struct Sequence {
    canvas: Canvas,
    policy: Policy,
    seed: Seed,
    step: u32,
    steps_max: Option<u32>,
    plan: Plan,
    /// One per cell of the canvas.
    traces: Vec<Trace>,
    /// What blanks keep of earlier passes; `None` without credit.
    credits: Option<Credits>,
    /// Tokens that are filled in only where nothing else is left.
    postponed: Vec<TokenId>,
    /// Tokens that may be judged, erased and replaced; `None` is all.
    judged: Option<TokenSet>,
    /// Of a text that was full at the start; `None` for others.
    rewritten: Option<Rewritten>,
}

/// What a sequence keeps of a cell besides its token.
#[derive(Clone, Copy, Debug)]
struct Trace {
    /// Probability of the token when it was written; 1 where it was given.
    confidence: Probability,
    /// The first step that sees the token.
    seen_from: u32,
    /// What the remasking's rule remembers.
    memory: f32,
}

impl Trace {
    const GIVEN: Self = Self { confidence: Probability::ONE, seen_from: 0, memory: 0.0 };
}

impl Sequence {
    /// Cuts `canvas` into blocks, the first one starting at the first blank, and plans their steps.
    /// Blocks without a blank are skipped. A canvas without blanks is finished at once.
    ///
    /// # Errors
    /// When the policy gives fewer steps than there are blocks.
    pub fn new(canvas: Canvas, policy: Policy, seed: Seed) -> Result<Self, PolicyError> {
        let plan = Plan::new(&canvas, &policy)?;
        let proofreading = policy.proofreading.map_or(0, |proofreading| proofreading.steps);
        let proofreading = proofreading.saturating_mul(plan.passes().blocks);
        let steps_max = policy.pace.steps_max().map(|steps| steps.get().saturating_add(proofreading));
        let steps_max = if plan.front().is_none() { Some(0) } else { steps_max };
        Ok(Self::of(canvas, policy, seed, plan, steps_max))
    }

    /// Takes a canvas that is full already as one block, and proofreads it: the filled cells that
    /// the quality head doubts are erased and written again. One that was written again as it was
    /// is not erased a second time before another one has changed. With fewer than two steps
    /// nothing can be changed, and the sequence is finished at once.
    pub fn proofread(canvas: Canvas, order: Choice, proofreading: Proofreading, seed: Seed) -> Self {
        let steps = proofreading.steps;
        let plan = Plan::proofreading(&canvas, steps);
        let policy = Policy {
            order,
            pace: Pace::Steps(NonZeroU32::MIN),
            remasking: Choice::of(&OFF),
            block_length: NonZeroU32::MAX,
            proofreading: Some(proofreading),
        };
        Self { rewritten: Some(Rewritten::default()), ..Self::of(canvas, policy, seed, plan, Some(steps)) }
    }

    fn of(canvas: Canvas, policy: Policy, seed: Seed, plan: Plan, steps_max: Option<u32>) -> Self {
        let traces = vec![Trace::GIVEN; canvas.len()];
        let (postponed, judged, rewritten) = (Vec::new(), None, None);
        let credits = Credits::of(&policy.order.settings);
        Self { canvas, policy, seed, step: 0, steps_max, plan, traces, credits, postponed, judged, rewritten }
    }

    /// The same, but blanks for which one of these tokens is proposed are filled after all others
    /// of their block, whatever the order and the pace (LLaDA's `confidence_eos_eot_inf`, arXiv
    /// 2502.09992, appendix B.4). No token is replaced by one of these.
    #[must_use]
    pub fn postponing(self, postponed: Vec<TokenId>) -> Self {
        Self { postponed, ..self }
    }

    /// The same with another key of its randomness.
    pub fn seeded(self, seed: Seed) -> Self {
        Self { seed, ..self }
    }

    /// The same, but only these tokens are judged, erased and replaced: others stay once they are
    /// written, whatever the policy. A quality head's opinion on tokens that its training never
    /// masked says nothing.
    pub fn judging(self, judged: Option<TokenSet>) -> Self {
        Self { judged, ..self }
    }

    /// Whether this token may be judged, erased and replaced.
    pub fn judges(&self, token: TokenId) -> bool {
        self.judged.as_ref().is_none_or(|judged| judged.contains(token))
    }

    /// The canvas as it stands.
    pub const fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// What decides the edits.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The key of this sequence's randomness.
    pub const fn seed(&self) -> Seed {
        self.seed
    }

    /// Steps taken; each was one forward pass.
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// Steps the run takes at most, where the policy or a hurry bounds them.
    pub fn steps_max(&self) -> Option<u32> {
        let Passes { filling, proofreading, .. } = self.plan.passes();
        let left = u32::try_from(filling + proofreading).unwrap_or(u32::MAX);
        if self.is_hurried() { Some(self.step.saturating_add(left)) } else { self.steps_max }
    }

    /// Passes that are left at most, also where the policy names no bound.
    pub fn passes(&self) -> Passes {
        self.plan.passes()
    }

    /// Whether the next step is one of a plan with fewer steps than the policy's.
    pub fn is_hurried(&self) -> bool {
        self.plan.is_hurried()
    }

    /// The cells to read next; `None` once nothing can change any more.
    pub fn window(&self) -> Option<Range<usize>> {
        self.plan.front().map(|block| block.range.clone())
    }

    /// Whether the next block to read has been full, and is now proofread.
    pub fn is_proofreading(&self) -> bool {
        self.plan.front().is_some_and(|block| block.schedule.is_proofreading())
    }

    /// What the next step needs to know about every filled cell.
    pub fn needs(&self) -> Needs {
        if self.is_proofreading() { self.policy.needs().and(Needs::QUALITY) } else { self.policy.needs() }
    }

    /// The credits of blanks, if the policy has any.
    pub const fn credits(&self) -> Option<&Credits> {
        self.credits.as_ref()
    }

    /// Rows that the next step reads besides the canvas itself: one for each filled cell if the
    /// policy goes by exact qualities.
    pub fn rows_beside(&self) -> usize {
        let window = self.window().filter(|_| self.needs().exact);
        window.map_or(0, |window| self.canvas.filled(window).count())
    }

    /// Plans for at most `passes` more steps, at least one. Where the policy may take more, the run
    /// is shortened: the steps are shared anew, and nothing is erased or proofread; with fewer
    /// passes than blocks these become one. With time for it again, the policy's own plan goes on.
    pub fn fit(&mut self, passes: u32) {
        let most = self.steps_max.map_or(u32::MAX, |most| most.saturating_sub(self.step));
        self.plan.fit(&self.canvas, passes.min(most));
    }

    /// Drops the blocks that were not begun: what is blank stays blank.
    pub fn stop(&mut self) {
        self.plan.clear();
    }

    /// Takes one step: erases, replaces and fills from one reading of the current window. The cells
    /// filled were blank before the step, the cells erased and replaced were filled before it, so
    /// no cell is changed twice.
    ///
    /// # Errors
    /// When the reading is not one of this canvas and window; the canvas is then unchanged.
    pub fn advance(&mut self, reading: &Reading) -> Result<StepOutcome, ReadingError> {
        let Some(block) = self.plan.front() else {
            return Ok(StepOutcome { step: self.step, edits: Vec::new(), finished: None });
        };
        let filled = if self.sees_filled() { self.filled(block.range.clone(), reading) } else { Vec::new() };
        let (edits, skipped) = self.choose(block, reading, &filled)?;
        let mut canvas = self.canvas.clone();
        edits.iter().try_for_each(|edit| canvas.apply(edit))?;
        self.canvas = canvas;
        self.remember(&filled, &edits);
        if let Some(credits) = &mut self.credits {
            credits.take(&reading.favourites);
            edits.iter().for_each(|edit| credits.forget(edit.at()));
        }

        let step = self.step;
        self.step += 1;
        self.plan.skip(skipped);
        let changed = count(edits.iter().filter(|edit| !matches!(edit, Edit::Fill { .. })));
        let finished = self.plan.advance(&self.canvas, count(edits.iter()), changed);
        Ok(StepOutcome { step, edits, finished })
    }

    /// Whether a rule of this step decides by what is filled.
    fn sees_filled(&self) -> bool {
        let is_adaptive = matches!(self.policy.pace, Pace::Adaptive { .. });
        is_adaptive || self.is_proofreading() || self.policy.remasking.rule != &OFF
    }

    /// The filled cells of a block as rules see them: those that may be erased and replaced.
    fn filled(&self, range: Range<usize>, reading: &Reading) -> Vec<FilledCell> {
        let Reading { reviews, present, best, .. } = reading;
        let cell = |(at, token): (Position, TokenId)| {
            let quality = find(reviews, at, |review| review.at).map(|review| review.quality);
            let present = find(present, at, |present| present.at).map(|present| present.confidence);
            let best = find(best, at, |best| best.at).filter(|best| !self.postponed.contains(&best.token));
            let Trace { confidence, seen_from, memory } = self.traces[at.index()];
            FilledCell { at, token, confidence, age: self.step - seen_from + 1, quality, present, best, memory }
        };
        let is_same = |at: &Position| self.rewritten.as_ref().is_some_and(|rewritten| rewritten.is_same(*at));
        let may_go = |(at, token): &(Position, TokenId)| self.judges(*token) && !is_same(at);
        self.canvas.filled(range).filter(may_go).map(cell).collect()
    }

    /// The edits of the next step that makes any, those of filled cells first, and how many steps
    /// were skipped before it. The canvas stays as it is in those, so the reading serves them all.
    fn choose(
        &self,
        block: &Block,
        reading: &Reading,
        filled: &[FilledCell],
    ) -> Result<(Vec<Edit>, u32), ReadingError> {
        let proposals = &reading.proposals[..];
        if !self.canvas.blanks(block.range.clone()).eq(proposals.iter().map(|proposal| proposal.at)) {
            let blanks = self.canvas.blanks(block.range.clone()).count();
            return Err(ReadingError::NotTheBlanks { given: proposals.len(), blanks });
        }
        let mut schedule = block.schedule.clone();
        let mut skipped = 0;
        loop {
            // each skipped step draws anew; the passes of a run are fewer than 2^17
            let key = DrawKey { seed: self.seed, step: self.step.wrapping_add(skipped << 17) };
            let edits = self.edits(&schedule, View::of(proposals, filled, key));
            if !edits.is_empty() || !schedule.may_skip() || skipped == SKIPPED_MAX {
                return Ok((edits, skipped));
            }
            schedule.skip(1);
            skipped += 1;
        }
    }

    /// The edits of one step, those of filled cells first.
    fn edits(&self, schedule: &Schedule, view: View<'_>) -> Vec<Edit> {
        let blanks = count(view.proposals.iter());
        let at_once = match self.policy.pace {
            Pace::Adaptive { rule, .. } if schedule.is_adaptive() => rule.decide(view),
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

    /// Keeps what the next steps may ask about the cells: of those that stay, and of the tokens
    /// just written.
    fn remember(&mut self, filled: &[FilledCell], edits: &[Edit]) {
        if let Some(remember) = self.policy.remasking.rule.remember {
            for cell in filled {
                self.traces[cell.at.index()].memory = remember(cell);
            }
        }
        for edit in edits {
            if let Some(rewritten) = &mut self.rewritten {
                rewritten.take(edit);
            }
            if let Some((_, confidence)) = edit.written() {
                self.traces[edit.at().index()] = Trace { confidence, seen_from: self.step + 1, memory: 0.0 };
            }
        }
    }
}

/// Classes of fills, the first to be made first, whatever the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// The pace's rule fills it in this step.
    AtOnce,
    /// It waits for its turn in the order.
    InTurn,
    /// Its token is filled in only where nothing else is left.
    Postponed,
}

/// The entry of cell `at`, of entries that are in the order of their cells.
fn find<T: Copy>(entries: &[T], at: Position, place: impl Fn(&T) -> Position) -> Option<T> {
    entries.binary_search_by_key(&at, place).ok().map(|index| entries[index])
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32_of(items.count())
}
