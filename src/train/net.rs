//! The LLaDA network and the PRISM head with gradients: the same function as in `model/`, on rows
//! of equal length and over trainable parameters.

use super::ops;
use crate::model::{Config, HEAD_EPSILON, Rope};
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{ops as library, rotary_emb};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The parameters of a backbone, and of its quality head and adapters where it has them, by their
/// names in checkpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    pub(super) trained: BTreeMap<String, Var>,
    pub(super) frozen: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Adds a copy of `tensor` as a trained parameter.
    pub(super) fn train(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        self.trained.insert(name, Var::from_tensor(&tensor.copy()?)?);
        Ok(())
    }

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

    /// Moves the gradients of the trained parameters from `store` to `gradients`, where they are
    /// added to those that are there.
    pub(super) fn take_gradients(&self, store: &mut GradStore, gradients: &mut BTreeMap<String, Tensor>) -> Result<()> {
        for (name, var) in &self.trained {
            let Some(gradient) = store.remove(var) else { continue };
            let sum = match gradients.remove(name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            gradients.insert(name.clone(), sum);
        }
        Ok(())
    }

    /// The SHA-256 of every parameter: its name, whether it is trained, and its numbers.
    pub(super) fn digest(&self) -> Result<sha2::digest::Output<Sha256>> {
        let mut hash = Sha256::new();
        let trained = self.trained.iter().map(|(name, var)| (name, true, var.as_tensor()));
        for (name, is_trained, tensor) in trained.chain(self.frozen.iter().map(|(name, tensor)| (name, false, tensor)))
        {
            hash.update(format!("{name} {is_trained} {:?} ", tensor.dims()));
            let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
            hash.update(numbers.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        }
        Ok(hash.finalize())
    }
}

pub(super) struct Net<'a> {
    config: &'a Config,
    parameters: &'a Parameters,
    rope: Option<Rope>,
    /// Factor of B A in adapters.
    lora_scale: f64,
    /// Whether blocks are computed again in the backward pass instead of being kept.
    recomputes: bool,
    device: Device,
}

/// What is kept of a pass whose blocks are computed again: gradient checkpointing (Chen et al.,
/// arXiv 1604.06174), block by block.
#[derive(Debug)]
pub(super) struct Tape {
    ids: Vec<u32>,
    /// Rows and their length.
    shape: (usize, usize),
    /// The input of each block, (rows x length, `d_model`).
    inputs: Vec<Var>,
    /// The output of the last one.
    output: Var,
}

impl<'a> Net<'a> {
    /// A network for rows of at most `length` tokens.
    pub(super) fn new(
        config: &'a Config,
        parameters: &'a Parameters,
        length: usize,
        lora_scale: f64,
        device: &Device,
    ) -> Result<Self> {
        let rope = || Rope::new(config.head_dim(), config.rope_theta, length, device);
        let rope = if config.rope { Some(rope()?) } else { None };
        Ok(Self { config, parameters, rope, lora_scale, recomputes: false, device: device.clone() })
    }

    /// The same network, whose blocks are computed again in the backward pass.
    pub(super) fn recomputing(self) -> Self {
        Self { recomputes: true, ..self }
    }

    /// Hidden states after the final norm: `ids` (rows x length) to (rows x length, `d_model`).
    /// Where blocks are computed again in the backward pass, what that takes is added to `tapes`.
    pub(super) fn hidden(&self, ids: &[u32], rows: usize, tapes: &mut Vec<Tape>) -> Result<Tensor> {
        let shape = (rows, ids.len() / rows);
        let mut x = self.embedded(ids, shape)?;
        let mut inputs = Vec::new();
        for n in 0..self.config.n_layers {
            if self.recomputes {
                inputs.push(Var::from_tensor(&x.detach())?);
                x = x.detach(); // the graph of the block before ends here
            }
            x = self.block(n, &x, shape)?;
        }
        if self.recomputes {
            let output = Var::from_tensor(&x.detach())?;
            x = output.as_tensor().clone();
            tapes.push(Tape { ids: ids.to_vec(), shape, inputs, output });
        }
        self.norm("ln_f", &x)
    }

    /// Adds the gradients of the trained parameters that a pass has used, given those of its output
    /// in `of_output`.
    pub(super) fn rewind(
        &self,
        tape: Tape,
        of_output: &mut GradStore,
        gradients: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let Tape { ids, shape, inputs, output } = tape;
        let Some(mut slope) = of_output.remove(&output) else { return Ok(()) };
        for (n, input) in inputs.iter().enumerate().rev() {
            let mut store = self.block(n, input, shape)?.mul(&slope)?.sum_all()?.backward()?;
            self.parameters.take_gradients(&mut store, gradients)?;
            let Some(before) = store.remove(input) else { return Ok(()) };
            slope = before;
        }
        let mut store = self.embedded(&ids, shape)?.mul(&slope)?.sum_all()?.backward()?;
        self.parameters.take_gradients(&mut store, gradients)
    }

    /// (rows x length, `d_model`)
    fn embedded(&self, ids: &[u32], (rows, length): (usize, usize)) -> Result<Tensor> {
        let d = self.config.d_model;
        let x = self.weight("wte")?.index_select(&Tensor::new(ids, &self.device)?, 0)?; // (rows x length, d)
        if self.config.rope {
            return Ok(x);
        }
        let wpe = self.weight("wpe")?.narrow(0, 0, length)?; // (length, d)
        x.reshape((rows, length, d))?.broadcast_add(&wpe)?.reshape((rows * length, d))
    }

    /// (states, `d_model`) to (states, `embedding_size`).
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden.matmul(&self.weight(if self.config.weight_tying { "wte" } else { "ff_out" })?.t()?)
    }

    /// Qualities before the sigmoid: (states, `d_model`) to (states).
    pub(super) fn quality(&self, hidden: &Tensor) -> Result<Tensor> {
        let get = |name: &str| self.parameters.get(name);
        let x = library::layer_norm_slow(hidden, &get("norm.weight")?, &get("norm.bias")?, HEAD_EPSILON)?;
        let x = x.matmul(&get("proj1.weight")?.t()?)?.broadcast_add(&get("proj1.bias")?)?.gelu_erf()?; // (states, d)
        x.matmul(&get("proj2.weight")?.t()?)?.broadcast_add(&get("proj2.bias")?)?.squeeze(1) // (states)
    }

    fn weight(&self, name: &str) -> Result<Tensor> {
        self.parameters.get(&format!("model.transformer.{name}.weight"))
    }

    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight(name)?, self.config.rms_norm_eps)
    }

    /// x W^T, plus `lora_scale` x A^T B^T where the weight has an adapter.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight(name)?.t()?)?; // (tokens, out)
        let full = format!("model.transformer.{name}");
        match self.parameters.lora(&full) {
            None => Ok(y),
            Some((a, b)) => y + x.matmul(&a.t()?)?.matmul(&b.t()?)?.affine(self.lora_scale, 0.0)?,
        }
    }

    fn block(&self, n: usize, x: &Tensor, shape: (usize, usize)) -> Result<Tensor> {
        let block = &format!("blocks.{n}");
        let normed = self.norm(&format!("{block}.attn_norm"), x)?;
        let x = (x + self.attend(block, &normed, shape)?)?;
        let normed = self.norm(&format!("{block}.ff_norm"), &x)?;
        let gate = self.linear(&format!("{block}.ff_proj"), &normed)?; // (tokens, mlp)
        let up = self.linear(&format!("{block}.up_proj"), &normed)?; // (tokens, mlp)
        x + self.linear(&format!("{block}.ff_out"), &ops::swiglu(&gate, &up)?)?
    }

    fn attend(&self, block: &str, x: &Tensor, (rows, length): (usize, usize)) -> Result<Tensor> {
        let Config { n_heads, n_kv_heads, d_model, .. } = *self.config;
        let head_dim = self.config.head_dim();
        let heads = |name: &str, count: usize| {
            let y = self.linear(&format!("{block}.{name}"), x)?.reshape((rows, length, count, head_dim))?;
            y.transpose(1, 2)?.contiguous() // (rows, heads, length, head_dim)
        };
        let rotated = |y: Tensor| match &self.rope {
            None => Ok(y),
            Some(Rope { cos, sin }) => rotary_emb::rope_slow(&y, cos, sin),
        };
        let repeated = |y: Tensor| {
            let shape = (rows, n_kv_heads, n_heads / n_kv_heads, length, head_dim);
            if n_heads == n_kv_heads {
                return Ok(y);
            }
            y.unsqueeze(2)?.broadcast_as(shape)?.reshape((rows, n_heads, length, head_dim))
        };
        let scale = (head_dim as f64).sqrt().recip();
        let q = rotated(heads("q_proj", n_heads)?)?.affine(scale, 0.0)?; // (rows, n_heads, length, head_dim)
        let k = repeated(rotated(heads("k_proj", n_kv_heads)?)?)?;
        let v = repeated(heads("v_proj", n_kv_heads)?)?;
        let seen = ops::softmax(&q.matmul(&k.t()?)?)?; // (rows, n_heads, length, length)
        let mixed = seen.matmul(&v)?.transpose(1, 2)?.reshape((rows * length, d_model))?;
        self.linear(&format!("{block}.attn_out"), &mixed)
    }
}
