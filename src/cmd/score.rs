//! `remask score`: for each token of a text, the probability that it is right.

use super::model::ModelArgs;
use super::output::{Asked, Format, print_answer};
use super::report;
use super::text::TextArgs;
use super::watch::WatchArgs;
use super::words::number;
use crate::api::writer;
use crate::engine::{DOUBTFUL, Request, Task};
use clap::Args;

#[derive(Args, Clone, Debug)]
pub(super) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Tokens of a lower quality are doubtful
    #[arg(long, value_name = "0..1", default_value_t = DOUBTFUL, value_parser = number(0.0_f32, 1.0))]
    below: f32,
    /// Also print each token's probability given all others: one more row of a pass for each
    #[arg(long)]
    likelihood: bool,
    /// Print the object that `POST /v1/score` answers with
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

pub(super) fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let text = args.text.read(args.model.only()?)?;
    let request = &Request::new(Task::Score { text, likelihood: args.likelihood });
    let format = if args.json { Format::Wire } else { Format::Report(report::of_score) };
    let asked = Asked { request, names: args.text.names(), format, watch: &args.watch };
    print_answer(args.model.load()?, asked, |model, _, _| writer::of_score(model, args.below))
}
