//! `remask convert`: splits a published PRISM checkpoint into a model directory, or makes one.

use crate::model::{put_together, take_apart};
use anyhow::bail;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(super) struct ConvertArgs {
    /// The model's directory. Its config.json describes the model of the checkpoint
    #[arg(long, value_name = "DIR")]
    model_id: PathBuf,
    /// A PRISM checkpoint to split, .safetensors or .bin
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with = "to")]
    checkpoint: Option<PathBuf>,
    /// Directory to write the checkpoint's model, adapter and head to
    #[arg(long, value_name = "DIR", requires = "checkpoint")]
    out: Option<PathBuf>,
    /// PRISM checkpoint to write, made from the model, its head and its adapter
    #[arg(long, value_name = "FILE.safetensors")]
    to: Option<PathBuf>,
    /// The head for --to [default: the one in the model's directory]
    #[arg(long, value_name = "FILE", requires = "to")]
    prism_head: Option<PathBuf>,
    /// The LoRA adapter for --to
    #[arg(long, value_name = "DIR", requires = "to")]
    adapter: Option<PathBuf>,
}

pub(super) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let ConvertArgs { model_id, checkpoint, out, to, prism_head, adapter } = args;
    match (checkpoint, out, to) {
        (Some(checkpoint), Some(out), _) => {
            take_apart(checkpoint, model_id, out)?;
            println!("{} holds the model, its head and its adapter, if there is one", out.display());
        }
        (_, _, Some(to)) => {
            put_together(model_id, prism_head.as_deref(), adapter.as_deref(), to)?;
            println!("{} is a PRISM checkpoint", to.display());
        }
        (_, _, None) => {
            bail!("give --checkpoint FILE and --out DIR to take a checkpoint apart, or --to FILE to make one")
        }
    }
    Ok(())
}
