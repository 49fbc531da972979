//! `remask generate` and `remask infill`: one answer in the terminal, as text, as JSON, or watched as it takes shape.

use super::model::{Loaded, ModelArgs};
use super::refine::{RefineArgs, cells, ids, text_or_stdin};
use super::watch::Screen;
use crate::diffusion::{Edit, Probability};
use crate::engine::{Answer, DEFAULT_BLANK, Event, Finish, Length, Limits, Prompt, Request, StepEvent, Task, start};
use crate::telemetry::Metrics;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;

/// A puzzle with one solution, for those who just want to see it happen.
const SAMPLE_PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";

/// Flags of `remask generate`.
#[derive(Args, Clone, Debug)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// New tokens at most; default: the model's
    #[arg(long, conflicts_with = "total_length")]
    max_tokens: Option<usize>,
    /// Cells of the canvas, prompt included
    #[arg(long)]
    total_length: Option<usize>,
    /// A text that ends the answer; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    #[command(flatten)]
    refine: RefineArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Flags of `remask infill`.
#[derive(Args, Clone, Debug)]
pub(super) struct InfillArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// What stands for one blank in the text; default: `.` for the Sudoku model, else `<blank>` (or `<blank:12>`)
    #[arg(long)]
    blank: Option<String>,
    #[command(flatten)]
    refine: RefineArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
struct PromptArgs {
    /// The text, `-` for standard input; for `infill` with blanks in it
    #[arg(long, visible_alias = "template", conflicts_with = "prompt_ids")]
    prompt: Option<String>,
    /// Token ids instead of a text, as 1,2,3; for `infill`, `_` is a blank
    #[arg(long, value_name = "IDS")]
    prompt_ids: Option<String>,
}

#[derive(Args, Clone, Copy, Debug)]
struct OutputArgs {
    /// Print one JSON object: tokens, text, the edits of each step, forward passes
    #[arg(long)]
    json: bool,
    /// Redraw the canvas in place as it takes shape
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

pub(super) fn generate(args: GenerateArgs) -> anyhow::Result<()> {
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
    run(args.model.load()?, &request, &args.output)
}

pub(super) fn infill(args: InfillArgs) -> anyhow::Result<()> {
    let is_sudoku = args.model.model_id == "sudoku";
    let blank = args.blank.unwrap_or_else(|| if is_sudoku { "." } else { DEFAULT_BLANK }.to_owned());
    let task = match (&args.prompt.prompt, &args.prompt.prompt_ids) {
        (Some(text), _) => Task::Infill { template: text_or_stdin(text)?, blank },
        (None, Some(typed)) => Task::InfillTokens { cells: cells(typed)? },
        (None, None) if is_sudoku => Task::Infill { template: SAMPLE_PUZZLE.replace('.', &blank), blank },
        (None, None) => bail!("give a text with blanks: --prompt TEXT (or - for standard input) or --prompt-ids 1,_,3"),
    };
    let request = args.refine.request(task)?;
    run(args.model.load()?, &request, &args.output)
}

#[tokio::main(flavor = "current_thread")]
async fn run(loaded: Loaded, request: &Request, output: &OutputArgs) -> anyhow::Result<()> {
    let handle = start(loaded.model, loaded.tokenizer, Limits::default(), Arc::new(Metrics::new()?))?;
    let mut session = handle.submit_unmerged(request)?;
    let offset = session.start.offset;
    let mut screen = output.watch.then(|| Screen::new(&session.start, handle.tokenizer()));
    let mut steps = Vec::new();
    while let Some(event) = session.next().await {
        match event {
            Event::Step(step) => {
                if let Some(screen) = &mut screen {
                    screen.show(&step).await?;
                }
                if output.json {
                    steps.push(step_json(&step, offset));
                }
            }
            Event::Finished(answer) => {
                report(&answer, &steps, output, screen);
                return Ok(());
            }
            Event::Failed(failure) => return Err(failure).context("no answer"),
        }
    }
    bail!("the engine ended without an answer")
}

fn report(answer: &Answer, steps: &[Value], output: &OutputArgs, screen: Option<Screen<'_>>) {
    let Answer { steps: taken, forward_passes, filled, erased, .. } = answer;
    if output.json {
        let tokens: Vec<u32> = answer.written.iter().map(|written| written.token.0).collect();
        let finish_reason = match answer.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        println!(
            "{}",
            json!({
                "tokens": tokens, "text": answer.output.text(), "finish_reason": finish_reason, "steps": steps,
                "forward_passes": forward_passes, "filled": filled, "erased": erased,
            })
        );
    } else if let Some(screen) = screen {
        screen.close();
        println!("{taken} steps, {forward_passes} forward passes, {filled} filled, {erased} erased");
    } else {
        println!("{}", answer.output.text());
    }
}

fn step_json(step: &StepEvent, offset: usize) -> Value {
    let edit = |edit: &Edit| {
        let at = edit.at().index() - offset;
        match edit {
            Edit::Fill { token, confidence, .. } => {
                json!({ "at": at, "kind": "fill", "token": token.0, "confidence": confidence.get() })
            }
            Edit::Erase { was, quality, .. } => {
                json!({ "at": at, "kind": "erase", "was": was.0, "quality": quality.map(Probability::get) })
            }
        }
    };
    json!({ "step": step.step, "blanks": step.blanks, "edits": step.edits.iter().map(edit).collect::<Vec<_>>() })
}
