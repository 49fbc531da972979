//! `remask convert`: splits a published PRISM checkpoint into a model directory, or makes one; says
//! which tokens a head was trained to judge, and with which weights.

use super::print;
use crate::diffusion::TokenSet;
use crate::model::{HeadEntry, PRISM_HEAD, annotate_head, put_together, take_apart};
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
    /// Write into the head's file that it was trained with the weights of --model-id and --adapter
    #[arg(long, conflicts_with_all = ["checkpoint", "to"])]
    record_weights: bool,
    /// The LoRA adapter for --to or --record-weights
    #[arg(long, value_name = "DIR", conflicts_with = "checkpoint")]
    adapter: Option<PathBuf>,
    /// Take a quality head that was made for other weights, with a warning
    #[arg(long)]
    allow_foreign_head: bool,
}

pub(super) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let ConvertArgs { model_id, checkpoint, out, to, prism_head, adapter, .. } = args;
    if adapter.is_some() && to.is_none() && !args.record_weights {
        bail!("--adapter goes with --to or --record-weights");
    }
    if args.judged.is_some() || args.record_weights {
        return annotate(args);
    }
    match (checkpoint, out, to) {
        (Some(checkpoint), Some(out), _) => {
            take_apart(checkpoint, model_id, out, args.allow_foreign_head)?;
            print::line(format_args!("{} holds the model, its head and its adapter, if there is one", out.display()))?;
        }
        (_, _, Some(to)) => {
            put_together(model_id, prism_head.as_deref(), adapter.as_deref(), to, args.allow_foreign_head)?;
            print::line(format_args!("{} is a PRISM checkpoint", to.display()))?;
        }
        (_, _, None) => {
            bail!(
                "give --checkpoint FILE and --out DIR to take a checkpoint apart, --to FILE to make one, or --judged IDS \
                 or --record-weights for the file of a head"
            )
        }
    }
    Ok(())
}

/// Writes into the header of a head's file.
fn annotate(args: &ConvertArgs) -> anyhow::Result<()> {
    let ConvertArgs { model_id, prism_head, judged, adapter, .. } = args;
    let head = prism_head.clone().unwrap_or_else(|| model_id.join(PRISM_HEAD));
    if let Some(judged) = judged {
        annotate_head(&head, HeadEntry::Judged(judged))?;
        print::line(format_args!("{} is a head for the tokens {judged}", head.display()))?;
    }
    if args.record_weights {
        annotate_head(&head, HeadEntry::MadeFor { dir: model_id, adapter: adapter.as_deref() })?;
        print::line(format_args!("{} is a head for the weights of {}", head.display(), model_id.display()))?;
    }
    Ok(())
}
