//! The text that `score` and `repair` are given.

use super::flag_names::{GIVEN_FILE, GIVEN_IDS, GIVEN_TEXT, Names};
use super::refine::{ids, text_of_file, text_or_stdin};
use crate::engine::Prompt;
use anyhow::bail;
use clap::Args;
use std::path::PathBuf;

/// What the Sudoku model judges and repairs when no text is given: a grid with three wrong digits.
const SAMPLE_GRID: &str =
    "534678912\n672195348\n198342567\n859161423\n426853791\n713924856\n961587284\n287419635\n345286177";

#[derive(Args, Clone, Debug)]
pub(super) struct TextArgs {
    /// The text, or `-` to read it from standard input; default for the Sudoku model: a grid with
    /// mistakes
    #[arg(long, conflicts_with_all = ["text_ids", "file"])]
    text: Option<String>,
    /// The text as token ids, for example 1,2,3
    #[arg(long, value_name = "IDS", conflicts_with = "file")]
    text_ids: Option<String>,
    /// Read the text from a file
    #[arg(long)]
    file: Option<PathBuf>,
}

impl TextArgs {
    /// The text for a model.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(super) fn read(&self, model_id: &str) -> anyhow::Result<Prompt> {
        match (&self.text, &self.text_ids, &self.file) {
            (Some(text), ..) => Ok(Prompt::Text(text_or_stdin(text)?)),
            (None, Some(typed), _) => Ok(Prompt::Tokens(ids(typed)?)),
            (None, None, Some(file)) => Ok(Prompt::Text(text_of_file(file)?)),
            (None, None, None) if model_id == "sudoku" => Ok(Prompt::Text(SAMPLE_GRID.to_owned())),
            (None, None, None) => {
                bail!("give a text: --text TEXT (or - for standard input), --file FILE, or --text-ids 1,2,3")
            }
        }
    }

    /// What errors call the text.
    pub(super) const fn names(&self) -> Names {
        match (&self.text_ids, &self.file) {
            (Some(_), _) => GIVEN_IDS,
            (None, Some(_)) => GIVEN_FILE,
            (None, None) => GIVEN_TEXT,
        }
    }
}
