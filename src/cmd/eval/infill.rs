//! `remask eval infill`: texts with blanks are filled and compared with the originals. Measures
//! exact matches, and how well quality separates right from wrong tokens.

use super::input::read_lines;
use super::statistics::{Share, area_under_curve};
use crate::cmd::ask::{answer_all, engine};
use crate::cmd::flag_names::{FILE, in_flags};
use crate::cmd::model::ModelArgs;
use crate::cmd::print;
use crate::cmd::refine::RefineArgs;
use crate::diffusion::Cell;
use crate::engine::{DEFAULT_BLANK, Output, Task};
use crate::text::Special;
use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const RUNNING_MAX: usize = 32;

#[derive(Args, Clone, Debug)]
pub(crate) struct InfillArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    refine: RefineArgs,
    /// The data, one JSON object per line: `template` with blanks, the expected `text`, and
    /// optionally `blank`, the string that marks a blank
    #[arg(long, value_name = "FILE.jsonl")]
    data: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Case {
    template: String,
    text: String,
    #[serde(default = "default_blank")]
    blank: String,
    /// Its line in the file, from 1.
    #[serde(skip)]
    line: usize,
}

fn default_blank() -> String {
    DEFAULT_BLANK.to_owned()
}

#[derive(Serialize)]
struct InfillFigures {
    exact: Share,
    /// Texts whose tokens can be compared, because template and text are tokenized alike.
    comparable: usize,
    /// Tokens written into these texts that are right.
    tokens: Share,
    /// Probability that a right token has a higher quality than a wrong one, if there are both.
    quality_area_under_curve: Option<f64>,
    /// Means per text.
    forward_passes: f64,
    erased: f64,
    replaced: f64,
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn run(args: &InfillArgs) -> anyhow::Result<()> {
    let cases = read(&args.data)?;
    let loaded = args.model.load()?;
    let Some(tokenizer) = loaded.tokenizer.clone() else { bail!("texts need a model with a tokenizer.json") };
    let has_quality = loaded.model.spec().has_quality;
    let handle = engine(loaded.model, loaded.tokenizer)?;
    let (mut exact, mut comparable, mut right, mut tokens) = (0, 0, 0, 0);
    let (mut forward_passes, mut erased, mut replaced, mut scored) = (0u64, 0u64, 0u64, Vec::new());
    let submit = |number: usize| {
        let Case { template, blank, line, .. } = &cases[number];
        let task = Task::Infill { template: template.clone(), blank: blank.clone() };
        let mut request = args.refine.request(task)?;
        request.return_quality = has_quality;
        let session = handle.submit(&request).map_err(|rejected| in_flags(rejected, FILE));
        session.with_context(|| format!("{}, line {line}", args.data.display()))
    };
    answer_all(cases.len(), RUNNING_MAX, submit, |number, start, answer| {
        let Output::Infill { text, .. } = &answer.output else { bail!("an infill was answered with something else") };
        exact += usize::from(*text == cases[number].text);
        forward_passes += u64::from(answer.steps); // without the pass that judges the final text
        erased += u64::from(answer.erased);
        replaced += u64::from(answer.replaced);
        // the written tokens can be compared where the fixed ones equal those of the whole text
        let wanted = tokenizer.encode(&cases[number].text, Special::AsText)?;
        let is_aligned = wanted.len() == start.cells.len()
            && wanted
                .iter()
                .zip(&start.cells)
                .all(|(wanted, cell)| *cell == Cell::Blank || cell.token() == Some(*wanted));
        comparable += usize::from(is_aligned);
        for written in answer.written.iter().filter(|_| is_aligned) {
            let is_right = wanted[written.at.index()] == written.token;
            tokens += 1;
            right += usize::from(is_right);
            scored.extend(written.quality.map(|quality| (f64::from(quality.get()), is_right)));
        }
        Ok(())
    })
    .await?;
    let mean = |sum: u64| sum as f64 / cases.len() as f64;
    let figures = InfillFigures {
        exact: Share::new(exact, cases.len()),
        comparable,
        tokens: Share::new(right, tokens),
        quality_area_under_curve: area_under_curve(&scored),
        forward_passes: mean(forward_passes),
        erased: mean(erased),
        replaced: mean(replaced),
    };
    figures.print(args.json)
}

impl InfillFigures {
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            return Ok(print::line(serde_json::to_string(self)?)?);
        }
        for (what, share) in [("texts exactly right", self.exact), ("tokens right", self.tokens)] {
            let Share { successes, of, share, from, until } = share;
            let [share, from, until] = [share, from, until].map(|number| 100.0 * number);
            print::line(format_args!("{what:<24} {share:.1} % ({from:.1} to {until:.1}), {successes} of {of}"))?;
        }
        match self.quality_area_under_curve {
            Some(area) => print::line(format_args!("{:<24} {area:.3}", "quality AUC"))?,
            None => print::line(format_args!("{:<24} needs a head, and both right and wrong tokens", "quality AUC"))?,
        }
        let Self { forward_passes, erased, replaced, .. } = self;
        let counts = format!("{forward_passes:.1}, {erased:.1} erased, {replaced:.1} replaced");
        Ok(print::line(format_args!("{:<24} {counts}", "forward passes"))?)
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<Case>> {
    let cases = read_lines(file, |number, line| {
        let case: Case = serde_json::from_str(line).context("give an object with template and text")?;
        Ok(Case { line: number, ..case })
    })?;
    if cases.is_empty() {
        bail!("{} holds no text", file.display());
    }
    Ok(cases)
}
