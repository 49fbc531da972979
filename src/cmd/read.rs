//! `remask read`: all outputs of one forward pass, for comparing with another implementation.

use super::{model::ModelArgs, print, refine::ids};
use anyhow::bail;
use clap::Args;
use serde_json::json;

#[derive(Args, Clone, Debug)]
pub(super) struct ReadArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, for example 1,2,3. The id of the mask token stands for a blank
    #[arg(long, value_name = "IDS")]
    prompt_ids: String,
    /// Print one JSON object, `{"logits": [[..] per position], "quality_logits": [..]}`. Required:
    /// there is no other format
    #[arg(long)]
    json: bool,
    /// Also print the hidden states after the final norm, as `hidden`
    #[arg(long)]
    hidden: bool,
}

pub(super) fn run(args: &ReadArgs) -> anyhow::Result<()> {
    if !args.json {
        bail!("add --json: these numbers are for a program to read");
    }
    let mut model = args.model.load()?.model;
    let read = model.inspect(&ids(&args.prompt_ids)?)?;
    let mut object = json!({ "logits": read.logits, "quality_logits": read.quality_logits });
    if args.hidden {
        object["hidden"] = json!(read.hidden);
    }
    Ok(print::line(object)?)
}
