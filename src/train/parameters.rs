//! The numbers that training changes, and those it leaves alone, under the checkpoint's own names. Refuses to know what
//! is computed with them.

use crate::model::{Config, head_tensors};
use candle_core::{Device, Result, Tensor, Var};
use rand_philox::Philox;
use std::collections::BTreeMap;

/// A model's parameters, quality head and adapters included where it has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    trained: BTreeMap<String, Var>,
    frozen: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Adds `tensor` as one that training changes.
    pub(super) fn train(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        self.trained.insert(name, Var::from_tensor(&tensor.copy()?)?);
        Ok(())
    }

    /// Adds `tensor` as one that stays.
    pub(super) fn freeze(&mut self, name: String, tensor: Tensor) {
        self.frozen.insert(name, tensor);
    }

    /// The parameter of this name.
    pub(super) fn get(&self, name: &str) -> Result<Tensor> {
        match (self.trained.get(name), self.frozen.get(name)) {
            (Some(var), _) => Ok(var.as_tensor().clone()),
            (None, Some(tensor)) => Ok(tensor.clone()),
            (None, None) => candle_core::bail!("the model has no parameter {name}"),
        }
    }

    /// A (rank, in) and B (out, rank) of the adapter of module `name`, if it has one.
    pub(super) fn lora(&self, name: &str) -> Option<(Tensor, Tensor)> {
        let part = |part: &str| self.trained.get(&format!("{name}.{part}.weight")).map(|var| var.as_tensor().clone());
        part("lora_A").zip(part("lora_B"))
    }

    /// What training changes, by name.
    pub(super) const fn trained(&self) -> &BTreeMap<String, Var> {
        &self.trained
    }
}

/// Numbers drawn from one stream, for new weights.
pub(super) struct Normals(Philox);

impl Normals {
    pub(super) fn new(seed: u64) -> Self {
        Self(Philox::from_u64_seed(seed))
    }

    /// A tensor of independent normal numbers with mean 0 (Box and Muller 1958).
    pub(super) fn tensor(&mut self, shape: &[usize], deviation: f64, device: &Device) -> Result<Tensor> {
        let mut uniform = || (f64::from(self.0.next_u32()) + 0.5) / 4_294_967_296.0;
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        #[allow(clippy::cast_possible_truncation)] // weights are f32
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| (deviation * normal()) as f32).collect();
        Tensor::from_vec(numbers, shape, device)
    }
}

/// Fresh weights of a backbone: normal with LLaDA's deviation of 0.02, those that write into the residual stream smaller by
/// the root of twice the layers (GPT-2), gains 1.
pub(super) fn fresh_backbone(config: &Config, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let mut normals = Normals::new(seed);
    #[allow(clippy::cast_precision_loss)] // a few layers
    let residual = 0.02 / (2.0 * config.n_layers as f64).sqrt();
    let mut fresh = |name: &str, shape: &[usize]| match shape {
        [_] => Tensor::ones(shape, candle_core::DType::F32, device),
        _ if name.ends_with("attn_out.weight") || name.contains(".blocks.") && name.ends_with("ff_out.weight") => {
            normals.tensor(shape, residual, device)
        }
        _ => normals.tensor(shape, 0.02, device),
    };
    config.tensors().map(|(name, shape)| Ok((name.clone(), fresh(&name, &shape)?))).collect()
}

/// A fresh quality head: linear layers as PyTorch starts them (the same variance, normal), so that its
/// first answers are near one half.
pub(super) fn fresh_head(config: &Config, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let mut normals = Normals::new(seed ^ 0x5eed_4ead);
    #[allow(clippy::cast_precision_loss)] // widths are small
    let deviation = (3.0 * config.d_model as f64).sqrt().recip();
    let mut fresh = |name: &str, shape: &[usize]| match name {
        "norm.weight" => Tensor::ones(shape, candle_core::DType::F32, device),
        "proj1.weight" | "proj2.weight" => normals.tensor(shape, deviation, device),
        _ => Tensor::zeros(shape, candle_core::DType::F32, device),
    };
    let shapes = head_tensors(config.d_model);
    shapes.into_iter().map(|(name, shape)| Ok((name.to_owned(), fresh(name, &shape)?))).collect()
}
