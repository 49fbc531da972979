//! One answer on its way: a canvas, its blocks, and how far refinement has come. Turns readings into edits; refuses
//! to know where a reading comes from or who is waiting for the edits.

use super::canvas::{Canvas, Edit, EditError};
use super::policy::{Order, Pace, Policy, Proofreading, Remask, Stretch};
use super::random::Seed;
use super::reading::{Proposal, Reading};
use super::schedule::{Schedule, share_of_steps};
use super::select;
use super::units::{Position, Probability, TokenId, u32_of};
use std::collections::VecDeque;
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

/// A reading that does not fit the canvas it is said to be of: a fault of the model, never of the user.
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
    /// An edit drawn from it does not fit.
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
    /// Per cell, the confidence with which it was filled last; 1 where it never was.
    confidences: Vec<Probability>,
    /// Tokens that are filled in only where nothing else is left.
    postponed: Vec<TokenId>,
}

#[derive(Clone, Debug)]
struct Block {
    range: Range<usize>,
    schedule: Schedule,
}

impl Sequence {
    /// Cuts `canvas` into blocks, the first one starting at the first blank, and plans their steps. Blocks without
    /// a blank are passed over. A canvas without blanks is finished at once.
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
        let confidences = vec![Probability::ONE; canvas.len()];
        let steps_max = steps_max.map(|steps| steps.saturating_add(proofreading));
        Ok(Self { canvas, policy, seed, step: 0, steps_max, blocks, confidences, postponed: Vec::new() })
    }

    /// Takes a canvas that is full already, all of it one block, and reads it through: what is doubted of its filled cells is
    /// erased and written again. With fewer than two steps nothing can be mended, and the canvas is finished at once.
    #[must_use]
    pub fn mending(canvas: Canvas, order: Order, proofreading: Proofreading, seed: Seed) -> Self {
        let steps = proofreading.steps;
        let is_full = canvas.blanks(0..canvas.len()).next().is_none();
        let block = Block { range: 0..canvas.len(), schedule: Schedule::reading(steps) };
        let blocks = if is_full && steps >= 2 { VecDeque::from([block]) } else { VecDeque::new() };
        let policy = Policy {
            order,
            pace: Pace::Steps(NonZeroU32::MIN),
            remask: Remask::Never,
            block_length: NonZeroU32::MAX,
            proofreading: Some(proofreading),
        };
        let confidences = vec![Probability::ONE; canvas.len()];
        Self { canvas, policy, seed, step: 0, steps_max: Some(steps), blocks, confidences, postponed: Vec::new() }
    }

    /// The same, but blanks for which one of these tokens is proposed come after all others of their block, whatever the
    /// order and the pace (LLaDA's `confidence_eos_eot_inf`, arXiv 2502.09992, appendix B.4).
    #[must_use]
    pub fn postponing(self, postponed: Vec<TokenId>) -> Self {
        Self { postponed, ..self }
    }

    /// The canvas as it stands.
    #[must_use]
    pub const fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// What decides the edits.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The key of this sequence's randomness.
    #[must_use]
    pub const fn seed(&self) -> Seed {
        self.seed
    }

    /// Steps taken, each of which cost one forward pass.
    #[must_use]
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// Steps the run takes at most, where the policy bounds them.
    #[must_use]
    pub const fn steps_max(&self) -> Option<u32> {
        self.steps_max
    }

    /// The cells to read next; `None` once nothing can change any more.
    #[must_use]
    pub fn window(&self) -> Option<Range<usize>> {
        self.blocks.front().map(|block| block.range.clone())
    }

    /// Whether the next block to read has been full, and is now read through.
    #[must_use]
    pub fn is_proofreading(&self) -> bool {
        self.blocks.front().is_some_and(|block| block.schedule.is_proofreading())
    }

    /// Whether the next step needs a review of every filled cell.
    #[must_use]
    pub fn needs_quality(&self) -> bool {
        self.policy.remask.needs_quality() || self.is_proofreading()
    }

    /// Has the run finish in `passes` steps, at least one, where it might take more: what is left of the steps is shared anew,
    /// and nothing is erased or read through any more. Where there are fewer passes than blocks they become one. Returns
    /// whether anything had to be given up.
    pub fn hurry(&mut self, passes: u32) -> bool {
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
            let schedule = Schedule::hurried(passes, blanks(&self.canvas, &range));
            self.blocks = VecDeque::from([Block { range, schedule }]);
        } else {
            for (block, steps) in self.blocks.iter_mut().zip(share_of_steps(passes, blocks)) {
                block.schedule = Schedule::hurried(steps, blanks(&self.canvas, &block.range));
            }
        }
        self.steps_max = Some(self.step.saturating_add(passes));
        true
    }

    /// Drops the blocks that were not begun: what is blank stays blank.
    pub fn stop(&mut self) {
        self.blocks.clear();
    }

    /// Takes one step: erases and fills from one reading of the current window. The cells filled were blank before
    /// the step, the cells erased were filled before it, so no cell is touched twice.
    ///
    /// # Errors
    /// When the reading is not one of this canvas and window; the canvas is then unchanged.
    pub fn advance(&mut self, reading: &Reading) -> Result<StepOutcome, ReadingError> {
        let Some(block) = self.blocks.front_mut() else {
            return Ok(StepOutcome { step: self.step, edits: Vec::new(), finished: None });
        };
        let standing = (&self.canvas, &self.confidences[..]);
        let edits = choose(standing, (&self.policy, &self.postponed), block, reading, (self.seed, self.step))?;
        let mut canvas = self.canvas.clone();
        edits.iter().try_for_each(|edit| canvas.apply(edit))?;
        self.canvas = canvas;
        for edit in &edits {
            match edit {
                Edit::Fill { at, confidence, .. } => self.confidences[at.index()] = *confidence,
                Edit::Erase { .. } => {}
            }
        }

        let erased = count(edits.iter().filter(|edit| matches!(edit, Edit::Erase { .. })));
        let blanks = count(self.canvas.blanks(block.range.clone()));
        let is_finished = block.schedule.advance(count(edits.iter()), erased, blanks);
        let finished = if is_finished { self.blocks.pop_front().map(|block| block.range) } else { None };
        let step = self.step;
        self.step += 1;
        Ok(StepOutcome { step, edits, finished })
    }
}

/// Classes of proposals, the first to be filled first.
const READY: u8 = 0;
const WAITING: u8 = 1;
const POSTPONED: u8 = 2;

/// The edits of one step, erasures first.
fn choose(
    standing: (&Canvas, &[Probability]),
    (policy, postponed): (&Policy, &[TokenId]),
    block: &Block,
    reading: &Reading,
    key: (Seed, u32),
) -> Result<Vec<Edit>, ReadingError> {
    let (canvas, _) = standing;
    let blanks = count(canvas.blanks(block.range.clone()));
    if !canvas.blanks(block.range.clone()).eq(reading.proposals.iter().map(|proposal| proposal.at)) {
        return Err(ReadingError::NotTheBlanks { given: reading.proposals.len(), blanks: blanks as usize });
    }
    let threshold = block.schedule.threshold();
    let class = |proposal: &Proposal| match threshold {
        _ if postponed.contains(&proposal.token) => POSTPONED,
        Some(threshold) if proposal.confidence >= threshold => READY,
        Some(_) | None => WAITING,
    };
    let ready = count(reading.proposals.iter().filter(|proposal| class(proposal) == READY));

    let erasures_max = block.schedule.erasures_max(blanks, ready);
    let remask = match policy.proofreading {
        Some(proofreading) if block.schedule.is_proofreading() => doubt(&proofreading, &block.schedule, reading),
        Some(_) | None => policy.remask,
    };
    let erasures_max = match policy.proofreading.and_then(|proofreading| proofreading.most) {
        Some(most) if block.schedule.is_proofreading() => erasures_max.min(most.get()),
        Some(_) | None => erasures_max,
    };
    let mut edits = select::erasures(&remask, standing, block.range.clone(), reading, erasures_max, key);
    let fills = block.schedule.fills(blanks, ready, count(edits.iter()));

    edits.extend(select::fills(policy.order, &reading.proposals, class, fills, key));
    Ok(edits)
}

/// What a round of proofreading erases: nothing, where nothing is doubted.
fn doubt(proofreading: &Proofreading, schedule: &Schedule, reading: &Reading) -> Remask {
    match reading.reviews.iter().any(|review| review.quality < proofreading.below) {
        false => Remask::Never,
        true => {
            let below = Some(proofreading.bar(schedule.rounds()));
            Remask::Quality { budget: u32::MAX, below, window: Stretch::WHOLE }
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32_of(items.count())
}
