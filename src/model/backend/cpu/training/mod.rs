//! The operations of training on a CPU: each is one pass over its rows. Numbers in bf16 are widened
//! to f32 and the results rounded, so that mixed precision can be tried without a GPU.

mod adam;
mod numbers;
mod rows;
#[cfg(test)]
mod tests;

use super::Cpu;
use crate::model::backend::composed::Composed;
use crate::model::backend::training::{AdamStep, Attended, Normed, PackedRows, Targets, Training};
use crate::model::backend::{Angles, Backend};
use candle_core::{D, DType, Result, Tensor};
use numbers::{made, with};

/// Attention: each softmax is one pass over its rows.
const COMPOSED: Composed = Composed { softmax, softmax_gradient, keeps: true };

fn softmax(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    made(x.shape(), DType::F32, with([x], |[x]| rows::softmax(width, x))?)
}

fn softmax_gradient(p: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let width = p.dim(D::Minus1)?;
    made(p.shape(), DType::F32, with([p, grad], |[p, grad]| rows::softmax_gradient(width, p, grad))?)
}

impl Training for Cpu {
    fn lay_out_rows(&self, lengths: &[usize]) -> Result<PackedRows> {
        Ok(PackedRows { lengths: lengths.to_vec(), tiles: None })
    }

    fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f32, to: DType) -> Result<Tensor> {
        made(x.shape(), to, with([x, gain], |[x, gain]| rows::normed(x, gain, eps))?)
    }

    fn rms_norm_gradients(
        &self,
        &Normed { x, gain, eps }: &Normed<'_>,
        grad: &Tensor,
        carried: Option<&Tensor>,
        is_gain_asked: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let of_x = with([x, gain, grad, carried.unwrap_or(x)], |[x, gain, grad, others]| {
            rows::norm_gradient([x, gain, grad], carried.map(|_| others), eps)
        })?;
        let of_gain = || {
            made(
                gain.shape(),
                DType::F32,
                with([x, grad], |[x, grad]| rows::gain_gradient(gain.elem_count(), x, grad, eps))?,
            )
        };
        Ok((made(x.shape(), DType::F32, of_x)?, is_gain_asked.then(of_gain).transpose()?))
    }

    fn rotated(&self, x: &Tensor, d: usize, Angles { cos, sin }: &Angles, back: bool) -> Result<Tensor> {
        let width = x.dim(1)?;
        made(x.shape(), x.dtype(), with([x, cos, sin], |[x, cos, sin]| rows::rotated(x, width, d, [cos, sin], back))?)
    }

    fn attended(&self, qkv: [&Tensor; 3], d: usize, rows: &PackedRows) -> Result<Attended> {
        COMPOSED.attended(qkv, d, rows)
    }

    fn attended_gradients(
        &self,
        qkv: [&Tensor; 3],
        d: usize,
        rows: &PackedRows,
        attended: &Attended,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        COMPOSED.gradients(qkv, d, rows, &attended.kept, grad)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        made(gate.shape(), gate.dtype(), with([gate, up], |[gate, up]| rows::swiglu(gate, up))?)
    }

    fn swiglu_gradients(&self, gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]> {
        let of_gate = with([gate, up, grad], |[gate, up, grad]| rows::gate_gradient(gate, up, grad))?;
        let of_up = with([gate, grad], |[gate, grad]| rows::swiglu(gate, grad))?;
        Ok([made(gate.shape(), gate.dtype(), of_gate)?, made(up.shape(), up.dtype(), of_up)?])
    }

    fn added(&self, x: &Tensor, update: &Tensor) -> Result<Tensor> {
        x + update.to_dtype(DType::F32)?
    }

    fn cross_entropy(&self, logits: &Tensor, Targets { tokens, weights }: &Targets) -> Result<Tensor> {
        let (width, tokens) = (logits.dim(1)?, tokens.to_vec1::<u32>()?);
        let sums = with([logits, weights], |[logits, weights]| rows::cross_entropy(width, logits, &tokens, weights))?;
        Tensor::new(&sums, &self.device())
    }

    fn cross_entropy_gradient(
        &self,
        logits: &Tensor,
        Targets { tokens, weights }: &Targets,
        factor: f32,
    ) -> Result<Tensor> {
        let (width, tokens) = (logits.dim(1)?, tokens.to_vec1::<u32>()?);
        let of_logits = with([logits, weights], |[logits, weights]| {
            rows::cross_entropy_gradient(width, logits, &tokens, weights, factor)
        })?;
        made(logits.shape(), logits.dtype(), of_logits)
    }

    fn scattered(&self, x: &Tensor, index: &[u32], rows: usize) -> Result<Tensor> {
        let width = x.dim(1)?;
        made(&(rows, width).into(), DType::F32, with([x], |[x]| rows::scattered(x, width, index, rows))?)
    }

    fn adam(&self, state: &Tensor, gradients: &Tensor, step: &AdamStep) -> Result<Tensor> {
        adam::adam(state, gradients, step)
    }
}
