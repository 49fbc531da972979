//! The flags about refinement, which `generate`, `infill` and `eval infill` share.

use super::policy::PolicyArgs;
use crate::engine::{EndOfText, Proofreading, Request, Task};
use clap::{Args, ValueEnum};

/// Flags about refinement.
#[derive(Args, Clone, Debug)]
pub(super) struct RefineArgs {
    /// Number of steps, one forward pass each [default: one per blank]
    #[arg(long)]
    steps: Option<u32>,
    /// Cells per block. Blocks are refined from left to right [default: the model's]
    #[arg(long)]
    block_length: Option<u32>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Steps per block to proofread it once it is full [default: the model's]
    #[arg(long, value_name = "N")]
    proofread: Option<u32>,
    /// Quality below which proofreading writes a token again
    #[arg(long, value_name = "0..1", requires = "proofread")]
    proofread_below: Option<f32>,
    /// When tokens that end a text may be filled in
    #[arg(long, default_value = "free")]
    end_of_text: EndOfTextWord,
    /// Classifier-free guidance weight
    #[arg(long, default_value_t = 0.0)]
    cfg_scale: f32,
    /// Sampling temperature. 0 takes the most probable token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Random seed. The same seed gives the same answer
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EndOfTextWord {
    /// Like any other
    Free,
    /// After all else of their block
    Last,
    /// Never
    Never,
}

impl RefineArgs {
    /// A request for `task` with these settings.
    pub(super) fn request(&self, task: Task) -> Request {
        Request {
            order: self.policy.order,
            pace: self.policy.pace,
            steps: self.steps,
            block_length: self.block_length,
            remasking: self.policy.remasking,
            proofreading: self.proofread.map(|steps| Proofreading {
                steps: Some(steps),
                below: self.proofread_below,
                most: None,
                temperature: None,
            }),
            end_of_text: match self.end_of_text {
                EndOfTextWord::Free => EndOfText::Free,
                EndOfTextWord::Last => EndOfText::Last,
                EndOfTextWord::Never => EndOfText::Never,
            },
            cfg_scale: self.cfg_scale,
            temperature: self.temperature,
            seed: self.seed,
            ..Request::new(task)
        }
    }
}
