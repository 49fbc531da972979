//! `remask infill`: fills the blanks of a text.

use super::model::ModelArgs;
use super::output::{Asked, OutputArgs, print_answer};
use super::refine::{PromptArgs, RefineArgs, cells, text_or_stdin};
use crate::api::writer;
use crate::engine::{DEFAULT_BLANK, Task};
use anyhow::bail;
use clap::Args;

/// The prompt for the Sudoku model when none is given: a puzzle with one solution, on the way to
/// which the model corrects itself.
const SAMPLE_PUZZLE: &str =
    "..49.....\n..3..6...\n.5.4.1..2\n3.9..8726\n..16.24..\n68.......\n.3.27..9.\n.9....21.\n2....9..5";

#[derive(Args, Clone, Debug)]
pub(super) struct InfillArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// String that marks a blank; default: `.` for the Sudoku model, `<blank>` otherwise
    #[arg(long)]
    blank: Option<String>,
    #[command(flatten)]
    refine: RefineArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: InfillArgs) -> anyhow::Result<()> {
    let is_sudoku = args.model.only()? == "sudoku";
    let blank = args.blank.unwrap_or_else(|| if is_sudoku { "." } else { DEFAULT_BLANK }.to_owned());
    let task = match (&args.prompt.prompt, &args.prompt.prompt_ids) {
        (Some(text), _) => Task::Infill { template: text_or_stdin(text)?, blank },
        (None, Some(typed)) => Task::InfillTokens { cells: cells(typed)? },
        (None, None) if is_sudoku => Task::Infill { template: SAMPLE_PUZZLE.replace('.', &blank), blank },
        (None, None) => bail!("give a text with blanks: --prompt TEXT (or - for standard input) or --prompt-ids 1,_,3"),
    };
    let request = args.refine.request(task)?;
    let output = &args.output;
    let asked = Asked { request: &request, names: args.prompt.names(), format: output.format(), watch: &output.watch };
    print_answer(args.model.load()?, asked, |model, _, _| writer::of_infill(model))
}
