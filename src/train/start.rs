//! More blocks for a model that has learnt, so that it goes on from what it knows. Refuses to know data and losses.

use super::{Start, TrainError};
use crate::model::Config;
use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

impl Start {
    /// The model with `layers` blocks that computes what it computed with its own: each block is followed by copies of itself
    /// whose `attn_out` and `ff_out` are zero, which add nothing until training changes them (block expansion; Wu et al., arXiv
    /// 2401.02415, section 3.2). The fingerprint stays that of the model it came from.
    ///
    /// # Errors
    /// When there are no weights to go on from, or `layers` is not a whole multiple of `config.n_layers`.
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

/// The weights of `config`, block n of which is block n / `times` of `weights`, or a silent copy of it.
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
