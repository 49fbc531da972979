//! Texts with gaps, filled and compared with what stood there: exact matches, and whether the quality of a token tells right
//! from wrong.

use super::statistics::{Share, area_under_curve};
use crate::cmd::model::ModelArgs;
use crate::cmd::refine::RefineArgs;
use crate::diffusion::Cell;
use crate::engine::{Answer, DEFAULT_BLANK, Event, Limits, Output, Session, Task, start};
use crate::telemetry::Metrics;
use crate::text::Special;
use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Texts that are worked on at the same time.
const RUNNING_MAX: usize = 32;

#[derive(Args, Clone, Debug)]
pub(super) struct InfillArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    refine: RefineArgs,
    /// One object a line: `template` with blanks, `text` as it should be, and `blank` where it is spelled in another way
    #[arg(long, value_name = "FILE.jsonl")]
    data: PathBuf,
    /// One JSON object instead of a text
    #[arg(long)]
    json: bool,
}

/// A line of the data.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Case {
    template: String,
    text: String,
    #[serde(default = "default_blank")]
    blank: String,
    /// Its place in the file.
    #[serde(skip)]
    line: usize,
}

fn default_blank() -> String {
    DEFAULT_BLANK.to_owned()
}

#[derive(Serialize)]
struct Report {
    /// Texts that came out exactly.
    exact: Share,
    /// Texts whose tokens can be compared: template and text are cut into tokens in the same places.
    comparable: usize,
    /// Tokens of these texts' gaps that are right.
    tokens: Share,
    /// Chance that a right token's quality is above a wrong one's; none without a head, or without both.
    quality_area_under_curve: Option<f64>,
    /// Means per text.
    forward_passes: f64,
    erased: f64,
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn run(args: &InfillArgs) -> anyhow::Result<()> {
    let cases = read(&args.data)?;
    let loaded = args.model.load()?;
    let Some(tokenizer) = loaded.tokenizer.clone() else { bail!("texts need a model with a tokenizer.json") };
    let has_quality = loaded.model.spec().has_quality;
    let handle = start(loaded.model, loaded.tokenizer, Limits::default(), Arc::new(Metrics::new()?))?;
    let mut running: VecDeque<(usize, Session)> = VecDeque::new();
    let (mut next, mut exact, mut comparable, mut right, mut tokens) = (0, 0, 0, 0, 0);
    let (mut forward_passes, mut erased, mut scored) = (0u64, 0u64, Vec::new());
    while next < cases.len() || !running.is_empty() {
        while next < cases.len() && running.len() < RUNNING_MAX {
            let Case { template, blank, .. } = &cases[next];
            let task = Task::Infill { template: template.clone(), blank: blank.clone() };
            let mut request = args.refine.request(task);
            request.return_quality = has_quality;
            let session = handle.submit(&request).with_context(|| {
                let (file, line) = (args.data.display(), cases[next].line);
                format!("{file}, line {line}")
            })?;
            running.push_back((next, session));
            next += 1;
        }
        let Some((number, session)) = running.pop_front() else { break };
        let cells = session.start.cells.clone();
        let answer = finished(session).await?;
        let Output::Infill { text, .. } = &answer.output else { bail!("an infill was answered with something else") };
        exact += usize::from(*text == cases[number].text);
        forward_passes += u64::from(answer.steps); // the pass that judges at the end is the measurement's own
        erased += u64::from(answer.erased);
        // a token has one that it should be where the pinned ones are those of the whole text
        let wanted = tokenizer.encode(&cases[number].text, Special::AsText)?;
        let is_aligned = wanted.len() == cells.len()
            && wanted.iter().zip(&cells).all(|(wanted, cell)| *cell == Cell::Blank || cell.token() == Some(*wanted));
        comparable += usize::from(is_aligned);
        for written in answer.written.iter().filter(|_| is_aligned) {
            let is_right = wanted[written.at.index()] == written.token;
            tokens += 1;
            right += usize::from(is_right);
            scored.extend(written.quality.map(|quality| (f64::from(quality.get()), is_right)));
        }
    }
    #[allow(clippy::cast_precision_loss)] // counts, for means
    let mean = |sum: u64| sum as f64 / cases.len() as f64;
    let report = Report {
        exact: Share::new(exact, cases.len()),
        comparable,
        tokens: Share::new(right, tokens),
        quality_area_under_curve: area_under_curve(&scored),
        forward_passes: mean(forward_passes),
        erased: mean(erased),
    };
    report.print(args.json)
}

async fn finished(mut session: Session) -> anyhow::Result<Answer> {
    while let Some(event) = session.next().await {
        match event {
            Event::Step(_) => {}
            Event::Finished(answer) => return Ok(*answer),
            Event::Failed(failure) => return Err(failure.into()),
        }
    }
    bail!("the engine ended without an answer")
}

impl Report {
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        for (what, share) in [("texts exactly right", self.exact), ("tokens right", self.tokens)] {
            let Share { successes, of, share, from, until } = share;
            let [share, from, until] = [share, from, until].map(|number| 100.0 * number);
            println!("{what:<24} {share:.1} % ({from:.1} to {until:.1}), {successes} of {of}");
        }
        match self.quality_area_under_curve {
            Some(area) => println!("{:<24} {area:.3}", "quality AUC"),
            None => println!("{:<24} needs a head, and both right and wrong tokens", "quality AUC"),
        }
        println!("{:<24} {:.1}, {:.1} erased", "forward passes", self.forward_passes, self.erased);
        Ok(())
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<Case>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let case = |(number, line): (usize, &str)| {
        let place = || format!("{}, line {number}: give an object with template and text", file.display());
        serde_json::from_str(line).map(|case| Case { line: number, ..case }).with_context(place)
    };
    let cases: Vec<Case> = lines.map(case).collect::<anyhow::Result<_>>()?;
    if cases.is_empty() {
        bail!("{} holds no text", file.display());
    }
    Ok(cases)
}
