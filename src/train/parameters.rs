//! The parameters of a model in training, by their names in checkpoints: trained ones and frozen
//! ones.
//! Out of scope: how they are initialised and what is computed with them.

use candle_core::{Result, Tensor, Var};
use std::collections::BTreeMap;

/// The parameters of a backbone, and of its quality head and adapters where it has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    trained: BTreeMap<String, Var>,
    frozen: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Adds a copy of `tensor` as a trained parameter.
    pub(super) fn train(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        self.trained.insert(name, Var::from_tensor(&tensor.copy()?)?);
        Ok(())
    }

    /// Adds `tensor` as a frozen parameter.
    pub(super) fn freeze(&mut self, name: String, tensor: Tensor) {
        self.frozen.insert(name, tensor);
    }

    /// The parameter called `name`.
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

    /// The trained parameters by name.
    pub(super) const fn trained(&self) -> &BTreeMap<String, Var> {
        &self.trained
    }
}
