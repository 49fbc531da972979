//! The LLaDA network and the PRISM head with gradients: the same function as in `model/`, on rows
//! laid end to end and over trainable parameters. The backbone's gradients are written out; those
//! of the head, which is small, are the tensor library's.

use super::parameters::{Gradients, Parameters};
use crate::model::{Config, HEAD_EPSILON, Normed, Rope, Training};
use candle_core::{DType, Result, Tensor, Var};
use candle_nn::ops;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Net<'a> {
    pub(super) config: &'a Config,
    parameters: &'a Parameters,
    /// All parameters of the backbone: matrices in `dtype`, gains in f32.
    pub(super) working: BTreeMap<String, Tensor>,
    pub(super) rope: Option<Rope>,
    lora_scale: f64,
    pub(super) recomputes: bool,
    /// The number format of the products and of what they read.
    pub(super) dtype: DType,
    pub(super) device: Arc<dyn Training>,
}

/// How a network is computed.
#[derive(Clone, Debug)]
pub(super) struct Computation {
    pub(super) device: Arc<dyn Training>,
    /// The number format of the products and of what they read.
    pub(super) dtype: DType,
    /// Factor of B A in adapters.
    pub(super) lora_scale: f64,
    /// Whether blocks are computed again in the backward pass instead of being kept: gradient
    /// checkpointing (Chen et al., arXiv 1604.06174), block by block.
    pub(super) recomputes: bool,
}

impl<'a> Net<'a> {
    /// A network for rows of at most `length` tokens.
    pub(super) fn new(
        config: &'a Config,
        parameters: &'a Parameters,
        length: usize,
        computation: &Computation,
    ) -> Result<Self> {
        let Computation { device, dtype, lora_scale, recomputes } = computation.clone();
        let rope = || Rope::new(config.head_dim(), config.rope_theta, length, &device.device());
        let rope = if config.rope { Some(rope()?) } else { None };
        let working = parameters.all().filter(|(name, _)| name.starts_with("model."));
        let working = working.map(|(name, tensor)| {
            let format = if is_multiplied(name, tensor) { dtype } else { DType::F32 };
            Ok((name.clone(), tensor.to_dtype(format)?))
        });
        Ok(Self {
            working: working.collect::<Result<_>>()?,
            config,
            parameters,
            rope,
            lora_scale,
            recomputes,
            dtype,
            device,
        })
    }

    /// (states, `d_model`) to (states, `embedding_size`).
    pub(super) fn logits(&self, states: &Tensor) -> Result<Tensor> {
        states.matmul(&self.weight(self.output_layer())?.t()?)
    }

    /// The gradient of the states, from that of their logits.
    pub(super) fn logits_gradients(&self, states: &Tensor, grad: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        self.linear_gradients(self.output_layer(), states, grad, gradients)
    }

    const fn output_layer(&self) -> &'static str {
        if self.config.weight_tying { "wte" } else { "ff_out" }
    }

    /// The norm of `x` (tokens, `d_model`), f32, in the format of the products.
    pub(super) fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        self.device.rms_norm(x, self.weight(name)?, self.config.rms_norm_eps, self.dtype)
    }

    /// The gradient of the norm's input, f32, and what is carried past it.
    pub(super) fn norm_gradients(
        &self,
        name: &str,
        x: &Tensor,
        grad: &Tensor,
        carried: Option<&Tensor>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let full = full_name(name);
        let of = Normed { x, gain: self.weight(name)?, eps: self.config.rms_norm_eps };
        let (of_x, of_gain) = self.device.rms_norm_gradients(&of, grad, carried, self.learns(&full))?;
        of_gain.map(|of_gain| gradients.add(&full, &of_gain)).transpose()?;
        Ok(of_x)
    }

    /// x W^T, plus `lora_scale` x A^T B^T where the weight has an adapter.
    pub(super) fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight(name)?.t()?)?; // (tokens, out)
        match self.adapter(name) {
            None => Ok(y),
            Some([a, b]) => y + x.matmul(&a.t()?)?.matmul(&b.t()?)?.affine(self.lora_scale, 0.0)?,
        }
    }

    /// The gradient of the input of a linear layer, from that of its output: (tokens, out) to
    /// (tokens, in).
    pub(super) fn linear_gradients(
        &self,
        name: &str,
        x: &Tensor,
        grad: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (full, weight) = (full_name(name), self.weight(name)?);
        let of_x = grad.matmul(weight)?;
        if self.learns(&full) {
            gradients.add(&full, &grad.t()?.matmul(x)?)?;
        }
        let Some([a, b]) = self.adapter(name) else { return Ok(of_x) };
        let inner = x.matmul(&a.t()?)?.affine(self.lora_scale, 0.0)?; // (tokens, rank)
        let of_inner = grad.matmul(b)?.affine(self.lora_scale, 0.0)?; // (tokens, rank)
        let [name_a, name_b] = adapter_names(name);
        gradients.add(&name_b, &grad.t()?.matmul(&inner)?)?;
        gradients.add(&name_a, &of_inner.t()?.matmul(x)?)?;
        of_x + of_inner.matmul(a)?
    }

    /// A (rank, in) and B (out, rank) of the adapter of a module, if it has one.
    fn adapter(&self, name: &str) -> Option<[&Tensor; 2]> {
        let [a, b] = adapter_names(name).map(|name| self.working.get(&name));
        Some([a?, b?])
    }

    /// The judgement of tokens by their states (judged, `d_model`), by the head whose parameters'
    /// names begin with `prefix`; labels are 1 where the token is right. Where it is learning, the
    /// gradients of a factor x the loss are added to those, and that of the states is told.
    pub(super) fn judge(
        &self,
        prefix: &str,
        states: &Tensor,
        labels: &[f32],
        learning: Option<(f64, &mut Gradients)>,
    ) -> Result<Judgement> {
        let states = Var::from_tensor(&states.to_dtype(DType::F32)?)?;
        let head = self.parameters.all().filter(|(name, _)| !name.starts_with("model."));
        let head = head.filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        let head: BTreeMap<&str, Var> =
            head.map(|(name, tensor)| Ok((name, Var::from_tensor(tensor)?))).collect::<Result<_>>()?;
        let logits = quality(&head, &states)?; // (judged)
        let loss = binary_cross_entropy(&logits, labels)?;
        let mut of_states = None;
        if let Some((factor, gradients)) = learning {
            let mut store = loss.affine(factor, 0.0)?.backward()?;
            for (name, var) in &head {
                let full = format!("{prefix}{name}");
                if let Some(gradient) = store.remove(var).filter(|_| self.learns(&full)) {
                    gradients.add(&full, &gradient)?;
                }
            }
            of_states = store.remove(&states);
        }
        Ok(Judgement { loss: loss.detach(), logits: logits.detach(), of_states })
    }

    pub(super) fn weight(&self, name: &str) -> Result<&Tensor> {
        match self.working.get(&full_name(name)) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("the model has no parameter {name}"),
        }
    }

    /// Whether the parameter of this name in checkpoints is trained.
    pub(super) fn learns(&self, name: &str) -> bool {
        self.parameters.trained.contains_key(name)
    }
}

/// Whether a parameter is a matrix of the backbone.
pub(super) fn is_multiplied(name: &str, tensor: &Tensor) -> bool {
    name.starts_with("model.") && tensor.rank() > 1
}

/// What a head says of some tokens.
pub(super) struct Judgement {
    /// The sum of binary cross-entropies in nats, a scalar.
    pub(super) loss: Tensor,
    /// Qualities before the sigmoid: (judged).
    pub(super) logits: Tensor,
    /// The gradient of the states, (judged, `d_model`).
    pub(super) of_states: Option<Tensor>,
}

/// Qualities before the sigmoid: (states, `d_model`) to (states).
pub(super) fn quality(head: &BTreeMap<&str, Var>, states: &Tensor) -> Result<Tensor> {
    let get = |name: &str| match head.get(name) {
        Some(var) => Ok(var.as_tensor()),
        None => candle_core::bail!("the model has no parameter {name}"),
    };
    let x = ops::layer_norm_slow(states, get("norm.weight")?, get("norm.bias")?, HEAD_EPSILON)?;
    let x = x.matmul(&get("proj1.weight")?.t()?)?.broadcast_add(get("proj1.bias")?)?.gelu_erf()?; // (states, size)
    x.matmul(&get("proj2.weight")?.t()?)?.broadcast_add(get("proj2.bias")?)?.squeeze(1) // (states)
}

/// The sum over `logits` x of -ln sigmoid(x) if the label is 1, -ln(1 - sigmoid(x)) if it is 0.
fn binary_cross_entropy(logits: &Tensor, labels: &[f32]) -> Result<Tensor> {
    let labels = Tensor::new(labels, logits.device())?;
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?; // ln(1 + e^-|x|), which cannot overflow
    ((logits.relu()? - (logits * labels)?)? + softplus)?.sum_all()
}

/// The name of a module's weight in checkpoints.
pub(super) fn full_name(name: &str) -> String {
    format!("model.transformer.{name}.weight")
}

fn adapter_names(name: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|part| full_name(&format!("{name}.{part}")))
}
