//! One sequence: a canvas, its blocks, and how far refinement has come. Turns readings into edits.
//! Out of scope: where a reading comes from, and who receives the edits.

use super::canvas::{Canvas, Edit, EditError};
use super::policy::{Choice, FilledCell, Needs, OFF, Pace, Policy, Proofreading};
use super::random::{DrawKey, Seed};
use super::reading::{Proposal, Reading};
use super::schedule::{Schedule, share_of_steps};
use super::units::{Position, Probability, TokenId, u32_of};
use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::ops::Range;

/// Why a policy does not fit a canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A block needs a step of its own.
    #[error(
        "{steps} steps are too few for {blocks} blocks, each of which needs at least one; \
         give at least {blocks} steps or a larger block length"
    )]
    TooFewSteps {
        /// Steps given for the whole run.
        steps: u32,
        /// Blocks that hold a blank.
        blocks: u32,
    },
}

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
    /// The changes, erasures first; no cell appears twice.
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
    blocks: VecDeque<Block>,
    /// One per cell of the canvas.
    traces: Vec<Trace>,
    /// Tokens that are filled in only where nothing else is left.
    postponed: Vec<TokenId>,
}

#[derive(Clone, Debug)]
struct Block {
    range: Range<usize>,
    schedule: Schedule,
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
        let length = policy.block_length.get() as usize;
        let start = canvas.blanks(0..canvas.len()).next().map_or(canvas.len(), Position::index);
        let with_blanks: Vec<(Range<usize>, u32)> = (start..canvas.len())
            .step_by(length)
            .map(|from| from..canvas.len().min(from.saturating_add(length)))
            .map(|range| (range.clone(), count(canvas.blanks(range))))
            .filter(|(_, blanks)| *blanks > 0)
            .collect();
        let blocks = count(with_blanks.iter());
        let steps_max = policy.pace.steps_max().map(NonZeroU32::get);
        if let Some(steps) = steps_max
            && steps < blocks
        {
            return Err(PolicyError::TooFewSteps { steps, blocks });
        }
        let proofreading = policy.proofreading.map_or(0, |proofreading| proofreading.steps.saturating_mul(blocks));
        let mut shares = steps_max.into_iter().flat_map(|steps| share_of_steps(steps, blocks.max(1)));
        let blocks = with_blanks
            .into_iter()
            .map(|(range, blanks)| {
                let schedule = Schedule::new(&policy, shares.next(), blanks);
                Block { range, schedule }
            })
            .collect();
        let steps_max = steps_max.map(|steps| steps.saturating_add(proofreading));
        Ok(Self::of(canvas, policy, seed, blocks, steps_max))
    }

    /// Takes a canvas that is full already as one block, and proofreads it: the filled cells that
    /// the quality head doubts are erased and written again. With fewer than two steps nothing can
    /// be changed, and the sequence is finished at once.
    pub fn proofread(canvas: Canvas, order: Choice, proofreading: Proofreading, seed: Seed) -> Self {
        let steps = proofreading.steps;
        let is_full = canvas.blanks(0..canvas.len()).next().is_none();
        let block = Block { range: 0..canvas.len(), schedule: Schedule::proofreading(steps) };
        let blocks = if is_full && steps >= 2 { VecDeque::from([block]) } else { VecDeque::new() };
        let policy = Policy {
            order,
            pace: Pace::Steps(NonZeroU32::MIN),
            remasking: Choice::of(&OFF),
            block_length: NonZeroU32::MAX,
            proofreading: Some(proofreading),
        };
        Self::of(canvas, policy, seed, blocks, Some(steps))
    }

    fn of(canvas: Canvas, policy: Policy, seed: Seed, blocks: VecDeque<Block>, steps_max: Option<u32>) -> Self {
        let traces = vec![Trace::GIVEN; canvas.len()];
        Self { canvas, policy, seed, step: 0, steps_max, blocks, traces, postponed: Vec::new() }
    }

    /// The same, but blanks for which one of these tokens is proposed are filled after all others
    /// of their block, whatever the order and the pace (LLaDA's `confidence_eos_eot_inf`, arXiv
    /// 2502.09992, appendix B.4).
    #[must_use]
    pub fn postponing(self, postponed: Vec<TokenId>) -> Self {
        Self { postponed, ..self }
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

    /// Steps the run takes at most, where the policy bounds them.
    pub const fn steps_max(&self) -> Option<u32> {
        self.steps_max
    }

    /// The cells to read next; `None` once nothing can change any more.
    pub fn window(&self) -> Option<Range<usize>> {
        self.blocks.front().map(|block| block.range.clone())
    }

    /// Whether the next block to read has been full, and is now proofread.
    pub fn is_proofreading(&self) -> bool {
        self.blocks.front().is_some_and(|block| block.schedule.is_proofreading())
    }

    /// What the next step needs to know about every filled cell.
    pub fn needs(&self) -> Needs {
        if self.is_proofreading() { self.policy.needs().and(Needs::QUALITY) } else { self.policy.needs() }
    }

    /// Shortens the run to `passes` more steps, at least one, where it might take more: the steps
    /// left are shared anew, and nothing is erased or proofread any more. With fewer passes than
    /// blocks the blocks become one. Returns whether steps were given up.
    pub fn shorten(&mut self, passes: u32) -> bool {
        let to_go = self.blocks.iter().map(|block| block.schedule.steps_to_go());
        if to_go.fold(0, u32::saturating_add) <= passes {
            return false;
        }
        let blanks = |canvas: &Canvas, range: &Range<usize>| count(canvas.blanks(range.clone()));
        let passes = passes.max(1);
        let blocks = count(self.blocks.iter());
        if passes < blocks {
            let ends = self.blocks.front().zip(self.blocks.back());
            let Some(range) = ends.map(|(first, last)| first.range.start..last.range.end) else { return false };
            let schedule = Schedule::shortened(passes, blanks(&self.canvas, &range));
            self.blocks = VecDeque::from([Block { range, schedule }]);
        } else {
            for (block, steps) in self.blocks.iter_mut().zip(share_of_steps(passes, blocks)) {
                block.schedule = Schedule::shortened(steps, blanks(&self.canvas, &block.range));
            }
        }
        self.steps_max = Some(self.step.saturating_add(passes));
        true
    }

    /// Drops the blocks that were not begun: what is blank stays blank.
    pub fn stop(&mut self) {
        self.blocks.clear();
    }

    /// Takes one step: erases and fills from one reading of the current window. The cells filled
    /// were blank before the step, the cells erased were filled before it, so no cell is changed
    /// twice.
    ///
    /// # Errors
    /// When the reading is not one of this canvas and window; the canvas is then unchanged.
    pub fn advance(&mut self, reading: &Reading) -> Result<StepOutcome, ReadingError> {
        let Some(block) = self.blocks.front() else {
            return Ok(StepOutcome { step: self.step, edits: Vec::new(), finished: None });
        };
        let filled = if self.sees_filled() { self.filled(block.range.clone(), reading) } else { Vec::new() };
        let edits = self.choose(block, reading, &filled)?;
        let mut canvas = self.canvas.clone();
        edits.iter().try_for_each(|edit| canvas.apply(edit))?;
        self.canvas = canvas;
        self.remember(&filled, &edits);

        let step = self.step;
        self.step += 1;
        let Some(block) = self.blocks.front_mut() else { return Ok(StepOutcome { step, edits, finished: None }) };
        let erased = count(edits.iter().filter(|edit| matches!(edit, Edit::Erase { .. })));
        let blanks = count(self.canvas.blanks(block.range.clone()));
        let is_finished = block.schedule.advance(count(edits.iter()), erased, blanks);
        let finished = if is_finished { self.blocks.pop_front().map(|block| block.range) } else { None };
        Ok(StepOutcome { step, edits, finished })
    }

    /// Whether a rule of this step decides by what is filled.
    fn sees_filled(&self) -> bool {
        let is_adaptive = matches!(self.policy.pace, Pace::Adaptive { .. });
        is_adaptive || self.is_proofreading() || self.policy.remasking.rule != &OFF
    }

    /// The filled cells of a block as rules see them.
    fn filled(&self, range: Range<usize>, reading: &Reading) -> Vec<FilledCell> {
        let mut reviews = reading.reviews.iter().peekable();
        let mut presents = reading.present.iter().peekable();
        let cell = |(at, token): (Position, TokenId)| {
            while reviews.next_if(|review| review.at < at).is_some() {}
            let quality = reviews.next_if(|review| review.at == at).map(|review| review.quality);
            while presents.next_if(|present| present.at < at).is_some() {}
            let present = presents.next_if(|present| present.at == at).map(|present| present.confidence);
            let Trace { confidence, seen_from, memory } = self.traces[at.index()];
            FilledCell { at, token, confidence, age: self.step - seen_from + 1, quality, present, memory }
        };
        self.canvas.filled(range).map(cell).collect()
    }

    /// The edits of one step, erasures first.
    fn choose(&self, block: &Block, reading: &Reading, filled: &[FilledCell]) -> Result<Vec<Edit>, ReadingError> {
        let (schedule, proposals) = (&block.schedule, &reading.proposals[..]);
        let blanks = count(self.canvas.blanks(block.range.clone()));
        if !self.canvas.blanks(block.range.clone()).eq(proposals.iter().map(|proposal| proposal.at)) {
            return Err(ReadingError::NotTheBlanks { given: proposals.len(), blanks: blanks as usize });
        }
        let key = DrawKey { seed: self.seed, step: self.step };
        let at_once = match self.policy.pace {
            Pace::Adaptive { rule, .. } if schedule.is_adaptive() => rule.decide(proposals, filled, key),
            Pace::Adaptive { .. } | Pace::Steps(_) => Vec::new(),
        };
        let places: BTreeSet<Position> = at_once.iter().map(Edit::at).collect();
        let class = |fill: &Edit| match fill {
            Edit::Fill { token, .. } if self.postponed.contains(token) => Class::Postponed,
            fill if places.contains(&fill.at()) => Class::AtOnce,
            _ => Class::InTurn,
        };
        let ready = count(at_once.iter().filter(|fill| class(fill) == Class::AtOnce));

        let remasking = self.remasking(schedule, filled, schedule.erasures_max(blanks, ready));
        let mut edits = remasking.map_or_else(Vec::new, |(rule, most)| {
            let mut erasures = rule.decide(proposals, filled, key);
            erasures.truncate(most as usize);
            erasures
        });
        let fills_max = schedule.fills(blanks, ready, count(edits.iter()));
        edits.extend(fills(&self.policy.order, proposals, class, fills_max, key));
        Ok(edits)
    }

    /// What erases in this step, if anything: the policy's remasking, or a round of proofreading.
    /// And how many cells at most, where the schedule has room for `most`.
    fn remasking(&self, schedule: &Schedule, filled: &[FilledCell], most: u32) -> Option<(Choice, u32)> {
        match self.policy.proofreading {
            _ if most == 0 => None,
            Some(proofreading) if schedule.is_proofreading() => {
                let most = proofreading.most.map_or(most, |limit| most.min(limit.get()));
                proofreading.remasking(schedule.rounds(), filled).map(|rule| (rule, most))
            }
            Some(_) | None => Some((self.policy.remasking, most)),
        }
    }

    /// Keeps what the next steps may ask about the cells: of those that stay, and of those just
    /// filled.
    fn remember(&mut self, filled: &[FilledCell], edits: &[Edit]) {
        if let Some(remember) = self.policy.remasking.rule.remember {
            for cell in filled {
                self.traces[cell.at.index()].memory = remember(cell);
            }
        }
        for edit in edits {
            match edit {
                Edit::Fill { at, confidence, .. } => {
                    let seen_from = self.step + 1;
                    self.traces[at.index()] = Trace { confidence: *confidence, seen_from, memory: 0.0 };
                }
                Edit::Erase { .. } => {}
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

/// Fills of the first `count` blanks in `order`; fills of a lower class come before all of a higher
/// one. Training fills blanks in the same way.
pub fn fills<C: Ord>(
    order: &Choice,
    proposals: &[Proposal],
    class: impl Fn(&Edit) -> C,
    count: u32,
    key: DrawKey,
) -> Vec<Edit> {
    let mut fills = order.decide(proposals, &[], key);
    if fills.len() < proposals.len() {
        // no blank is lost: those that the order leaves out come last
        let ranked: BTreeSet<Position> = fills.iter().map(Edit::at).collect();
        fills.extend(proposals.iter().filter(|proposal| !ranked.contains(&proposal.at)).map(Proposal::fill));
    }
    fills.sort_by_key(class); // the sort is stable
    fills.truncate(count as usize);
    fills
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32_of(items.count())
}
