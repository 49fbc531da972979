//! `remask convert`: splits a published PRISM checkpoint into a model directory, or makes one; says
//! which tokens a head was trained to judge.

use super::print;
use crate::diffusion::TokenSet;
use crate::model::{PRISM_HEAD, put_together, set_judged, take_apart};
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
    /// The head for --to or --judged [default: the one in the model's directory]
    #[arg(long, value_name = "FILE", conflicts_with = "checkpoint")]
    prism_head: Option<PathBuf>,
    /// Ids of the tokens that the head was trained to judge, as 1-9,12. They are written into the
    /// head's file
    #[arg(long, value_name = "IDS", conflicts_with_all = ["checkpoint", "to"])]
    judged: Option<TokenSet>,
    /// The LoRA adapter for --to
    #[arg(long, value_name = "DIR", requires = "to")]
    adapter: Option<PathBuf>,
}

pub(super) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let ConvertArgs { model_id, checkpoint, out, to, prism_head, judged, adapter } = args;
    if let Some(judged) = judged {
        let head = prism_head.clone().unwrap_or_else(|| model_id.join(PRISM_HEAD));
        set_judged(&head, judged)?;
        print::line(format_args!("{} is a head for the tokens {judged}", head.display()))?;
        return Ok(());
    }
    match (checkpoint, out, to) {
        (Some(checkpoint), Some(out), _) => {
            take_apart(checkpoint, model_id, out)?;
            print::line(format_args!("{} holds the model, its head and its adapter, if there is one", out.display()))?;
        }
        (_, _, Some(to)) => {
            put_together(model_id, prism_head.as_deref(), adapter.as_deref(), to)?;
            print::line(format_args!("{} is a PRISM checkpoint", to.display()))?;
        }
        (_, _, None) => {
            bail!(
                "give --checkpoint FILE and --out DIR to take a checkpoint apart, --to FILE to make one, or --judged IDS \
                 for the file of a head"
            )
        }
    }
    Ok(())
}
