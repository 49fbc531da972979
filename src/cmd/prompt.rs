//! The prompt of `generate` and `infill`: a text, standard input, or token ids.

use crate::diffusion::TokenId;
use anyhow::Context;
use clap::Args;
use std::io::Read;

#[derive(Args, Clone, Debug)]
pub(super) struct PromptArgs {
    /// The prompt text, or `-` to read it from standard input. For `infill` it contains the blanks
    #[arg(long, visible_alias = "template", conflicts_with = "prompt_ids")]
    pub(super) prompt: Option<String>,
    /// The prompt as token ids, for example 1,2,3. For `infill`, `_` is a blank
    #[arg(long, value_name = "IDS")]
    pub(super) prompt_ids: Option<String>,
}

/// `text`, or standard input without its last newline where `text` is `-`.
pub(super) fn text_or_stdin(text: &str) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).context("cannot read the prompt from standard input")?;
    Ok(input.strip_suffix('\n').unwrap_or(&input).to_owned())
}

/// Parses ids such as `1,2,3`; `_` is a blank.
pub(super) fn cells(typed: &str) -> anyhow::Result<Vec<Option<TokenId>>> {
    let cell = |word: &str| match word.trim() {
        "_" => Ok(None),
        word => word.parse().map(|id| Some(TokenId(id))).with_context(|| {
            format!("{word:?} is no token id; give numbers separated by commas, as 1,2,3 (in infill, _ for a blank)")
        }),
    };
    typed.split(',').map(cell).collect()
}

/// Parses ids such as `1,2,3`, without blanks.
pub(super) fn ids(typed: &str) -> anyhow::Result<Vec<TokenId>> {
    let ids: Option<Vec<TokenId>> = cells(typed)?.into_iter().collect();
    ids.context("_ stands for a blank, which only `remask infill` fills")
}
