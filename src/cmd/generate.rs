//! `remask generate`: continues a prompt.

use super::model::ModelArgs;
use super::output::{Asked, OutputArgs, print_answer};
use super::refine::{PromptArgs, RefineArgs, ids, text_or_stdin};
use super::words::count;
use crate::api::writer;
use crate::engine::{Length, Prompt, Task};
use anyhow::bail;
use clap::Args;

#[derive(Args, Clone, Debug)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Maximum number of new tokens [default: the model's]
    #[arg(long, value_name = "N", conflicts_with = "total_length", value_parser = count::<usize>(1 << 20))]
    max_tokens: Option<usize>,
    /// Length of the canvas in cells, including the prompt
    #[arg(long, value_name = "N", value_parser = count::<usize>(1 << 20))]
    total_length: Option<usize>,
    /// A string that ends the answer. Can be given several times
    #[arg(long)]
    stop: Vec<String>,
    #[command(flatten)]
    refine: RefineArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let prompt = match (&args.prompt.prompt, &args.prompt.prompt_ids) {
        (Some(text), _) => Prompt::Text(text_or_stdin(text)?),
        (None, Some(typed)) => Prompt::Tokens(ids(typed)?),
        (None, None) => bail!("give a prompt: --prompt TEXT (or - for standard input) or --prompt-ids 1,2,3"),
    };
    let length = match (args.max_tokens, args.total_length) {
        (Some(new), _) => Length::New(new),
        (None, Some(total)) => Length::Total(total),
        (None, None) => Length::Default,
    };
    let mut request = args.refine.request(Task::Continue { prompt, length })?;
    request.stop = args.stop;
    let output = &args.output;
    let asked = Asked { request: &request, names: args.prompt.names(), format: output.format(), watch: &output.watch };
    print_answer(args.model.load()?, asked, |model, handle, _| writer::of_completion(model, handle.clone()))
}
