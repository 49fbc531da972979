//! Operations with hand-written gradients: on a CPU each is one pass over its rows instead of about
//! a dozen. On other devices they are composed of the library's operations.

use super::simd::{dot, exp, sum};
use crate::model::has_fused_gradients;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::ops;

/// x / sqrt(mean(x^2) + eps) * weight: `x` (rows, width), `weight` (width).
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    if has_fused_gradients(x) { x.apply_op2(weight, RmsNorm { eps }) } else { ops::rms_norm_slow(x, weight, eps) }
}

/// Softmax over the last dimension, of any shape.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    if has_fused_gradients(x) { x.apply_op1(Softmax) } else { ops::softmax(x, D::Minus1) }
}

/// silu(gate) * up, of equal shapes.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if has_fused_gradients(gate) { gate.apply_op2(up, SwiGlu) } else { gate.silu()? * up }
}

/// The weighted sum of cross-entropies in nats, from `logits` (rows, vocabulary); a scalar.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    if has_fused_gradients(logits) {
        return logits.apply_op1(CrossEntropy { targets: targets.to_vec(), weights: weights.to_vec() });
    }
    let rows = targets.len();
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?; // (rows, 1)
    let weights = Tensor::new(weights, logits.device())?; // (rows)
    let likelihood = ops::log_softmax(logits, 1)?.gather(&targets, 1)?.reshape(rows)?; // (rows)
    (likelihood * weights)?.sum_all()?.neg()
}

/// The elements of a contiguous tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, until)) => Ok(&storage.as_slice::<f32>()?[from..until]),
        None => candle_core::bail!("an operation on rows was given a tensor that is not contiguous"),
    }
}

/// Size of the last dimension.
fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}

fn done(numbers: Vec<f32>, layout: &Layout) -> (CpuStorage, Shape) {
    (CpuStorage::F32(numbers), layout.shape().clone())
}

/// A gradient: a function of the elements of contiguous tensors, whose result has the shape of the
/// first. It has no gradient of its own.
struct Gradient<F>(&'static str, F);

impl<F: Fn(&[f32], &[f32]) -> Vec<f32>> CustomOp2 for Gradient<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(done(self.1(numbers(a, a_layout)?, numbers(b, b_layout)?), a_layout))
    }
}

impl<F: Fn(&[f32], &[f32], &[f32]) -> Vec<f32>> CustomOp3 for Gradient<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        c: &CpuStorage,
        c_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(done(self.1(numbers(a, a_layout)?, numbers(b, b_layout)?, numbers(c, c_layout)?), a_layout))
    }
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn scale(&self, x: &[f32]) -> f32 {
        let mean = dot(x, x) / x.len() as f32;
        (mean + self.eps).sqrt().recip()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(weight.len()) {
            let scale = self.scale(row);
            y.extend(row.iter().zip(weight).map(|(x, weight)| x * scale * weight));
        }
        Ok(done(y, x_layout))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, grad) = (x.contiguous()?, grad.contiguous()?);
        let of_x = |x: &[f32], weight: &[f32], grad: &[f32]| self.gradient_of_x(x, weight, grad);
        let of_x = x.apply_op3_no_bwd(weight, &grad, &Gradient("rms-norm-bwd", of_x))?;
        if !weight.track_op() {
            return Ok((Some(of_x), None));
        }
        let of_weight = |weight: &[f32], x: &[f32], grad: &[f32]| self.gradient_of_weight(weight.len(), x, grad);
        let of_weight = weight.apply_op3_no_bwd(&x, &grad, &Gradient("rms-norm-gain-bwd", of_weight))?;
        Ok((Some(of_x), Some(of_weight)))
    }
}

impl RmsNorm {
    /// s (g w - x s^2 mean(g w x)), with s the row's scale.
    fn gradient_of_x(&self, x: &[f32], weight: &[f32], grad: &[f32]) -> Vec<f32> {
        let width = weight.len();
        let mut weighted = vec![0.0; width];
        let mut out = Vec::with_capacity(x.len());
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            let scale = self.scale(x);
            for (weighted, (grad, weight)) in weighted.iter_mut().zip(grad.iter().zip(weight)) {
                *weighted = grad * weight;
            }
            let along = dot(&weighted, x) * scale * scale / width as f32;
            out.extend(weighted.iter().zip(x).map(|(weighted, x)| scale * (weighted - x * along)));
        }
        out
    }

    /// The sum over rows of g x s.
    fn gradient_of_weight(&self, width: usize, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; width];
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            let scale = self.scale(x);
            for (out, (x, grad)) in out.iter_mut().zip(x.iter().zip(grad)) {
                *out += x * grad * scale;
            }
        }
        out
    }
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut p = numbers(x, layout)?.to_vec();
        for row in p.chunks_exact_mut(width(layout)) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = exp(*x - largest));
            let scale = sum(row).recip();
            row.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(done(p, layout))
    }

    fn bwd(&self, _: &Tensor, p: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = p.dim(D::Minus1)?;
        let gradient = |p: &[f32], grad: &[f32]| softmax_gradient(width, p, grad);
        Ok(Some(p.apply_op2_no_bwd(&grad.contiguous()?, &Gradient("softmax-bwd", gradient))?))
    }
}

/// p (g - sum(p g)).
fn softmax_gradient(width: usize, p: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(p.len());
    for (p, grad) in p.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let along = dot(p, grad);
        out.extend(p.iter().zip(grad).map(|(p, grad)| p * (grad - along)));
    }
    out
}

struct SwiGlu;

#[inline]
fn sigmoid(x: f32) -> f32 {
    (1.0 + exp(-x)).recip()
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (numbers(gate, gate_layout)?, numbers(up, up_layout)?);
        Ok(done(gate.iter().zip(up).map(|(gate, up)| gate * sigmoid(*gate) * up).collect(), gate_layout))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let of_gate = gate.apply_op3_no_bwd(up, &grad, &Gradient("swiglu-bwd", gate_gradient))?;
        Ok((Some(of_gate), Some(gate.apply_op2_no_bwd(&grad, self)?)))
    }
}

/// g up s (1 + x (1 - s)), with s the sigmoid of the gate x.
fn gate_gradient(gate: &[f32], up: &[f32], grad: &[f32]) -> Vec<f32> {
    let slope = |((gate, up), grad): ((&f32, &f32), &f32)| {
        let s = sigmoid(*gate);
        grad * up * s * (1.0 + gate * (1.0 - s))
    };
    gate.iter().zip(up).zip(grad).map(slope).collect()
}

struct CrossEntropy {
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl CrossEntropy {
    /// The largest logit of a row, and the sum of exp(logit - largest).
    fn mass(row: &[f32]) -> (f32, f32) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        (largest, row.iter().map(|logit| (logit - largest).exp()).sum())
    }

    fn rows<'a>(&'a self, logits: &'a [f32], width: usize) -> impl Iterator<Item = (&'a [f32], usize, f32)> {
        let each = logits.chunks_exact(width).zip(self.targets.iter().zip(&self.weights));
        each.map(|(row, (target, weight))| (row, *target as usize, *weight))
    }

    /// g weight (p - 1 at the target).
    fn gradient(&self, width: usize, logits: &[f32], grad: f32) -> Vec<f32> {
        let mut out = Vec::with_capacity(logits.len());
        for (row, target, weight) in self.rows(logits, width) {
            let (largest, mass) = Self::mass(row);
            let (first, scale) = (out.len(), grad * weight);
            out.extend(row.iter().map(|logit| (logit - largest).exp() / mass * scale));
            out[first + target] -= scale;
        }
        out
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let terms = self.rows(numbers(logits, layout)?, width(layout)).map(|(row, target, weight)| {
            let (largest, mass) = Self::mass(row);
            f64::from(weight) * f64::from(largest + mass.ln() - row[target])
        });
        let sum = terms.sum::<f64>() as f32;
        Ok((CpuStorage::F32(vec![sum]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = logits.dim(D::Minus1)?;
        let gradient = |logits: &[f32], grad: &[f32]| self.gradient(width, logits, grad[0]);
        Ok(Some(logits.apply_op2_no_bwd(grad, &Gradient("cross-entropy-bwd", gradient))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn random(shape: &[usize], seed: u64) -> Var {
        let mut generator = rand_philox::Philox::from_u64_seed(seed);
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| generator.next_u32() as f32 / u32::MAX as f32 * 4.0 - 2.0).collect();
        Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Checks the value of `ours` and its gradients against the library's primitives.
    #[track_caller]
    fn check(inputs: &[&Var], ours: impl Fn() -> Result<Tensor>, library: impl Fn() -> Result<Tensor>) {
        let near = |a: &Tensor, b: &Tensor| {
            let [a, b] = [a, b].map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            let close = a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 2e-5 * (1.0 + b.abs()));
            assert!(a.len() == b.len() && close, "{a:?}\n{b:?}");
        };
        let (ours, library) = (ours().unwrap(), library().unwrap());
        near(&ours, &library);
        let weights = random(ours.dims(), 99);
        let grads = [ours, library].map(|y| (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap());
        for input in inputs {
            near(grads[0].get(input).unwrap(), grads[1].get(input).unwrap());
        }
    }

    #[test]
    fn each_is_the_librarys_function_and_so_is_its_gradient() {
        let (x, y, gain) = (random(&[7, 37], 1), random(&[7, 37], 2), random(&[37], 3));
        check(&[&x, &gain], || rms_norm(&x, &gain, 1e-5), || ops::rms_norm_slow(&x, &gain, 1e-5));
        check(&[&x], || softmax(&x), || ops::softmax(&x, D::Minus1));
        check(&[&x, &y], || swiglu(&x, &y), || x.silu()? * y.as_tensor());
        let (targets, weights) = ([3u32, 0, 36, 5, 5, 9, 20], [0.5f32, 1.0, 0.0, 2.0, 0.1, 3.0, 1.0]);
        let library = || {
            let targets = Tensor::new(&targets, &Device::Cpu)?.unsqueeze(1)?;
            let likelihood = ops::log_softmax(&x, 1)?.gather(&targets, 1)?.reshape(7)?;
            (likelihood * Tensor::new(&weights, &Device::Cpu)?)?.sum_all()?.neg()
        };
        check(&[&x], || cross_entropy(&x, &targets, &weights), library);
    }
}
