//! `remask eval sudoku`: the share of puzzles solved, for every policy and number of steps. A
//! puzzle is solved when all rules hold and no clue has changed.

use super::plot::{check_file, draw};
use super::puzzles::{PuzzleArgs, check_model, is_solved, task};
use super::statistics::Share;
use crate::cmd::ask::{answer_all, engine};
use crate::cmd::flag_names::{SUDOKU, in_flags};
use crate::cmd::model::ModelArgs;
use crate::cmd::print;
use crate::cmd::words::{Proofread, count, named, number, one_of, proofread, temperature, whole};
use crate::diffusion::policy::{BELOW, BUDGET, COUNT_MAX, Choice, Kind, QUALITY, Rule, rules};
use crate::engine::{Handle, Proofreading, Request};
use crate::train::sudoku::Grid;
use anyhow::bail;
use clap::{Args, builder::TypedValueParser};
use serde::Serialize;
use std::path::PathBuf;

const RUNNING_MAX: usize = 64;

#[derive(Args, Clone, Debug)]
pub(crate) struct SudokuArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    puzzles: PuzzleArgs,
    /// Numbers of steps to measure, one forward pass each at most
    #[arg(long, value_delimiter = ',', default_values_t = [13, 26, 51, 102], value_parser = count::<u32>(COUNT_MAX.into()))]
    steps: Vec<u32>,
    /// Policies of remasking
    #[arg(long, value_delimiter = ',', default_value = "off,quality,random,remdm,confidence", value_parser = contenders())]
    policies: Vec<Contender>,
    /// Which blank is filled first
    #[arg(long, default_value = "confidence", value_parser = named(Kind::Order))]
    order: &'static Rule,
    /// Sampling temperature. 0 takes the most probable token
    #[arg(long, default_value_t = 0.0, value_parser = temperature())]
    temperature: f32,
    /// Erasures a step plans; 4 in the paper
    #[arg(long, default_value_t = 1, value_parser = whole::<u32>(0, COUNT_MAX.into()))]
    erase_per_step: u32,
    /// Erase only below this quality or confidence
    #[arg(long, value_name = "0..1", value_parser = number(0.0_f32, 1.0))]
    below: Option<f32>,
    /// Steps to proofread the full grid, with the policy quality: a number from 2, `on` for the
    /// model's, or `off`
    #[arg(long, value_name = "N", default_value = "off", value_parser = proofread())]
    proofread: Proofread,
    /// What proofreading doubts
    #[arg(long, value_name = "0..1", default_value_t = 0.5, value_parser = number(0.0_f32, 1.0))]
    proofread_below: f32,
    /// Temperature at which proofreading writes; default: --temperature
    #[arg(long, value_parser = temperature())]
    proofread_temperature: Option<f32>,
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
    /// Also plot success rate against forward passes into this SVG file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// A remasking that takes part; `None` is what a request gets that names none.
type Contender = Option<&'static Rule>;

fn contenders() -> impl TypedValueParser<Value = Contender> {
    let default = (name(None), None, "What a request that names none gets");
    let rules = rules(Kind::Remasking).into_iter().map(|rule| (rule.name, Some(rule), rule.help));
    one_of([default].into_iter().chain(rules))
}

fn name(policy: Contender) -> &'static str {
    policy.map_or("default", |rule| rule.name)
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    policy: &'static str,
    steps: u32,
    solved: Share,
    /// Means per puzzle.
    forward_passes: f64,
    erased: f64,
    replaced: f64,
}

pub(super) fn run(args: &SudokuArgs) -> anyhow::Result<()> {
    let puzzles = args.puzzles.read()?;
    if let Some(file) = &args.plot {
        check_file(file)?;
    }
    let loaded = args.model.load()?;
    let needs_head = |rule: &&&Rule| rule.needs.quality;
    if let (Some(Rule { name, .. }), false) =
        (args.policies.iter().flatten().find(needs_head), loaded.model.spec().has_quality)
    {
        bail!("this model has no quality head for the policy {name}; give one with --prism-head, or other --policies");
    }
    let handle = engine(loaded.model, loaded.tokenizer)?;
    check_model(&handle)?;
    if !args.json {
        print::line(format_args!(
            "{} puzzles, {} order, temperature {}",
            puzzles.len(),
            args.order.name,
            args.temperature
        ))?;
        print::line(format_args!(
            "{:<13} {:>5} {:>26} {:>14} {:>7} {:>8}",
            "remasking", "steps", "solved (95 % interval)", "forward passes", "erased", "replaced"
        ))?;
    }
    let mut drawn = Vec::new();
    for &policy in &args.policies {
        let mut points = Vec::new();
        // the default policy sets its own number of steps
        let steps = if policy.is_none() { &args.steps[..1] } else { &args.steps[..] };
        for &steps in steps {
            let line = measure(&handle, &puzzles, args, policy, steps)?;
            line.print(args.json)?;
            points.push((line.forward_passes, line.solved));
        }
        drawn.push((name(policy), points));
    }
    let Some(file) = &args.plot else { return Ok(()) };
    let (count, order) = (puzzles.len(), args.order.name);
    draw(
        file,
        &format!("{count} Sudoku puzzles, {order} order, temperature {}", args.temperature),
        "puzzles solved",
        &drawn,
    )
}

impl SudokuArgs {
    fn request(&self, puzzle: &Grid, number: usize, policy: Contender, steps: u32) -> Request {
        let remasking = |rule: &'static Rule| {
            let takes = |knob: &str| rule.knob(knob).is_some();
            let budget = takes(BUDGET.name).then_some(self.erase_per_step.saturating_mul(steps));
            let below = self.below.filter(|_| takes(BELOW.name));
            Choice::of(rule).with_some(BUDGET.name, budget).with_some(BELOW.name, below)
        };
        let proofreading = |rule: &Rule| Proofreading {
            most: None,
            steps: if rule == &QUALITY { self.proofread.0 } else { Proofread::OFF.0 },
            below: Some(self.proofread_below),
            temperature: self.proofread_temperature,
        };
        Request {
            remasking: policy.map(remasking),
            proofreading: policy.map(proofreading),
            steps: policy.map(|_| steps),
            order: Some(Choice::of(self.order)),
            temperature: self.temperature,
            seed: Some(self.puzzles.seed_of(number)),
            ..Request::new(task(puzzle))
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(
    handle: &Handle,
    puzzles: &[Grid],
    args: &SudokuArgs,
    policy: Contender,
    steps: u32,
) -> anyhow::Result<Line> {
    let (mut solved, mut forward_passes, mut erased, mut replaced) = (0, 0u64, 0u64, 0u64);
    let submit = |number| {
        let session = handle.submit(&args.request(&puzzles[number], number, policy, steps));
        Ok(session.map_err(|rejected| in_flags(rejected, SUDOKU))?)
    };
    answer_all(puzzles.len(), RUNNING_MAX, submit, |number, start, answer| {
        solved += usize::from(is_solved(&puzzles[number], start, answer));
        forward_passes += u64::from(answer.forward_passes);
        erased += u64::from(answer.erased);
        replaced += u64::from(answer.replaced);
        Ok(())
    })
    .await?;
    let mean = |sum: u64| sum as f64 / puzzles.len() as f64;
    let (forward_passes, erased, replaced) = (mean(forward_passes), mean(erased), mean(replaced));
    Ok(Line {
        policy: name(policy),
        steps,
        solved: Share::new(solved, puzzles.len()),
        forward_passes,
        erased,
        replaced,
    })
}

impl Line {
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            return Ok(print::line(serde_json::to_string(self)?)?);
        }
        let Share { share, from, until, .. } = self.solved;
        let solved = format!("{:.1} % ({:.1} to {:.1})", 100.0 * share, 100.0 * from, 100.0 * until);
        let Self { policy, steps, forward_passes, erased, replaced, .. } = self;
        Ok(print::line(format_args!(
            "{policy:<13} {steps:>5} {solved:>26} {forward_passes:>14.1} {erased:>7.1} {replaced:>8.1}"
        ))?)
    }
}
