//! Runs a request, draws and records its events, and prints its answer.

use super::ask::{answer, engine};
use super::flag_names::{Names, in_flags};
use super::model::Loaded;
use super::print::{self, say};
use super::watch::{Player, Stage, WatchArgs};
use crate::api::NamedEvents;
use crate::api::writer::WriteAnswer;
use crate::diffusion::{Edit, Probability};
use crate::engine::{Answer, Failure, Finish, Handle, Request, Session, Start, StepEvent};
use clap::Args;
use serde_json::{Value, json};

/// The id of a request that runs in this process, in its events and its answer.
const ID: &str = "local";

#[derive(Args, Clone, Debug)]
pub(super) struct OutputArgs {
    /// Print one JSON object: tokens, text, the edits of each step, and forward passes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) watch: WatchArgs,
}

impl OutputArgs {
    pub(super) const fn format(&self) -> Format {
        if self.json { Format::Edits } else { Format::Text }
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    /// Its text.
    Text,
    /// A JSON object with the edits of each step.
    Edits,
    /// The object that the server answers with.
    Wire,
    /// For people to read.
    Report(fn(&Value, &Player) -> Report),
}

/// What a command prints for people to read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// For standard output.
    pub(super) result: String,
    /// For standard error.
    pub(super) notes: String,
}

/// A request of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request,
    /// What errors call its fields.
    pub(super) names: Names,
    pub(super) format: Format,
    pub(super) watch: &'a WatchArgs,
}

/// Answers a request. `writer` makes what writes its answer as the server does, from the name of
/// the model and the first canvas.
#[tokio::main(flavor = "current_thread")]
pub(super) async fn print_answer(
    loaded: Loaded,
    asked: Asked<'_>,
    writer: impl FnOnce(String, &Handle, &Start) -> WriteAnswer,
) -> anyhow::Result<()> {
    let Asked { request, names, format, watch } = asked;
    let handle = engine(loaded.model, loaded.tokenizer)?;
    let mut session = handle.submit_unmerged(request).map_err(|rejected| in_flags(rejected, names))?;
    let events = NamedEvents::new(ID, handle.clone(), writer(loaded.name, &handle, &session.start));
    let mut stage = Stage::new(watch, matches!(format, Format::Report(_)))?;
    let mut steps = Vec::new();
    let run = async |stage: &mut Stage| {
        let offset = session.start.offset;
        let keep = |step: &StepEvent| {
            if matches!(format, Format::Edits) {
                steps.push(step_json(step, offset));
            }
        };
        run(&mut session, &events, stage, keep).await
    };
    let answer = stage.run(run).await?;
    let answer = answer.map_err(|error| if error.is::<Failure>() { error.context("no answer") } else { error })?;
    match format {
        Format::Text if watch.is_watched() => print::text(&stage.player().end())?,
        Format::Text if handle.tokenizer().is_none() => print::line(ids(&answer))?,
        Format::Text => print::line(answer.output.text())?,
        Format::Edits => print::line(edits_json(&answer, &steps))?,
        Format::Wire => print::line(events.done_data(&answer)?)?,
        Format::Report(report) => {
            let Report { result, notes } = report(&serde_json::from_str(&events.done_data(&answer)?)?, stage.player());
            print::text(&result)?;
            if !notes.is_empty() {
                say(notes.trim_end());
            }
        }
    }
    Ok(())
}

/// Reads a session to its answer, and hands its events to the stage.
async fn run(
    session: &mut Session,
    events: &NamedEvents,
    stage: &mut Stage,
    mut keep: impl FnMut(&StepEvent),
) -> anyhow::Result<Answer> {
    let start = session.start.clone();
    if stage.is_needed() {
        stage.take(&events.start_data(&start)?).await?;
    }
    let answer = answer(session, async |step| {
        keep(step);
        if stage.is_needed() {
            stage.take(&events.step_data(0, step, &start)?).await?;
        }
        Ok(())
    });
    let answer = answer.await;
    if stage.is_needed() {
        match &answer {
            Ok(answer) => stage.take(&events.done_data(answer)?).await?,
            Err(error) => {
                if let Some(failure) = error.downcast_ref::<Failure>() {
                    stage.take(&events.failure_data(failure.clone())?).await?;
                }
            }
        }
    }
    answer
}

/// The tokens that were written, as --prompt-ids takes them.
fn ids(answer: &Answer) -> String {
    let ids: Vec<String> = answer.written.iter().map(|written| written.token.0.to_string()).collect();
    ids.join(",")
}

fn edits_json(answer: &Answer, steps: &[Value]) -> Value {
    let Answer { forward_passes, forward_tokens, filled, erased, replaced, .. } = answer;
    let tokens: Vec<u32> = answer.written.iter().map(|written| written.token.0).collect();
    let finish_reason = match answer.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    json!({
        "tokens": tokens, "text": answer.output.text(), "finish_reason": finish_reason, "steps": steps,
        "forward_passes": forward_passes, "forward_tokens": forward_tokens, "filled": filled, "erased": erased,
        "replaced": replaced,
    })
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
