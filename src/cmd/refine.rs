//! How a canvas is refined: the flags that `generate` and `infill` share, turned into a request.

use super::policy::PolicyArgs;
use crate::diffusion::TokenId;
use crate::engine::{EndOfText, Proofreading, Request, Task};
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::io::Read;

/// Flags about refinement.
#[derive(Args, Clone, Debug)]
pub(super) struct RefineArgs {
    /// Steps for the whole run, one forward pass each; default: one per blank
    #[arg(long)]
    steps: Option<u32>,
    /// Cells per block, refined left to right; default: the model's
    #[arg(long)]
    block_length: Option<u32>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Steps per block in which the full canvas is read through and what is doubted written again; default: the model's
    #[arg(long, value_name = "N")]
    proofread: Option<u32>,
    /// Write again what is judged below this in proofreading
    #[arg(long, value_name = "0..1", requires = "proofread")]
    proofread_below: Option<f32>,
    /// When tokens that end a text may be filled in
    #[arg(long, default_value = "free")]
    end_of_text: EndOfTextWord,
    /// Classifier-free guidance weight
    #[arg(long, default_value_t = 0.0)]
    cfg_scale: f32,
    /// 0 takes the most probable token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Makes a run repeatable
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
    /// The request for `task`.
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

/// `text`, or standard input where it is `-`; the line end at the end of that is not part of it.
pub(super) fn text_or_stdin(text: &str) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).context("cannot read the prompt from standard input")?;
    Ok(input.strip_suffix('\n').unwrap_or(&input).to_owned())
}

/// Ids as typed, `1,2,3`; `_` is a blank.
pub(super) fn cells(typed: &str) -> anyhow::Result<Vec<Option<TokenId>>> {
    let cell = |word: &str| match word.trim() {
        "_" => Ok(None),
        word => word.parse().map(|id| Some(TokenId(id))).with_context(|| {
            format!("{word:?} is no token id; give numbers separated by commas, as 1,2,3 (in infill, _ for a blank)")
        }),
    };
    typed.split(',').map(cell).collect()
}

/// Ids as typed, without blanks.
pub(super) fn ids(typed: &str) -> anyhow::Result<Vec<TokenId>> {
    let ids: Option<Vec<TokenId>> = cells(typed)?.into_iter().collect();
    ids.context("_ stands for a blank, which only `remask infill` fills")
}
