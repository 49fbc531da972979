//! Rollouts: rows that the sampler keeps refining between training steps, so that the head also
//! sees the canvases that many steps lead to.

use super::error::TrainError;
use crate::diffusion::policy::{BUDGET, Choice, QUALITY, order};
use crate::diffusion::{
    Canvas, Draws, Pace, Policy, Position, Probability, Proofreading, Purpose, Reading, Seed, Sequence, u32_of,
};
use std::num::NonZeroU32;

const PROOFREADING_STEPS_MAX: u32 = 12;

#[derive(Clone, Debug)]
pub(super) struct Rollout {
    pub(super) sequence: Sequence,
    pub(super) truth: Vec<u32>,
    pub(super) temperature: f32,
}

impl Rollout {
    /// Starts from a canvas whose first blanks are filled. `seed` decides the policy.
    pub(super) fn begin(canvas: Canvas, truth: Vec<u32>, seed: Seed) -> Result<Self, TrainError> {
        let blanks = canvas.blanks(0..canvas.len()).count();
        let (policy, temperature) = draw_policy(seed, u32_of(blanks));
        let sequence = Sequence::new(canvas, policy, seed).map_err(|error| TrainError::Failed(error.to_string()))?;
        Ok(Self { sequence, truth, temperature })
    }

    /// Takes one sampler step. `None` when the sequence was finished before.
    pub(super) fn advance(mut self, reading: &Reading) -> Result<Option<Self>, TrainError> {
        if self.sequence.window().is_none() {
            return Ok(None);
        }
        self.sequence.advance(reading).map_err(|error| TrainError::Failed(error.to_string()))?;
        Ok(Some(self))
    }
}

/// A policy and a temperature for a row. 60 % of the rows are filled in random order at temperature
/// 1, as in the paper, the others by confidence. A step fills 1, 2 or 4 cells and erases 0 to 4.
fn draw_policy(seed: Seed, blanks: u32) -> (Policy, f32) {
    let [choice, pace, erasing] = Draws::new(seed, Purpose::Fill, u32::MAX, Position(u32::MAX)).uniforms();
    let (order, temperature) = match choice {
        choice if choice < 0.6 => (&order::RANDOM, 1.0),
        choice if choice < 0.8 => (&order::CONFIDENCE, 1.0),
        _ => (&order::CONFIDENCE, 0.0),
    };
    let (per_step, erased) = (1 << (pace * 3.0) as u32, (erasing * 5.0) as u32);
    let steps = NonZeroU32::new(blanks.div_ceil(per_step)).unwrap_or(NonZeroU32::MIN);
    let remasking = Choice::of(&QUALITY).with(BUDGET.name, erased * steps.get());
    let proofreading = Some(Proofreading { steps: PROOFREADING_STEPS_MAX, below: Probability::HALF, most: None });
    let (order, pace, block_length) = (Choice::of(order), Pace::Steps(steps), NonZeroU32::MAX);
    (Policy { order, pace, remasking, block_length, proofreading }, temperature)
}
