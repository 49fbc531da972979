//! The flags that commands about requests share: the prompt, and refinement.

use super::{
    environment::UsageError,
    flag_names::{IDS, Names, REMASK, TEXT},
    policy::{PolicyArgs, goes_with},
    sampling::WritingArgs,
    words::{Proofread, count, number, proofread},
};
use crate::diffusion::TokenId;
use crate::diffusion::policy::COUNT_MAX;
use crate::engine::{Proofreading, Request, Task};
use crate::files;
use crate::text::quoted;
use anyhow::{Context, ensure};
use clap::Args;
use std::io::Read;
use std::path::Path;

#[derive(Args, Clone, Debug)]
pub(super) struct PromptArgs {
    /// The prompt text, or `-` to read it from standard input. For `infill` it contains the blanks
    #[arg(long, visible_alias = "template", conflicts_with = "prompt_ids")]
    pub(super) prompt: Option<String>,
    /// The prompt as token ids, for example 1,2,3. For `infill`, `_` is a blank
    #[arg(long, value_name = "IDS")]
    pub(super) prompt_ids: Option<String>,
}

impl PromptArgs {
    /// What errors call the prompt.
    pub(super) const fn names(&self) -> Names {
        if self.prompt_ids.is_some() { IDS } else { TEXT }
    }
}

/// Most bytes of a prompt on standard input or in a file: a canvas of a million cells.
const STDIN_MAX: u64 = 16 << 20;

/// `text`, or standard input without its last newline where `text` is `-`.
pub(super) fn text_or_stdin(text: &str) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut input = String::new();
    let mut bytes = std::io::stdin().take(STDIN_MAX + 1);
    bytes.read_to_string(&mut input).context("cannot read the prompt from standard input")?;
    ensure!(bytes.limit() > 0, "standard input has more than {STDIN_MAX} bytes, and no prompt is as long; give less");
    Ok(input.strip_suffix('\n').unwrap_or(&input).to_owned())
}

/// The text of a file without its last newline.
pub(super) fn text_of_file(file: &Path) -> anyhow::Result<String> {
    let bytes = files::read(file, STDIN_MAX).with_context(|| format!("cannot read {}", file.display()))?;
    let text = String::from_utf8(bytes).ok().with_context(|| format!("{} is no UTF-8 text", file.display()))?;
    Ok(text.strip_suffix('\n').map_or(text.clone(), str::to_owned))
}

/// Parses ids such as `1,2,3`; `_` is a blank.
pub(super) fn cells(typed: &str) -> anyhow::Result<Vec<Option<TokenId>>> {
    let cell = |word: &str| match word.trim() {
        "_" => Ok(None),
        word => word.parse().map(|id| Some(TokenId(id))).with_context(|| {
            format!(
                "{} is no token id; give numbers separated by commas, as 1,2,3 (in infill, _ for a blank)",
                quoted(word)
            )
        }),
    };
    typed.split(',').map(cell).collect()
}

/// Parses ids such as `1,2,3`, without blanks.
pub(super) fn ids(typed: &str) -> anyhow::Result<Vec<TokenId>> {
    let ids: Option<Vec<TokenId>> = cells(typed)?.into_iter().collect();
    ids.context("_ stands for a blank, which only `remask infill` fills")
}

#[derive(Args, Clone, Debug)]
pub(super) struct RefineArgs {
    /// Preset of the model, for example `fast`, `balanced` or `quality`: it sets those of steps,
    /// block length, unmasking with its pace, remasking, proofreading, end of text and cache that
    /// no flag sets
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Number of steps, one forward pass each [default: one per blank, or the model's if less]
    #[arg(long, value_name = "N", value_parser = count::<u32>(COUNT_MAX.into()))]
    steps: Option<u32>,
    /// Cells per block. Blocks are refined from left to right [default: the model's]
    #[arg(long, value_name = "N", value_parser = count::<u32>(u32::MAX.into()))]
    block_length: Option<u32>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Steps per block to proofread it once it is full: a number from 2, `on` for the model's, or
    /// `off` [default: as the model says]
    #[arg(long, value_name = "N", value_parser = proofread())]
    proofread: Option<Proofread>,
    /// Quality below which proofreading writes a token again
    #[arg(long, value_name = "0..1", requires = "proofread", value_parser = number(0.0_f32, 1.0))]
    proofread_below: Option<f32>,
    #[command(flatten)]
    writing: WritingArgs,
    /// Taken off the logit of each token that stands in the answer, in blanks; -2 to 2
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true, value_parser = number(-2.0_f32, 2.0))]
    presence_penalty: f32,
    /// Taken off the logit of a token for each cell of the answer that it stands in; -2 to 2
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true, value_parser = number(-2.0_f32, 2.0))]
    frequency_penalty: f32,
    /// Divides the logit of each token that stands on the canvas, prompt included, in blanks, where
    /// it is above 0, and multiplies it elsewhere; 0.01 to 100
    #[arg(long, default_value_t = 1.0, value_parser = number(0.01_f32, 100.0))]
    repetition_penalty: f32,
}

impl RefineArgs {
    /// The request for a task.
    ///
    /// # Errors
    /// When a knob of a remasking stands beside a preset, which may set another remasking.
    pub(super) fn request(&self, task: Task) -> Result<Request, UsageError> {
        if let Some(knob) = self.policy.alone.filter(|_| self.preset.is_some()) {
            return Err(UsageError(goes_with("remasking", REMASK, knob)));
        }
        let request = Request {
            preset: self.preset.clone(),
            order: self.policy.order,
            pace: self.policy.pace,
            steps: self.steps,
            block_length: self.block_length,
            remasking: self.policy.remasking,
            cache: self.policy.cache,
            proofreading: self.proofread.map(|Proofread(steps)| Proofreading {
                steps,
                below: self.proofread_below,
                ..Proofreading::default()
            }),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            ..Request::new(task)
        };
        Ok(self.writing.set(request))
    }
}
