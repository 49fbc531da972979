//! `remask eval compare`: any policies on the same tasks with the same seeds, at the same numbers
//! of steps.

mod check;
mod contender;
mod judge;
mod task;

use self::check::Check;
use self::contender::Contender;
use self::judge::{Fluency, Judge};
use self::task::{Answered, Tasks};
use super::plot::{check_file, draw};
use super::puzzles::PuzzleArgs;
use super::statistics::{Difference, Share};
use crate::cmd::ask::{answer_all, engine};
use crate::cmd::model::ModelArgs;
use crate::cmd::print;
use crate::cmd::words::{count, number};
use crate::diffusion::policy::COUNT_MAX;
use crate::engine::{Admitted, Handle};
use anyhow::{Context, bail, ensure};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::iter;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const RUNNING_MAX: usize = 64;

#[derive(Args, Clone, Debug)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A policy: the name of a remasking (without proofreading), or a JSON object of fields of a
    /// request: `temperature`, `top_k`, `top_p`, `min_p`, `diffusion`, and a `name` for the report.
    /// May be given several times. The first one is what the others are compared with
    #[arg(long, value_name = "NAME|JSON", required_unless_present = "policies")]
    policy: Vec<String>,
    /// File of policies, one on each line
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Numbers of steps, for policies that set none
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 32], value_parser = count::<u32>(COUNT_MAX.into()))]
    steps: Vec<u32>,
    /// Erasures per step on average: the budget of policies that set none is this many times the
    /// number of steps, for each block [default: one per blank]
    #[arg(long, value_name = "X", value_parser = number(0.0, 1000.0))]
    erase_per_step: Option<f64>,
    /// Texts to write instead of puzzles to solve, one JSON object on each line: a `prompt` to
    /// continue or a `template` to fill, and the expected `text` unless there is a --check. With
    /// --count, only its first lines
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["puzzles", "blanks", "split"])]
    data: Option<PathBuf>,
    /// Command that judges a text, with prompt, from its standard input: it exits with 0 if that is
    /// right. REMASK_CASE in its environment has the line of the data. For example:
    /// python3 -c 'import ast, sys; ast.parse(sys.stdin.read())'
    #[arg(long, value_name = "COMMAND", requires = "data", value_parser = NonEmptyStringValueParser::new())]
    check: Option<String>,
    /// Seconds after which the command is ended, and the text is wrong
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = number(0.01, 86400.0))]
    check_seconds: f64,
    /// Autoregressive model that measures the texts: their perplexity, and the entropy of their
    /// tokens. A name on the Hugging Face hub, a directory or a GGUF file; of Llama, Mistral, Qwen2
    /// or Qwen3. It is computed on --device
    #[arg(long, value_name = "OWNER/NAME|DIR|FILE.gguf", requires = "data")]
    judge: Option<String>,
    /// Number of tokens that may follow a prompt [default: the model's]
    #[arg(long, value_name = "N", requires = "data", value_parser = count::<usize>(u32::MAX.into()))]
    max_tokens: Option<usize>,
    #[command(flatten)]
    puzzles: PuzzleArgs,
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Also write every answer into this file, one JSON object per line
    #[arg(long, value_name = "FILE.jsonl")]
    answers: Option<PathBuf>,
    /// Also plot the share of right answers against forward passes into this SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What one policy does with one number of steps.
#[derive(Clone, Debug, Serialize)]
struct Line<'a> {
    policy: &'a str,
    steps: u32,
    /// `None` if nothing says which answers are right.
    right: Option<Share>,
    /// Against the first policy with as many steps; `None` for that itself.
    difference: Option<Difference>,
    /// `None` without a judge.
    #[serde(flatten)]
    fluency: Option<Fluency>,
    /// Means per answer.
    forward_passes: f64,
    /// Tokens that were computed.
    forward_tokens: f64,
    erased: f64,
    replaced: f64,
    /// Time for all answers, without the user's command.
    seconds: f64,
}

/// An answer, as it is written into a file.
#[derive(Serialize)]
struct Kept<'a> {
    policy: &'a str,
    steps: u32,
    number: usize,
    text: &'a str,
    right: Option<bool>,
}

/// A policy with a number of steps on all tasks.
struct Run {
    answers: Vec<Answered>,
    forward_passes: u64,
    forward_tokens: u64,
    erased: u64,
    replaced: u64,
    time: Duration,
}

#[tokio::main(flavor = "current_thread")]
pub(super) async fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let contenders = contender::read(&args.policy, args.policies.as_deref())?;
    let tasks = args.tasks()?;
    if let Some(file) = &args.plot {
        check_file(file)?;
        ensure!(tasks.has_success(), "a plot shows the share of right answers; give each text, or a --check");
    }
    let create = |file: &PathBuf| File::create(file).with_context(|| format!("cannot write {}", file.display()));
    let mut kept = args.answers.as_ref().map(create).transpose()?.map(BufWriter::new);
    tasks.try_check().await?;
    let judge = |name: &String| {
        let device = args.model.device().context("--device names several devices; give one")?;
        Judge::load(name, device).with_context(|| format!("--judge {name}"))
    };
    let mut judge = args.judge.as_ref().map(judge).transpose()?;
    let loaded = args.model.load()?;
    if matches!(tasks, Tasks::Texts { .. }) && loaded.tokenizer.is_none() {
        bail!("texts need a model with a tokenizer.json");
    }
    let handle = engine(loaded.model, loaded.tokenizer)?;
    tasks.check_model(&handle)?;
    let contenders = contenders.into_iter().map(|one| one.of_model(&handle)).collect::<anyhow::Result<Vec<_>>>()?;
    args.try_admission(&handle, &tasks, &contenders)?;
    let width = contenders.iter().map(|one| one.name.chars().count()).max().unwrap_or(0).clamp(6, 40);
    if !args.json {
        print::line(tasks.title())?;
        print::line(heading(width, tasks.success(), &contenders[0].name, judge.is_some()))?;
    }
    let mut base: Vec<(u32, Vec<bool>)> = Vec::new();
    let mut drawn = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let mut points = Vec::new();
        for &steps in args.steps_of(contender) {
            let run = args.measure(&handle, &tasks, contender, steps).await?;
            let steps = contender.steps(steps);
            let right = tasks.right(&run.answers).await?;
            let fluency = judge.as_mut().map(|judge| judge.fluency(tasks.written(&run.answers))).transpose()?;
            let name = contender.name.as_str();
            if let Some(file) = &mut kept {
                for (number, answer) in run.answers.iter().enumerate() {
                    let right = right.as_ref().map(|right| right[number]);
                    let kept = Kept { policy: name, steps, number, text: &answer.text, right };
                    writeln!(file, "{}", serde_json::to_string(&kept)?).context("cannot write the --answers")?;
                }
                file.flush().context("cannot write the --answers")?;
            }
            let first = base.iter().find(|(own, _)| *own == steps).filter(|_| index > 0);
            let pairs = first.map(|(_, first)| first).zip(right.as_ref());
            let difference = pairs.map(|(first, right)| Difference::new(first, right));
            let line = Line { difference, fluency, ..run.line(name, steps, right.as_deref()) };
            print::line(if args.json { serde_json::to_string(&line)? } else { line.row(width) })?;
            points.extend(line.right.map(|right| (line.forward_passes, right)));
            base.extend(right.filter(|_| index == 0).map(|right| (steps, right)));
        }
        drawn.push((contender.name.as_str(), points));
    }
    let Some(file) = &args.plot else { return Ok(()) };
    draw(file, &tasks.title(), tasks.success(), &drawn)
}

impl CompareArgs {
    fn tasks(&self) -> anyhow::Result<Tasks> {
        let Some(file) = &self.data else { return Tasks::puzzles(&self.puzzles) };
        let limit = Duration::from_secs_f64(self.check_seconds);
        let check = self.check.clone().map(|command| Check { command, limit });
        Tasks::texts(file, self.puzzles.count(), check, self.judge.is_some(), self.max_tokens)
    }

    /// The numbers of steps that a policy is measured with.
    fn steps_of(&self, contender: &Contender) -> &[u32] {
        if contender.has_steps() { &self.steps[..1] } else { &self.steps }
    }

    /// Checks every request of the measurement before it starts, since it may take hours.
    fn try_admission(&self, handle: &Handle, tasks: &Tasks, contenders: &[Contender]) -> anyhow::Result<()> {
        for contender in contenders {
            for (&steps, number) in
                self.steps_of(contender).iter().flat_map(|steps| iter::repeat(steps).zip(0..tasks.count()))
            {
                self.admit(handle, tasks, contender, steps, number)?;
            }
        }
        Ok(())
    }

    fn admit(
        &self,
        handle: &Handle,
        tasks: &Tasks,
        contender: &Contender,
        steps: u32,
        number: usize,
    ) -> anyhow::Result<Admitted> {
        let request = contender.request(tasks.task(number), self.puzzles.seed_of(number), steps, self.erase_per_step);
        handle.admit(&request).with_context(|| format!("policy {}, {}", contender.name, tasks.place(number)))
    }

    async fn measure(&self, handle: &Handle, tasks: &Tasks, contender: &Contender, steps: u32) -> anyhow::Result<Run> {
        let submit = |number| Ok(handle.queue(self.admit(handle, tasks, contender, steps, number)?)?);
        let mut run = Run {
            answers: Vec::new(),
            forward_passes: 0,
            forward_tokens: 0,
            erased: 0,
            replaced: 0,
            time: Duration::ZERO,
        };
        let start = Instant::now();
        answer_all(tasks.count(), RUNNING_MAX, submit, |number, start, answer| {
            run.answers.push(tasks.answered(number, start, answer));
            run.forward_passes += u64::from(answer.forward_passes);
            run.forward_tokens += answer.forward_tokens;
            run.erased += u64::from(answer.erased);
            run.replaced += u64::from(answer.replaced);
            Ok(())
        })
        .await?;
        Ok(Run { time: start.elapsed(), ..run })
    }
}

impl Run {
    fn line<'a>(&self, policy: &'a str, steps: u32, right: Option<&[bool]>) -> Line<'a> {
        let mean = |sum: u64| sum as f64 / self.answers.len() as f64;
        let share = |right: &[bool]| Share::new(right.iter().filter(|is_right| **is_right).count(), right.len());
        Line {
            policy,
            steps,
            right: right.map(share),
            difference: None,
            fluency: None,
            forward_passes: mean(self.forward_passes),
            forward_tokens: mean(self.forward_tokens),
            erased: mean(self.erased),
            replaced: mean(self.replaced),
            seconds: self.time.as_secs_f64(),
        }
    }
}

fn heading(width: usize, success: &str, first: &str, is_judged: bool) -> String {
    let right = format!("{success} (95 % interval)");
    let against = format!("against {}", first.chars().take(14).collect::<String>());
    let fluency = if is_judged { format!(" {:>10} {:>7}", "perplexity", "entropy") } else { String::new() };
    format!(
        "{:<width$} {:>5} {right:>26} {against:>24} {:>6} {:>7} {:>6} {:>8} {:>8}{fluency}",
        "policy", "steps", "passes", "tokens", "erased", "replaced", "seconds"
    )
}

impl Line<'_> {
    fn row(&self, width: usize) -> String {
        let Self { policy, steps, right, difference, fluency, forward_passes, forward_tokens, .. } = self;
        let Self { erased, replaced, seconds, .. } = self;
        let percent = |share: f64| 100.0 * share;
        let right = right.map_or_else(String::new, |Share { share, from, until, .. }| {
            format!("{:.1} % ({:.1} to {:.1})", percent(share), percent(from), percent(until))
        });
        let against = difference.map_or_else(String::new, |Difference { share, from, until }| {
            format!("{:+.1} ({:+.1} to {:+.1})", percent(share), percent(from), percent(until))
        });
        let fluency = fluency.map_or_else(String::new, |Fluency { perplexity, entropy, .. }| {
            let perplexity = perplexity.map_or_else(|| "-".to_owned(), |perplexity| format!("{perplexity:.2}"));
            format!(" {perplexity:>10} {entropy:>7.3}")
        });
        let policy: String = policy.chars().take(width).collect();
        format!(
            "{policy:<width$} {steps:>5} {right:>26} {against:>24} {forward_passes:>6.1} {forward_tokens:>7.0} {erased:>6.1} \
             {replaced:>8.1} {seconds:>8.1}{fluency}"
        )
    }
}
