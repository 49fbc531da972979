//! `config.json` of MDLM's DiT, which ProSeCo's models share, and the shapes of its tensors.

use super::strict::{self, BLOCKS_MAX, CHANGES, IDS_MAX, Rules, SEQUENCE_MAX, WIDTH_MAX};
use crate::model::error::LoadError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The family, and `model_type` in the `config.json` of MDLM's and PRISM's models.
pub(crate) const FAMILY: &str = "mdlm";
/// The `model_type` and the class of each publisher of such networks: of MDLM (arXiv 2406.07524),
/// and of `ProSeCo` (arXiv 2602.11590), whose network and names of tensors are the same.
const PUBLISHERS: [(&str, &str); 2] = [(FAMILY, "MDLM"), ("proseco", "Proseco")];
/// Keys that are read, then keys that do not change a forward pass.
const KNOWN: &str = "\
    hidden_dim hidden_size cond_dim n_blocks n_heads vocab_size model_length mask_token_id eos_token_id \
    bos_token_id pad_token_id _name_or_path auto_map cfg_num_classes dropout dtype torch_dtype \
    transformers_version";
/// Width of the sinusoid of sigma.
pub(crate) const SINUSOID: usize = 256;

/// Sizes and ids of a DiT. Lengths count elements.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(alias = "hidden_size")]
    pub(crate) hidden_dim: usize,
    pub(crate) cond_dim: usize,
    pub(crate) n_blocks: usize,
    pub(crate) n_heads: usize,
    pub(crate) vocab_size: usize,
    pub(crate) model_length: usize,
    /// The published configuration has none; then the last id is the mask.
    pub(crate) mask_token_id: Option<u32>,
    pub(crate) eos_token_id: Option<u32>,
}

/// Whether `config.json` in `dir` names this family; false where it cannot be read.
pub(crate) fn is_in(dir: &Path) -> bool {
    strict::read(&dir.join("config.json")).is_ok_and(|(keys, _)| publisher(&keys).is_some())
}

/// The `model_type` and the class of the publisher that the keys name.
fn publisher(keys: &Map<String, Value>) -> Option<(&'static str, &'static str)> {
    let given = keys.get("model_type")?;
    PUBLISHERS.into_iter().find(|(model_type, _)| given == model_type)
}

impl Config {
    /// Reads a `config.json`.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let (keys, file) = strict::read(path)?;
        let [published, _] = PUBLISHERS;
        let (model_type, class) = publisher(&keys).unwrap_or(published);
        let optional: [(_, &[Value]); 3] = [
            ("architectures", &[json!([class]), Value::Null]),
            ("time_conditioning", &[json!(false)]),
            ("cfg", &[json!(false), Value::Null]), // an embedding of classes, for guidance
        ];
        let required = [("model_type", model_type)];
        let rules = Rules { required: &required, optional: &optional, changes: &[&CHANGES], known: KNOWN };
        let config: Self = rules.take(keys, &file)?;
        config.check(&file)?;
        Ok(config)
    }

    fn check(&self, file: &str) -> Result<(), LoadError> {
        let refuse = |problem: String| Err(LoadError::malformed(file, problem));
        let sizes = [
            ("hidden_dim", self.hidden_dim, WIDTH_MAX),
            ("cond_dim", self.cond_dim, WIDTH_MAX),
            ("n_blocks", self.n_blocks, BLOCKS_MAX),
            ("n_heads", self.n_heads, WIDTH_MAX),
            ("model_length", self.model_length, SEQUENCE_MAX),
        ];
        strict::check_sizes(&sizes, file)?;
        let (width, heads, tokens) = (self.hidden_dim, self.n_heads, self.vocab_size);
        if !(2..=IDS_MAX).contains(&tokens) {
            return refuse(format!("says `vocab_size` is {tokens}, it must be 2 to {IDS_MAX}"));
        }
        if !width.is_multiple_of(2 * heads) {
            return refuse(format!(
                "says `hidden_dim` is {width}, which `n_heads` = {heads} does not cut into even widths"
            ));
        }
        strict::check_table("model_length", self.model_length, width / heads, file)?;
        let ids = self.mask_token_id.iter().chain(&self.eos_token_id);
        match ids.into_iter().find(|id| **id as usize >= tokens) {
            Some(id) => refuse(format!("names token id {id}, but `vocab_size` is {tokens}")),
            None => Ok(()),
        }
    }

    /// Name and shape of every tensor of the backbone.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, c) = (self.hidden_dim, self.cond_dim);
        let around = [
            ("vocab_embed.embedding", vec![self.vocab_size, h]),
            ("sigma_map.mlp.0.weight", vec![c, SINUSOID]),
            ("sigma_map.mlp.0.bias", vec![c]),
            ("sigma_map.mlp.2.weight", vec![c, c]),
            ("sigma_map.mlp.2.bias", vec![c]),
        ];
        let around = around.map(|(name, shape)| (name.to_owned(), shape));
        around.into_iter().chain(self.layers(self.n_blocks, self.vocab_size)).collect()
    }

    /// The tensors of some blocks and a final layer with so many `outputs`, of a backbone or head.
    pub(crate) fn layers(&self, blocks: usize, outputs: usize) -> impl Iterator<Item = (String, Vec<usize>)> + use<> {
        let (h, c) = (self.hidden_dim, self.cond_dim);
        let blocks = (0..blocks).flat_map(move |n| {
            [
                ("norm1.weight", vec![h]),
                ("attn_qkv.weight", vec![3 * h, h]),
                ("attn_out.weight", vec![h, h]),
                ("norm2.weight", vec![h]),
                ("mlp.0.weight", vec![4 * h, h]),
                ("mlp.0.bias", vec![4 * h]),
                ("mlp.2.weight", vec![h, 4 * h]),
                ("mlp.2.bias", vec![h]),
                ("adaLN_modulation.weight", vec![6 * h, c]),
                ("adaLN_modulation.bias", vec![6 * h]),
            ]
            .map(|(name, shape)| (format!("blocks.{n}.{name}"), shape))
        });
        let last = [
            ("norm_final.weight", vec![h]),
            ("linear.weight", vec![outputs, h]),
            ("linear.bias", vec![outputs]),
            ("adaLN_modulation.weight", vec![2 * h, c]),
            ("adaLN_modulation.bias", vec![2 * h]),
        ];
        blocks.chain(last.map(|(name, shape)| (format!("output_layer.{name}"), shape)))
    }
}
