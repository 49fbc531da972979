//! Low-rank adapters (LoRA, arXiv 2106.09685) in PEFT's layout: W' = W + scale B A, folded into the
//! weights once, when they are loaded. Out of scope: where tensors come from.

use crate::model::config::strict::{self, Rule};
use crate::model::error::LoadError;
use candle_core::{DType, Result, Tensor};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// What an adapter's file of tensors does not contain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoraConfig {
    /// Rows of every A and columns of every B; `None` takes those of the file.
    pub(crate) rank: Option<usize>,
    /// Factor of B A.
    pub(crate) scale: f64,
    /// Last parts of the adapted modules' names; `None` takes those of the file.
    pub(crate) targets: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Keys {
    r: usize,
    lora_alpha: f64,
    target_modules: Targets,
    #[serde(default)]
    use_rslora: bool,
}

/// A list of names, or a pattern over full names, which only training needs.
#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    Names(Vec<String>),
    Pattern(#[allow(dead_code)] String),
}

/// Keys that are read, then keys about training and bookkeeping; any other key must be off.
const KNOWN: &str = "\
    r lora_alpha target_modules use_rslora auto_mapping base_model_name_or_path inference_mode \
    layers_pattern layers_to_transform lora_dropout megatron_core peft_version revision task_type";

impl LoraConfig {
    /// The published PRISM recipe trains with alpha = r, and its checkpoints do not contain alpha.
    pub(crate) const PUBLISHED: Self = Self { rank: None, scale: 1.0, targets: None };

    /// Reads an `adapter_config.json`.
    pub(crate) fn read(path: &Path) -> std::result::Result<Self, LoadError> {
        let file = path.display().to_string();
        let keys = strict::read(path)?;
        let rules = [
            ("peft_type", vec![json!("LORA")], false),
            ("bias", vec![json!("none")], true),
            ("fan_in_fan_out", vec![json!(false)], true),
            // other initialisations change the base weights too
            ("init_lora_weights", vec![json!(true), json!(false), json!("gaussian")], true),
        ];
        let rules = rules.map(|(key, values, optional)| Rule { key, values, optional });
        strict::check(&keys, &rules, KNOWN, &file)?;
        let keys: Keys = strict::take(keys, &file)?;
        if keys.r == 0 {
            return Err(LoadError::malformed(&file, "says `r` is 0, it must be at least 1"));
        }
        #[allow(clippy::cast_precision_loss)] // ranks are small
        let rank = keys.r as f64;
        // rank-stabilised LoRA (arXiv 2312.03732) divides by the root
        let scale = keys.lora_alpha / if keys.use_rslora { rank.sqrt() } else { rank };
        let targets = match keys.target_modules {
            Targets::Names(names) => Some(names),
            Targets::Pattern(_) => None,
        };
        Ok(Self { rank: Some(keys.r), scale, targets })
    }
}

/// W + scale B A in f32: `weight` (out, in), `a` (rank, in), `b` (out, rank).
pub(crate) fn fold(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let [weight, a, b] = [weight, a, b].map(|tensor| tensor.to_dtype(DType::F32));
    weight? + b?.matmul(&a?)?.affine(scale, 0.0)? // (out, in)
}
