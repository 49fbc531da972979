//! Small runs of the algorithm as drawings: the canvas before each step and the edits of the step
//! in the order they were chosen, erasures first. Readings are scripted: the right words, with
//! mistakes where a story names them.

mod blocks;
mod erasing;
mod filling;
mod holding;
mod proofreading;
mod replacing;
mod script;

use remask::diffusion::policy::{BELOW, BUDGET, OFF, QUALITY, THRESHOLD, order};
use remask::diffusion::{Choice, Pace, Policy, Proofreading};
use script::tenths;
use std::num::NonZeroU32;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn steps(count: u32) -> Policy {
    Policy {
        order: Choice::of(&order::CONFIDENCE),
        pace: Pace::Steps(number(count)),
        remasking: Choice::of(&OFF),
        block_length: NonZeroU32::MAX,
        proofreading: None,
    }
}

/// Reads full canvases again; cells of a quality below 0.5 are doubtful.
fn proofread(steps: u32, policy: Policy) -> Policy {
    Policy { proofreading: Some(Proofreading { steps, below: tenths(5), most: None }), ..policy }
}

/// Fills all blanks of a confidence of 0.7 or more, in at most this many steps.
fn threshold(steps_max: Option<u32>) -> Policy {
    let rule = Choice::of(&THRESHOLD).with(THRESHOLD.name, tenths(7).get());
    let pace = Pace::Adaptive { rule, steps_max: steps_max.map(number) };
    Policy { pace, ..steps(1) }
}

fn worst(budget: u32) -> Choice {
    Choice::of(&QUALITY).with(BUDGET.name, budget)
}

fn doubtful(budget: u32, below: u8) -> Choice {
    worst(budget).with(BELOW.name, tenths(below).get())
}
