//! The parameters of a model and their gradients, by their names in checkpoints.

use candle_core::{DType, Device, Result, Tensor};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The parameters of a backbone, and of its quality head and adapters where it has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    /// In f32.
    pub(super) trained: BTreeMap<String, Tensor>,
    /// In the number format that they are computed in.
    pub(super) frozen: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Adds a copy of `tensor` as a trained parameter.
    pub(super) fn train(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        self.trained.insert(name, tensor.to_dtype(DType::F32)?.force_contiguous()?);
        Ok(())
    }

    /// Brings all to a device.
    pub(super) fn move_to(&mut self, device: &Device) -> Result<()> {
        for tensor in self.trained.values_mut().chain(self.frozen.values_mut()) {
            *tensor = tensor.to_device(device)?;
        }
        Ok(())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.trained.iter().chain(&self.frozen)
    }

    /// The SHA-256 of every parameter: its name, whether it is trained, and its numbers.
    pub(super) fn digest(&self) -> Result<sha2::digest::Output<Sha256>> {
        let mut hash = Sha256::new();
        let trained = self.trained.iter().map(|(name, tensor)| (name, true, tensor));
        for (name, is_trained, tensor) in trained.chain(self.frozen.iter().map(|(name, tensor)| (name, false, tensor)))
        {
            hash.update(format!("{name} {is_trained} {:?} ", tensor.dims()));
            let numbers = tensor.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            hash.update(numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        }
        Ok(hash.finalize())
    }
}

/// Gradients of trained parameters, in f32.
#[derive(Clone, Debug, Default)]
pub(super) struct Gradients(pub(super) BTreeMap<String, Tensor>);

impl Gradients {
    /// Adds to the gradient of a parameter.
    pub(super) fn add(&mut self, name: &str, gradient: &Tensor) -> Result<()> {
        let gradient = gradient.to_dtype(DType::F32)?;
        let sum = match self.0.remove(name) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        self.0.insert(name.to_owned(), sum);
        Ok(())
    }

    /// Adds those of other rows.
    pub(super) fn add_all(&mut self, other: &Self) -> Result<()> {
        other.0.iter().try_for_each(|(name, gradient)| self.add(name, gradient))
    }
}
