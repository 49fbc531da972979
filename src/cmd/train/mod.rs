//! `remask train`: pretrains a model, or trains a quality head for a model.

mod base;
mod monitor;
mod options;
mod prism;

use clap::{Args, Subcommand};

/// Flags of `remask train`.
#[derive(Args, Clone, Debug)]
pub(super) struct TrainArgs {
    #[command(subcommand)]
    command: TrainCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum TrainCommand {
    /// Pretrain a masked diffusion model
    Base(Box<base::BaseArgs>),
    /// Train a PRISM quality head for a model: alone, with adapters, or with the whole model
    Prism(Box<prism::PrismArgs>),
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    match &args.command {
        TrainCommand::Base(args) => base::run(args),
        TrainCommand::Prism(args) => prism::run(args),
    }
}
