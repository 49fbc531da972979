//! `remask train`: pretrains a model, or trains a quality head for a model.

mod base;
mod card;
mod dry_run;
mod losses;
mod options;
mod prism;

use clap::Subcommand;

#[derive(Clone, Debug, Subcommand)]
pub(super) enum TrainCommand {
    /// Pretrain a masked diffusion model
    Base(Box<base::BaseArgs>),
    /// Train a PRISM quality head for a model: alone, with adapters, or with the whole model
    Prism(Box<prism::PrismArgs>),
}

pub(super) fn run(command: &TrainCommand) -> anyhow::Result<()> {
    match command {
        TrainCommand::Base(args) => base::run(args),
        TrainCommand::Prism(args) => prism::run(args),
    }
}
