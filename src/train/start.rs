//! The weights that pretraining starts from: random, or those of a model, also with more blocks.

use super::{error::TrainError, init};
use crate::model::{self, Config};
use candle_core::{Result, Tensor};
use std::{collections::BTreeMap, path::Path};

/// Where the initial weights come from.
#[derive(Clone, Debug)]
pub enum Start {
    /// Random weights.
    Fresh,
    /// Random weights whose position embeddings encode row, column and box of a Sudoku grid.
    /// Without this a small model only learns how often each digit occurs.
    Sudoku,
    /// The weights of a model.
    From {
        /// By their names in checkpoints.
        weights: BTreeMap<String, Tensor>,
        /// Fingerprint of these weights.
        fingerprint: String,
    },
}

impl Start {
    /// The weights of the model in `dir`, or random ones where it has only a configuration.
    ///
    /// # Errors
    /// When there are weights that do not fit the configuration or cannot be read.
    pub fn of(dir: &Path, device: model::Device) -> std::result::Result<Self, TrainError> {
        if !["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists()) {
            return Ok(Self::Fresh);
        }
        let model::Tensors { backbone: weights, fingerprint, .. } = model::tensors(dir, None, device)?;
        Ok(Self::From { weights, fingerprint })
    }

    /// A name for a run's settings: `fresh`, `sudoku` or the fingerprint.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Fresh => "fresh",
            Self::Sudoku => "sudoku",
            Self::From { fingerprint, .. } => fingerprint,
        }
    }

    /// The weights by name. Random ones are a function of `seed`.
    pub(super) fn weights(
        self,
        config: &Config,
        seed: u64,
        device: &candle_core::Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        match self {
            Self::From { weights, .. } => Ok(weights),
            Self::Fresh => init::backbone(config, seed, device),
            Self::Sudoku => init::sudoku_backbone(config, seed, device),
        }
    }

    /// The model with `layers` blocks that computes the same function: each block is followed by
    /// copies of itself whose `attn_out` and `ff_out` are zero, so they add nothing until they are
    /// trained (block expansion; Wu et al., arXiv 2401.02415, section 3.2). The fingerprint is
    /// kept.
    ///
    /// # Errors
    /// Without [`Start::From`], or when `layers` is not a positive multiple of `config.n_layers`.
    pub fn expanded(self, config: &Config, layers: usize) -> std::result::Result<(Config, Self), TrainError> {
        let before = config.n_layers;
        let Self::From { weights, fingerprint } = self else {
            let problem =
                "there are no weights to copy blocks of; n_layers in config.json says how many a fresh model has";
            return Err(TrainError::Settings(problem.to_owned()));
        };
        if layers == 0 || !layers.is_multiple_of(before) {
            return Err(TrainError::Settings(format!(
                "{layers} layers cannot be made of the model's {before}, each followed by as many copies; say {before}, {} or \
                 another multiple",
                2 * before
            )));
        }
        let config = Config { n_layers: layers, ..config.clone() };
        let weights = expand(&weights, &config, layers / before)?;
        Ok((config, Self::From { weights, fingerprint }))
    }
}

/// The weights of `config`: block n is block n / `times` of `weights`, or a copy that adds nothing.
fn expand(weights: &BTreeMap<String, Tensor>, config: &Config, times: usize) -> Result<BTreeMap<String, Tensor>> {
    let expanded = config.tensors().map(|(name, _)| {
        let block = name.strip_prefix(BLOCKS).and_then(|rest| rest.split_once('.'));
        let place = block.and_then(|(n, part)| Some((n.parse::<usize>().ok()?, part)));
        let Some((n, part)) = place else { return Ok((name.clone(), weight(weights, &name)?.clone())) };
        let original = weight(weights, &format!("{BLOCKS}{}.{part}", n / times))?;
        let is_silent = n % times > 0 && (part.starts_with("attn_out.") || part.starts_with("ff_out."));
        Ok((name, if is_silent { original.zeros_like()? } else { original.clone() }))
    });
    expanded.collect()
}

const BLOCKS: &str = "model.transformer.blocks.";

fn weight<'a>(weights: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    weights.get(name).ok_or_else(|| candle_core::Error::Msg(format!("the model has no parameter {name}")))
}
