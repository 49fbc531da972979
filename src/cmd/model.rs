//! Which model: the flags that name one, and the models that are part of the binary.

use crate::model::{Denoiser, Device, Source, Toy, load};
use crate::text::Tokenizer;
use anyhow::{Context, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The Sudoku model of `models/sudoku`.
pub(super) const SUDOKU: Source = Source::Embedded {
    config: include_bytes!("../../models/sudoku/config.json"),
    generation_config: include_bytes!("../../models/sudoku/generation_config.json"),
    weights: include_bytes!("../../models/sudoku/model.safetensors"),
    prism_head: Some(include_bytes!("../../models/sudoku/prism_head.safetensors")),
};
pub(super) const SUDOKU_TOKENIZER: &[u8] = include_bytes!("../../models/sudoku/tokenizer.json");
const TOY_TOKENIZER: &[u8] = include_bytes!("../../models/toy/tokenizer.json");

/// Flags that choose a model.
#[derive(Args, Clone, Debug)]
pub(super) struct ModelArgs {
    /// A model directory (config.json, model.safetensors, tokenizer.json), or `sudoku` or `toy`, which are built in
    #[arg(long, env = "REMASK_MODEL_ID", default_value = "sudoku", value_name = "DIR|sudoku|toy")]
    pub(super) model_id: String,
    /// A PRISM quality head or a whole published PRISM checkpoint; by default the directory's own
    #[arg(long, env = "REMASK_PRISM_HEAD", value_name = "FILE")]
    prism_head: Option<PathBuf>,
    /// A LoRA adapter in PEFT's layout, to be folded into the weights
    #[arg(long, env = "REMASK_ADAPTER", value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Where to compute: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, env = "REMASK_DEVICE", default_value = "auto")]
    device: Device,
}

/// A model, ready to run, and what goes with it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) model: Box<dyn Denoiser>,
    pub(super) tokenizer: Option<Arc<Tokenizer>>,
    /// What callers call it, unless the operator says otherwise.
    pub(super) name: String,
}

impl ModelArgs {
    /// Reads the model; takes as long as its files are large.
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        let (model, tokenizer) = match self.model_id.as_str() {
            "sudoku" | "toy" if self.prism_head.is_some() || self.adapter.is_some() => {
                bail!("--prism-head and --adapter go with a model directory; {} is built in as it is", self.model_id)
            }
            "sudoku" => (load(&SUDOKU, self.device)?, Some(Tokenizer::from_bytes(SUDOKU_TOKENIZER)?)),
            "toy" => (Box::new(Toy::new()) as Box<dyn Denoiser>, Some(Tokenizer::from_bytes(TOY_TOKENIZER)?)),
            dir => self.load_dir(Path::new(dir)).with_context(|| format!("cannot load the model {dir:?}"))?,
        };
        let name = match Path::new(&self.model_id).file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => self.model_id.clone(),
        };
        Ok(Loaded { model, tokenizer: tokenizer.map(Arc::new), name })
    }

    fn load_dir(&self, dir: &Path) -> anyhow::Result<(Box<dyn Denoiser>, Option<Tokenizer>)> {
        if !dir.is_dir() {
            bail!("there is no such directory; give one with a config.json, or `sudoku` or `toy`");
        }
        let tokenizer = Tokenizer::from_dir(dir)?;
        let source = Source::Directory {
            dir: dir.to_path_buf(),
            prism_head: self.prism_head.clone(),
            adapter: self.adapter.clone(),
        };
        Ok((load(&source, self.device)?, tokenizer))
    }
}
