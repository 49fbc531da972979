//! `remask repair`: erases the doubtful tokens of a text and fills them again.

use super::model::ModelArgs;
use super::output::{Asked, Format, print_answer};
use super::policy::OrderArgs;
use super::report;
use super::sampling::WritingArgs;
use super::text::TextArgs;
use super::watch::WatchArgs;
use super::words::{count, number, range, whole};
use crate::api::{with_repair_fields, writer};
use crate::diffusion::policy::COUNT_MAX;
use crate::engine::{Request, Task};
use anyhow::anyhow;
use clap::Args;
use std::ops::Range;

#[derive(Args, Clone, Debug)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Characters of the text (tokens of --text-ids) that stay: from the first number up to the
    /// second, without it, as 0-80. Can be given several times
    #[arg(long, value_name = "FROM-TO", value_parser = range())]
    pinned: Vec<Range<usize>>,
    /// Tokens of a lower quality are erased [default: the model's, else 0.5, or 1 with --worst]
    #[arg(long, value_name = "0..1", value_parser = number(0.0_f32, 1.0))]
    below: Option<f32>,
    /// Tokens erased per round at most, the lowest quality first
    #[arg(long, value_name = "N", value_parser = count::<u32>(COUNT_MAX.into()))]
    worst: Option<u32>,
    /// Forward passes at most [default: one per token, at most 128]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(2, COUNT_MAX.into()))]
    steps: Option<u32>,
    #[command(flatten)]
    order: OrderArgs,
    #[command(flatten)]
    writing: WritingArgs,
    /// Also judge the tokens of the repaired text: one more forward pass
    #[arg(long)]
    return_quality: bool,
    /// Print the object that `POST /v1/repair` answers with
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

pub(super) fn run(args: &RepairArgs) -> anyhow::Result<()> {
    let (text, pinned) = (args.text.read(args.model.only()?)?, args.pinned.clone());
    let OrderArgs(order) = args.order;
    let request = Request { order, return_quality: args.return_quality, ..Request::new(Task::Repair { text, pinned }) };
    let request = with_repair_fields(args.writing.set(request), args.steps, args.below, args.worst);
    let request = &request.map_err(|error| anyhow!("{error}"))?;
    let report = if args.watch.is_watched() { report::of_watched_repair } else { report::of_repair };
    let format = if args.json { Format::Wire } else { Format::Report(report) };
    let asked = Asked { request, names: args.text.names(), format, watch: &args.watch };
    print_answer(args.model.load()?, asked, |model, _, start| writer::of_repair(model, start))
}
