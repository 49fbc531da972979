//! `remask quantize`: converts a model directory into one GGUF file with quantised matrices.

use super::{
    hub, print,
    words::{hub_token, one_of},
};
use crate::model::{Format, quantise};
use crate::text::Tokenizer;
use anyhow::{Context, bail};
use clap::Args;
use std::{fs, path::PathBuf};

#[derive(Args, Clone, Debug)]
pub(super) struct QuantiseArgs {
    /// The model: a directory, or a name on the Hugging Face hub
    #[arg(long, value_name = "OWNER/NAME|DIR")]
    model_id: String,
    /// Branch, tag or commit of a model from the hub
    #[arg(long, default_value = "main")]
    revision: String,
    /// Hugging Face token for private or gated models [default: the one stored by `hf auth login`]
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = hub_token())]
    hf_token: Option<String>,
    /// PRISM quality head to include [default: the one in the model's directory]
    #[arg(long, value_name = "FILE")]
    prism_head: Option<PathBuf>,
    /// LoRA adapter in PEFT's layout to merge into the weights
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Take a quality head that was made for other weights, with a warning
    #[arg(long)]
    allow_foreign_head: bool,
    /// Format of the matrices. Where its blocks do not fit a row, q8_0 or f16 is used
    #[arg(long, default_value = "q4_k", value_parser = one_of(Format::words()))]
    format: Format,
    /// GGUF file to write
    #[arg(long, value_name = "FILE.gguf")]
    out: PathBuf,
}

pub(super) fn run(args: &QuantiseArgs) -> anyhow::Result<()> {
    let QuantiseArgs { model_id, revision, hf_token, prism_head, adapter, allow_foreign_head, format, out } = args;
    if out.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf")) {
        bail!("--out is {}; give a file whose name ends in .gguf, by which it will be known", out.display());
    }
    let Some(dir) = hub::directory(model_id, revision, hf_token.as_deref())? else {
        bail!("--model-id is {model_id:?}; give a directory with a config.json, or a model of the hub as owner/name")
    };
    Tokenizer::from_dir(&dir)?; // it comes into the file, and is checked before the work is done
    quantise(&dir, prism_head.as_deref(), adapter.as_deref(), *format, out, *allow_foreign_head)?;
    let size = fs::metadata(out).with_context(|| out.display().to_string())?.len();
    Ok(print::line(format_args!("{} holds the model in {format}, {:.3} GB", out.display(), size as f64 / 1e9))?)
}
