//! The output of `generate` and `infill`: text, JSON, or the canvas drawn step by step.

use super::ask::{answer, engine};
use super::flag_names::{Names, in_flags};
use super::print::{self, OutputError};
use super::{model::Loaded, watch::Screen};
use crate::diffusion::{Edit, Probability};
use crate::engine::{Answer, Failure, Finish, Request, StepEvent};
use clap::Args;
use serde_json::{Value, json};

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct OutputArgs {
    /// Print one JSON object: tokens, text, the edits of each step, and forward passes
    #[arg(long)]
    json: bool,
    /// Draw the canvas in the terminal and redraw it after each step
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn print_answer(
    loaded: Loaded,
    request: &Request,
    output: OutputArgs,
    names: Names,
) -> anyhow::Result<()> {
    let handle = engine(loaded.model, loaded.tokenizer)?;
    let mut session = handle.submit_unmerged(request).map_err(|rejected| in_flags(rejected, names))?;
    let offset = session.start.offset;
    let mut screen = output.watch.then(|| Screen::new(&session.start, &handle));
    let mut steps = Vec::new();
    let answer = answer(&mut session, async |step| {
        if let Some(screen) = &mut screen {
            screen.show(step).await.map_err(OutputError::from)?;
        }
        if output.json {
            steps.push(step_json(step, offset));
        }
        Ok(())
    })
    .await;
    let answer = answer.map_err(|error| if error.is::<Failure>() { error.context("no answer") } else { error })?;
    Ok(print(&answer, &steps, output)?)
}

fn print(answer: &Answer, steps: &[Value], output: OutputArgs) -> Result<(), OutputError> {
    let Answer { steps: taken, forward_passes, forward_tokens, filled, erased, replaced, .. } = answer;
    if output.json {
        let tokens: Vec<u32> = answer.written.iter().map(|written| written.token.0).collect();
        let finish_reason = match answer.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        print::line(json!({
            "tokens": tokens, "text": answer.output.text(), "finish_reason": finish_reason, "steps": steps,
            "forward_passes": forward_passes, "forward_tokens": forward_tokens, "filled": filled, "erased": erased,
            "replaced": replaced,
        }))
    } else if output.watch {
        print::line(format_args!(
            "{taken} steps, {forward_passes} forward passes, {filled} filled, {erased} erased, {replaced} replaced"
        ))
    } else {
        print::line(answer.output.text())
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
            Edit::Replace { was, token, confidence, .. } => {
                let (was, token, confidence) = (was.0, token.0, confidence.get());
                json!({ "at": at, "kind": "replace", "was": was, "token": token, "confidence": confidence })
            }
        }
    };
    json!({ "step": step.step, "blanks": step.blanks, "edits": step.edits.iter().map(edit).collect::<Vec<_>>() })
}
