//! The flags about refinement, which `generate`, `infill` and `eval infill` share.

use crate::diffusion::Order;
use crate::engine::{EndOfText, Proofreading, Remasking, Request, Task};
use anyhow::bail;
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
    /// Which blank is filled first
    #[arg(long, default_value = "confidence")]
    unmasking: Unmasking,
    /// Fill every blank whose confidence reaches this, however many, instead of an even share per step
    #[arg(long, value_name = "0..1")]
    threshold: Option<f32>,
    /// Which filled cells are erased again; default: by quality if the model has a head
    #[arg(long)]
    remasking: Option<RemaskingWord>,
    /// Erasures per block at most
    #[arg(long, value_name = "N")]
    remask_budget: Option<u32>,
    /// Erase only where the quality is below this
    #[arg(long, value_name = "0..1")]
    remask_below: Option<f32>,
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
    /// Sampling temperature. 0 takes the most probable token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Random seed. The same seed gives the same answer
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Unmasking {
    Confidence,
    Margin,
    Entropy,
    Random,
    Leftmost,
}

impl From<Unmasking> for Order {
    fn from(word: Unmasking) -> Self {
        match word {
            Unmasking::Confidence => Self::Confidence,
            Unmasking::Margin => Self::Margin,
            Unmasking::Entropy => Self::Entropy,
            Unmasking::Random => Self::Random,
            Unmasking::Leftmost => Self::Leftmost,
        }
    }
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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RemaskingWord {
    Off,
    Quality,
    Confidence,
    #[value(name = "remdm")]
    ReMdm,
    Random,
}

impl RefineArgs {
    /// A request for `task` with these settings.
    pub(super) fn request(&self, task: Task) -> anyhow::Result<Request> {
        Ok(Request {
            order: self.unmasking.into(),
            threshold: self.threshold,
            steps: self.steps,
            block_length: self.block_length,
            remasking: self.remasking()?,
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
        })
    }

    fn remasking(&self) -> anyhow::Result<Option<Remasking>> {
        let (budget, below) = (self.remask_budget, self.remask_below);
        Ok(match self.remasking {
            None if budget.is_none() && below.is_none() => None,
            Some(RemaskingWord::Off) if budget.is_some() || below.is_some() => {
                bail!("--remask-budget and --remask-below do not go with --remasking off")
            }
            Some(RemaskingWord::Random | RemaskingWord::ReMdm) if below.is_some() => {
                bail!("--remask-below goes with --remasking quality or confidence")
            }
            Some(RemaskingWord::Off) => Some(Remasking::Off),
            Some(RemaskingWord::Random) => Some(Remasking::Random { budget, window: None }),
            Some(RemaskingWord::ReMdm) => Some(Remasking::ReMdm { budget, window: None }),
            Some(RemaskingWord::Confidence) => Some(Remasking::Confidence { budget, below, window: None }),
            None | Some(RemaskingWord::Quality) => Some(Remasking::Quality { budget, below, window: None }),
        })
    }
}
