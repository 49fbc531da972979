//! `remask read`: all outputs of one forward pass, for comparing with another implementation.

use super::{model::ModelArgs, print, refine::ids, words::number};
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
    /// How many of the ids, from the first on, are the prompt, which a block-causal model reads as
    /// one block [default: those before the first blank]
    #[arg(long, value_name = "N", value_parser = number::<usize>(0, 1 << 20))]
    prompt_length: Option<usize>,
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
    let ids = ids(&args.prompt_ids)?;
    let read = match args.prompt_length {
        Some(prompt) if prompt > ids.len() => {
            bail!("--prompt-length {prompt} is more than the {} ids given; give at most that", ids.len())
        }
        Some(prompt) => model.inspect_prompted(&ids, prompt)?,
        None => model.inspect(&ids)?,
    };
    let mut object = json!({ "logits": read.logits, "quality_logits": read.quality_logits });
    if args.hidden {
        object["hidden"] = json!(read.hidden);
    }
    Ok(print::line(object)?)
}
