//! Requests that are shortened when many are queued. Out of scope: by how much.

use crate::diffusion::{Pace, Policy, Proofreading, u32_of};
use std::num::NonZeroU32;

/// `policy` with a share of its steps, at least one for each block of a canvas of `cells` cells.
pub(super) fn fewer_steps(policy: Policy, cells: usize, share: f32) -> Policy {
    // the first block may begin anywhere
    let blocks = u32_of(cells.div_ceil(policy.block_length.get() as usize) + 1);
    let pace = match policy.pace {
        Pace::Steps(steps) => Pace::Steps(reduced(steps, share).max(steps.min(blocks.try_into().unwrap_or(steps)))),
        Pace::Adaptive { .. } => policy.pace,
    };
    let proofreading = policy.proofreading.map(|proofreading| less_proofreading(proofreading, share));
    Policy { pace, proofreading, ..policy }
}

pub(super) fn less_proofreading(proofreading: Proofreading, share: f32) -> Proofreading {
    let steps = NonZeroU32::new(proofreading.steps).map_or(0, |steps| reduced(steps, share).get().max(2));
    Proofreading { steps: steps.min(proofreading.steps), ..proofreading }
}

/// A share of some steps, rounded up.
fn reduced(steps: NonZeroU32, share: f32) -> NonZeroU32 {
    let fewer = (f64::from(steps.get()) * f64::from(share)).ceil() as u32;
    NonZeroU32::new(fewer).map_or(steps, |fewer| fewer.min(steps))
}
