//! Initial values of parameters: random backbones, those of a model, also with more blocks, quality
//! heads and adapters.

use super::sudoku::{self, CELLS};
use super::{error::TrainError, random::Normals};
use crate::files;
use crate::model::{self, Config, head_tensors};
use candle_core::{DType, Device, Result, Tensor};
use std::{collections::BTreeMap, path::Path, result::Result as StdResult};

/// Tensors by their names.
pub(super) type Weights = BTreeMap<String, Tensor>;

/// Where the initial weights come from.
#[derive(Clone, Debug)]
pub enum Start {
    /// Random weights.
    Fresh,
    /// Random weights whose position embeddings encode row, column and box of a Sudoku grid.
    /// Without this a small model only learns how often each digit occurs.
    Sudoku,
    /// The weights of a model.
    From(
        /// By their names in checkpoints.
        Weights,
    ),
}

impl Start {
    /// The weights of the model in `dir`, or random ones where it has only a configuration.
    ///
    /// # Errors
    /// When there are weights that do not fit the configuration or cannot be read.
    pub fn of(dir: &Path) -> StdResult<Self, TrainError> {
        if !["model.safetensors", "model.safetensors.index.json"].iter().any(|name| files::is_there(&dir.join(name))) {
            return Ok(Self::Fresh);
        }
        Ok(Self::From(model::backbone(dir, model::Device::Cpu)?))
    }

    /// The weights by name, on the CPU. Random ones are a function of `seed`.
    pub(super) fn weights(self, config: &Config, seed: u64) -> Result<Weights> {
        match self {
            Self::From(weights) => Ok(weights),
            Self::Fresh => backbone(config, seed, &Device::Cpu),
            Self::Sudoku => sudoku_backbone(config, seed, &Device::Cpu),
        }
    }

    /// The model with `layers` blocks that computes the same function: each block is followed by
    /// copies of itself whose `attn_out` and `ff_out` are zero, so they add nothing until they are
    /// trained (block expansion; Wu et al., arXiv 2401.02415, section 3.2).
    ///
    /// # Errors
    /// Without [`Start::From`], or when `layers` is not a positive multiple of `config.n_layers`.
    pub fn expanded(self, config: &Config, layers: usize) -> StdResult<(Config, Self), TrainError> {
        let before = config.n_layers;
        let Self::From(weights) = self else {
            return Err(TrainError::Settings(
                "there are no weights to copy blocks of; n_layers in config.json says how many a fresh model has"
                    .into(),
            ));
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
        Ok((config, Self::From(weights)))
    }
}

/// The weights of `config`: block n is block n / `times` of `weights`, or a copy that adds nothing.
fn expand(weights: &Weights, config: &Config, times: usize) -> Result<Weights> {
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

fn weight<'a>(weights: &'a Weights, name: &str) -> Result<&'a Tensor> {
    weights.get(name).ok_or_else(|| candle_core::Error::Msg(format!("the model has no parameter {name}")))
}

/// A random backbone: normal with LLaDA's standard deviation of 0.02. Matrices that write into the
/// residual stream have 0.02 / sqrt(2 layers), as in GPT-2. Gains are 1.
fn backbone(config: &Config, seed: u64, device: &Device) -> Result<Weights> {
    let mut normals = Normals::new(seed);
    let residual = 0.02 / (2.0 * config.n_layers as f64).sqrt();
    let mut fresh = |name: &str, shape: &[usize]| match shape {
        [_] => Tensor::ones(shape, DType::F32, device),
        _ if name.ends_with("attn_out.weight") || name.contains(".blocks.") && name.ends_with("ff_out.weight") => {
            normals.tensor(shape, residual, device)
        }
        _ => normals.tensor(shape, 0.02, device),
    };
    config.tensors().map(|(name, shape)| Ok((name.clone(), fresh(&name, &shape)?))).collect()
}

/// A random backbone for Sudoku: the first 27 dimensions of the position embeddings encode row,
/// column and box, and the token embeddings are zero there.
fn sudoku_backbone(config: &Config, seed: u64, device: &Device) -> Result<Weights> {
    let mut weights = backbone(config, seed, device)?;
    let named = |name: &str| format!("model.transformer.{name}.weight");
    let Some(tokens) = weights.get_mut(&named("wte")) else { return Ok(weights) };
    *tokens = clear_of_units(tokens)?;
    weights.insert(named("wpe"), unit_positions(config, device)?);
    Ok(weights)
}

const UNITS: usize = 27;

/// Token embeddings scaled by 10, and zero in the dimensions of the units.
fn clear_of_units(tokens: &Tensor) -> Result<Tensor> {
    let (_, d) = tokens.dims2()?;
    let mask: Vec<f32> = (0..d).map(|dimension| if dimension < UNITS { 0.0 } else { 10.0 }).collect();
    tokens.broadcast_mul(&Tensor::new(mask, tokens.device())?)
}

/// (`max_sequence_length`, `d_model`): 0.5 where a cell lies in a unit, 0 elsewhere.
fn unit_positions(config: &Config, device: &Device) -> Result<Tensor> {
    let (length, d) = (config.max_sequence_length, config.d_model);
    let mut numbers = vec![0.0f32; length * d];
    for cell in 0..CELLS {
        let position = cell + cell / 9;
        for (kind, unit) in sudoku::units_of(cell).into_iter().enumerate() {
            if let Some(number) = numbers.get_mut(position * d + 9 * kind + unit) {
                *number = 0.5;
            }
        }
    }
    Tensor::from_vec(numbers, (length, d), device)
}

/// A random quality head of a size on states of width `d`. Its linear layers have the variance of
/// PyTorch's default, normally distributed, so that its first outputs are close to one half.
pub(super) fn head(d: usize, size: usize, seed: u64, device: &Device) -> Result<Weights> {
    let mut normals = Normals::new(seed ^ 0x5eed_4ead);
    let mut fresh = |name: &str, shape: &[usize]| match (name, shape) {
        ("norm.weight", _) => Tensor::ones(shape, DType::F32, device),
        (_, [_, inputs]) => normals.tensor(shape, linear_deviation(*inputs), device),
        _ => Tensor::zeros(shape, DType::F32, device),
    };
    let shapes = head_tensors(d, size);
    shapes.into_iter().map(|(name, shape)| Ok((name.to_owned(), fresh(name, &shape)?))).collect()
}

/// Standard deviation of PyTorch's default initialisation of a linear layer with `inputs` inputs.
fn linear_deviation(inputs: usize) -> f64 {
    (3.0 * inputs as f64).sqrt().recip()
}

/// Adapters for the matrices of `backbone` whose last name is in `targets`. A has the variance of
/// PEFT's default, normally distributed; B is zero, so at first the model computes the same.
///
/// # Errors
/// When no block has a matrix of one of these names.
pub(super) fn adapters(
    config: &Config,
    backbone: &Weights,
    rank: usize,
    targets: &[String],
    seed: u64,
    device: &Device,
) -> StdResult<Weights, TrainError> {
    let mut normals = Normals::new(seed ^ 0x10_4a);
    let mut adapters = Weights::new();
    for (name, weight) in backbone {
        let module = name.trim_end_matches(".weight");
        let last = module.rsplit('.').next().unwrap_or(module);
        let ([out, inner], true) = (weight.dims(), module.contains(".blocks.") && targets.iter().any(|t| t == last))
        else {
            continue;
        };
        let a = normals.tensor(&[rank, *inner], linear_deviation(*inner), device)?;
        adapters.insert(format!("{module}.lora_A.weight"), a);
        adapters.insert(format!("{module}.lora_B.weight"), Tensor::zeros((*out, rank), DType::F32, device)?);
    }
    let is_adapted = |target: &&String| adapters.keys().any(|name| name.contains(&format!(".{target}.lora_A")));
    let Some(target) = targets.iter().find(|target| !is_adapted(target)) else { return Ok(adapters) };
    Err(TrainError::Settings(format!(
        "the model has no matrix `{target}` to adapt in its {} blocks; its matrices are q_proj, k_proj, v_proj, \
         attn_out, ff_proj, up_proj and ff_out",
        config.n_layers
    )))
}
