//! One sequence: a canvas, its blocks, and how far refinement has come. Turns readings into edits.
//! Out of scope: where a reading comes from, and who receives the edits.

use super::canvas::{Canvas, Cell, Edit};
use super::chooser::Chooser;
use super::correction::Correction;
use super::credit::Credits;
use super::outcome::{PROOFREADING, ReadingError, StepOutcome};
use super::plan::{Passes, Plan, PolicyError};
use super::policy::{Choice, FilledCell, NO_CACHE, Needs, OFF, Pace, Policy, Proofreading};
use super::random::Seed;
use super::reading::{Best, Reading};
use super::reuse::{Kept, Reuse};
use super::rewritten::Rewritten;
use super::shifts::Shifts;
use super::token_set::TokenSet;
use super::traces::{Trace, Traces};
use super::units::{Position, TokenId, u32_of};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;

/// A canvas being refined.
#[derive(Clone, Debug)]
pub struct Sequence {
    canvas: Canvas,
    policy: Policy,
    seed: Seed,
    step: u32,
    steps_max: Option<u32>,
    plan: Plan,
    /// Of a step that corrects, once its blanks are proposed.
    correction: Option<Correction>,
    traces: Traces,
    /// What blanks keep of earlier passes; `None` without credit.
    credits: Option<Credits>,
    /// How far their distributions moved, if the policy asks for it.
    shifts: Shifts,
    kept: Kept,
    /// Tokens that are filled in only where nothing else is left.
    postponed: Vec<TokenId>,
    /// Tokens that may be judged, erased and replaced; `None` is all.
    judged: Option<TokenSet>,
    /// Of a text that was full at the start; `None` for others.
    rewritten: Option<Rewritten>,
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
        let Passes { blocks, correcting, .. } = plan.passes();
        let more = u64::from(proofreading.saturating_mul(blocks)) + correcting;
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let steps_max = policy.pace.steps_max().map(|steps| steps.get().saturating_add(more));
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
        Self {
            traces: Traces::new(canvas.len()),
            credits: Credits::of(&policy.order.settings),
            canvas,
            policy,
            seed,
            step: 0,
            steps_max,
            plan,
            correction: None,
            shifts: Shifts::default(),
            kept: Kept::new(Choice::of(&NO_CACHE), None),
            postponed: Vec::new(),
            judged: None,
            rewritten: None,
        }
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

    /// The same, but its passes keep keys and values of earlier ones by `cache`, a rule of
    /// [`Kind::Cache`](super::policy::Kind) whose knobs are complete. Steps that correct keep none.
    /// `blocks` is the length of the blocks of a block-causal model, where the policy sets none.
    pub fn caching(self, cache: Choice, blocks: Option<NonZeroUsize>) -> Self {
        let blocks = blocks.map(|length| self.block_length().unwrap_or(length));
        Self { kept: Kept::new(cache, blocks), ..self }
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
        let left = u32::try_from(self.plan.passes().all()).unwrap_or(u32::MAX);
        if self.is_hurried() { Some(self.step.saturating_add(left)) } else { self.steps_max }
    }

    /// Passes that are left at most, also where the policy names no bound.
    pub fn passes(&self) -> Passes {
        self.plan.passes()
    }

    /// Cells of a block, as the policy sets them; `None` of a text that was full at the start.
    pub fn block_length(&self) -> Option<NonZeroUsize> {
        let length = Some(self.policy.block_length).filter(|length| *length != NonZeroU32::MAX);
        length.and_then(|length| length.try_into().ok())
    }

    /// Whether the next step is one of a plan with fewer steps than the policy's.
    pub fn is_hurried(&self) -> bool {
        self.plan.is_hurried()
    }

    /// The cells to read next; `None` once nothing can change any more.
    pub fn window(&self) -> Option<Range<usize>> {
        let range = self.plan.front()?.range.clone();
        Some(match &self.correction {
            None if self.is_proposing() => range.start..self.canvas.len(),
            Some(_) if !self.is_hurried() => 0..range.end,
            Some(_) | None => range,
        })
    }

    /// What the next pass may take from an earlier one; `None` where it reads the whole canvas.
    pub fn reuse(&self) -> Option<Reuse<'_>> {
        let corrects = self.correction.is_some() || self.is_proposing();
        self.plan.front().filter(|_| !corrects).and_then(|block| self.kept.reuse(&self.canvas, &block.range))
    }

    /// What the next pass reads in place of the canvas: the same without blanks, in a step that
    /// corrects. What is proposed for the blanks of the canvas is then read there, too.
    pub fn shown(&self) -> Option<&Canvas> {
        self.correction.as_ref().map(Correction::canvas)
    }

    /// Whether the next pass proposes the tokens of a working copy, which are the most probable
    /// ones at any temperature.
    pub fn is_proposing(&self) -> bool {
        self.correction.is_none() && self.plan.front().is_some_and(|block| block.schedule.corrector_passes() > 0)
    }

    /// Whether no cell is final before the last step: the policy corrects finished blocks.
    pub fn is_final_at_end(&self) -> bool {
        self.policy.remasking.correcting().is_some()
    }

    /// Whether the next block to read has been full, and is now proofread.
    pub fn is_proofreading(&self) -> bool {
        self.plan.front().is_some_and(|block| block.schedule.is_proofreading())
    }

    /// What the next step needs to know about the cells of its block. The pace is not used while a
    /// run is shortened, whose blocks may be larger, and while a block is proofread.
    pub fn needs(&self) -> Needs {
        let needs = self.policy.needs().and(self.kept.needs());
        let needs = Needs { shift: needs.shift && !self.is_hurried() && !self.is_proofreading(), ..needs };
        match self.correction {
            Some(_) if !self.is_hurried() => needs.and(Needs::BEST),
            None if self.is_proofreading() => needs.and(Needs::QUALITY),
            Some(_) | None => needs,
        }
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
        self.correction = None;
    }

    /// Takes one step: erases, replaces and fills from one reading of the current window. The cells
    /// filled were blank before the step, the cells erased and replaced were filled before it, so
    /// no cell is changed twice. Of the passes that correct, each is a step, but only the last one
    /// makes edits.
    ///
    /// # Errors
    /// When the reading is not one of this canvas and window; the canvas is then unchanged.
    pub fn advance(&mut self, reading: &Reading) -> Result<StepOutcome, ReadingError> {
        let Some(block) = self.plan.front().cloned() else {
            return Ok(StepOutcome { step: self.step, edits: Vec::new(), erased_by: None, finished: None });
        };
        let passes = if self.is_proposing() { block.schedule.corrector_passes() } else { 0 };
        if passes > 0 {
            self.check(block.range.start..self.canvas.len(), reading)?;
            self.correction = Some(Correction::new(&self.canvas, &reading.proposals, passes));
            return Ok(self.go_on());
        }
        self.check(block.range.clone(), reading)?;
        let is_corrected = self.correction.is_some() && !self.is_hurried();
        let range = if is_corrected { 0..block.range.end } else { block.range.clone() };
        let filled = if self.sees_filled() { self.filled(range, reading) } else { Vec::new() };
        if is_corrected && self.correct(reading, &filled) {
            return Ok(self.go_on());
        }
        let shifts = self.shifts.take(&reading.distributions);
        let chooser = Chooser { policy: &self.policy, postponed: &self.postponed, seed: self.seed, step: self.step };
        let (edits, skipped) = chooser.choose(&block, reading, &shifts, &filled);
        let mut canvas = self.canvas.clone();
        edits.iter().try_for_each(|edit| canvas.apply(edit))?;
        let before = std::mem::replace(&mut self.canvas, canvas);
        self.correction = None;
        self.kept.passed(&before, &block.range, &filled);
        self.traces.remember(&self.policy.remasking, &filled, &edits, self.step + 1);
        if let Some(rewritten) = &mut self.rewritten {
            edits.iter().for_each(|edit| rewritten.take(edit));
        }
        if let Some(credits) = &mut self.credits {
            credits.take(&reading.favourites);
            edits.iter().for_each(|edit| credits.forget(edit.at()));
        }
        edits.iter().for_each(|edit| self.shifts.forget(edit.at()));

        let step = self.step;
        self.step += 1;
        self.plan.skip(skipped);
        let changed = count(edits.iter().filter(|edit| !matches!(edit, Edit::Fill { .. })));
        let finished = self.plan.advance(&self.canvas, count(edits.iter()), changed);
        let rule = self.policy.remasking.rule.name;
        let eraser = if block.schedule.is_proofreading() { PROOFREADING } else { rule };
        let erased_by = edits.iter().any(|edit| matches!(edit, Edit::Erase { .. })).then_some(eraser);
        Ok(StepOutcome { step, edits, erased_by, finished })
    }

    /// Checks that the proposals are those of the blanks in `range`.
    fn check(&self, range: Range<usize>, reading: &Reading) -> Result<(), ReadingError> {
        if self.canvas.blanks(range.clone()).eq(reading.proposals.iter().map(|proposal| proposal.at)) {
            return Ok(());
        }
        let blanks = self.canvas.blanks(range).count();
        Err(ReadingError::NotTheBlanks { given: reading.proposals.len(), blanks })
    }

    /// Takes the most probable tokens into the working copy, but of the filled cells only those
    /// that may be replaced. True if it has to be read again.
    fn correct(&mut self, reading: &Reading, filled: &[FilledCell]) -> bool {
        let is_blank = |best: &&Best| self.canvas.cells().get(best.at.index()) == Some(&Cell::Blank);
        let best = reading.best.iter().filter(is_blank).copied();
        let best: Vec<Best> = best.chain(filled.iter().filter_map(|cell| cell.best)).collect();
        self.correction.as_mut().is_some_and(|correction| correction.rewrite(&best))
    }

    /// A pass that makes no edits.
    fn go_on(&mut self) -> StepOutcome {
        let step = self.step;
        self.step += 1;
        self.plan.begin();
        StepOutcome { step, edits: Vec::new(), erased_by: None, finished: None }
    }

    /// Whether a rule of this step decides by what is filled.
    fn sees_filled(&self) -> bool {
        let is_adaptive = matches!(self.policy.pace, Pace::Adaptive { .. });
        is_adaptive || self.is_proofreading() || self.policy.remasking.rule != &OFF || !self.kept.is_off()
    }

    /// The filled cells of a range as rules see them: those that may be erased and replaced.
    fn filled(&self, range: Range<usize>, reading: &Reading) -> Vec<FilledCell> {
        let Reading { reviews, present, best, .. } = reading;
        let cell = |(at, token): (Position, TokenId)| {
            let quality = find(reviews, at, |review| review.at).map(|review| review.quality);
            let present = find(present, at, |present| present.at).map(|present| present.confidence);
            let best = find(best, at, |best| best.at).filter(|best| !self.postponed.contains(&best.token));
            let Trace { confidence, seen_from, memory } = self.traces.of(at);
            FilledCell { at, token, confidence, age: self.step - seen_from + 1, quality, present, best, memory }
        };
        let is_same = |at: &Position| self.rewritten.as_ref().is_some_and(|rewritten| rewritten.is_same(*at));
        let may_go = |(at, token): &(Position, TokenId)| self.judges(*token) && !is_same(at);
        self.canvas.filled(range).filter(may_go).map(cell).collect()
    }
}

/// The entry of cell `at`, of entries that are in the order of their cells.
fn find<T: Copy>(entries: &[T], at: Position, place: impl Fn(&T) -> Position) -> Option<T> {
    entries.binary_search_by_key(&at, place).ok().map(|index| entries[index])
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32_of(items.count())
}
