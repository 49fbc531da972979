//! Small runs of the algorithm, drawn: the canvas before each step and the step's edits in the order they were chosen,
//! erasures first. What is read is scripted: a reading knows the right words and errs where the story says so.

mod blocks;
mod erasing;
mod filling;
mod proofreading;
mod script;

use remask::diffusion::{Order, Pace, Policy, Proofreading, Remask, Stretch};
use script::tenths;
use std::num::NonZeroU32;

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn steps(count: u32) -> Policy {
    Policy {
        order: Order::Confidence,
        pace: Pace::Steps(number(count)),
        remask: Remask::Never,
        block_length: NonZeroU32::MAX,
        proofreading: None,
    }
}

/// Five tenths is what is doubted.
fn proofread(steps: u32, policy: Policy) -> Policy {
    Policy { proofreading: Some(Proofreading { steps, below: tenths(5), most: None }), ..policy }
}

/// No bound on the steps; 0.7 is enough.
fn threshold(steps_max: Option<u32>) -> Policy {
    let pace = Pace::Threshold { threshold: tenths(7), steps_max: steps_max.map(number) };
    Policy { pace, ..steps(1) }
}

fn worst(budget: u32) -> Remask {
    Remask::Quality { budget, below: None, window: Stretch::WHOLE }
}

fn doubtful(budget: u32, below: u8) -> Remask {
    Remask::Quality { budget, below: Some(tenths(below)), window: Stretch::WHOLE }
}
