//! Low-rank adapters (LoRA, arXiv 2106.09685) in PEFT's layout: W' = W + scale B A, folded into the
//! weights once, when they are loaded. Out of scope: where tensors come from.

use crate::model::config::strict::{self, Rules};
use crate::model::error::LoadError;
use candle_core::{DType, Result, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};
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
        let (keys, file) = strict::read(path)?;
        let optional: [(_, &[Value]); 3] = [
            ("bias", &[json!("none")]),
            ("fan_in_fan_out", &[json!(false)]),
            // other initialisations change the base weights too
            ("init_lora_weights", &[json!(true), json!(false), json!("gaussian")]),
        ];
        let rules = Rules { required: &[("peft_type", "LORA")], optional: &optional, known: KNOWN };
        let keys: Keys = rules.take(keys, &file)?;
        strict::positive(&[("r", keys.r)], &file)?;
        let rank = keys.r as f64;
        // rank-stabilised LoRA (arXiv 2312.03732) divides by the root
        let scale = keys.lora_alpha / if keys.use_rslora { rank.sqrt() } else { rank };
        let targets = if let Targets::Names(names) = keys.target_modules { Some(names) } else { None };
        Ok(Self { rank: Some(keys.r), scale, targets })
    }
}

/// W + scale B A in f32: `weight` (out, in), `a` (rank, in), `b` (out, rank).
pub(crate) fn fold(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let [weight, a, b] = [weight, a, b].map(|tensor| tensor.to_dtype(DType::F32));
    weight? + b?.matmul(&a?)?.affine(scale, 0.0)? // (out, in)
}
