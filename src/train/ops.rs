//! Operations of the network whose gradients are worth writing out: on a CPU each runs over its rows once instead of a
//! dozen times. Elsewhere the same functions are put together from the library's. Refuses to know parameters.

use super::lanes::{dot, exp, sum};
use crate::model::has_fused_gradients;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::ops;

/// x / sqrt(mean(x^2) + eps) * weight: `x` (rows, width), `weight` (width).
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    if has_fused_gradients(x) { x.apply_op2(weight, RmsNorm { eps }) } else { ops::rms_norm_slow(x, weight, eps) }
}

/// Softmax over the last dimension.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    if has_fused_gradients(x) { x.apply_op1(Softmax) } else { ops::softmax(x, D::Minus1) }
}

/// silu(gate) * up, of equal shapes.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if has_fused_gradients(gate) { gate.apply_op2(up, SwiGlu) } else { gate.silu()? * up }
}

/// Cross-entropies in nats, weighted and added up to a scalar: `logits` (rows, vocabulary), one target and one weight per
/// row.
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

/// The numbers of a contiguous tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, until)) => Ok(&storage.as_slice::<f32>()?[from..until]),
        None => candle_core::bail!("an operation on rows was given a tensor that is not contiguous"),
    }
}

/// Width of the rows of a tensor.
fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}

fn done(numbers: Vec<f32>, layout: &Layout) -> (CpuStorage, Shape) {
    (CpuStorage::F32(numbers), layout.shape().clone())
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn scale(&self, x: &[f32]) -> f32 {
        #[allow(clippy::cast_precision_loss)] // widths are far below 2^24
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
        let of_x = x.apply_op3_no_bwd(weight, &grad, self)?;
        let of_weight = if weight.track_op() { Some(x.apply_op2_no_bwd(&grad, &RmsNormGain(self))?) } else { None };
        Ok((Some(of_x), of_weight))
    }
}

/// The gradient of `x`: s (g w - x s^2 mean(g w x)).
impl CustomOp3 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm-bwd"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, grad) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?, numbers(grad, grad_layout)?);
        let width = weight.len();
        let mut weighted = vec![0.0; width];
        let mut out = Vec::with_capacity(x.len());
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            let scale = self.scale(x);
            for (weighted, (grad, weight)) in weighted.iter_mut().zip(grad.iter().zip(weight)) {
                *weighted = grad * weight;
            }
            #[allow(clippy::cast_precision_loss)] // widths are far below 2^24
            let along = dot(&weighted, x) * scale * scale / width as f32;
            out.extend(weighted.iter().zip(x).map(|(weighted, x)| scale * (weighted - x * along)));
        }
        Ok(done(out, x_layout))
    }
}

/// The gradient of the weight: the sum over rows of g x s.
struct RmsNormGain<'a>(&'a RmsNorm);

impl CustomOp2 for RmsNormGain<'_> {
    fn name(&self) -> &'static str {
        "rms-norm-gain-bwd"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, grad) = (numbers(x, x_layout)?, numbers(grad, grad_layout)?);
        let width = width(x_layout);
        let mut out = vec![0.0; width];
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
            let scale = self.0.scale(x);
            for (out, (x, grad)) in out.iter_mut().zip(x.iter().zip(grad)) {
                *out += x * grad * scale;
            }
        }
        Ok((CpuStorage::F32(out), Shape::from(width)))
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
        Ok(Some(p.apply_op2_no_bwd(&grad.contiguous()?, self)?))
    }
}

/// The gradient: p (g - sum(p g)).
impl CustomOp2 for Softmax {
    fn name(&self) -> &'static str {
        "softmax-bwd"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        p_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (p, grad) = (numbers(p, p_layout)?, numbers(grad, grad_layout)?);
        let width = width(p_layout);
        let mut out = Vec::with_capacity(p.len());
        for (p, grad) in p.chunks_exact(width).zip(grad.chunks_exact(width)) {
            let along = dot(p, grad);
            out.extend(p.iter().zip(grad).map(|(p, grad)| p * (grad - along)));
        }
        Ok(done(out, p_layout))
    }
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
        let of_gate = gate.apply_op3_no_bwd(up, &grad, self)?;
        Ok((Some(of_gate), Some(gate.apply_op2_no_bwd(&grad, self)?)))
    }
}

/// The gradient of the gate: g up s (1 + x (1 - s)).
impl CustomOp3 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu-bwd"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up, grad) = (numbers(gate, gate_layout)?, numbers(up, up_layout)?, numbers(grad, grad_layout)?);
        let slope = |((gate, up), grad): ((&f32, &f32), &f32)| {
            let s = sigmoid(*gate);
            grad * up * s * (1.0 + gate * (1.0 - s))
        };
        Ok(done(gate.iter().zip(up).zip(grad).map(slope).collect(), gate_layout))
    }
}

struct CrossEntropy {
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl CrossEntropy {
    /// The largest logit of a row, and the sum of the exponentials below it.
    fn mass(row: &[f32]) -> (f32, f32) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        (largest, row.iter().map(|logit| (logit - largest).exp()).sum())
    }

    fn rows<'a>(&'a self, logits: &'a [f32], width: usize) -> impl Iterator<Item = (&'a [f32], usize, f32)> {
        let each = logits.chunks_exact(width).zip(self.targets.iter().zip(&self.weights));
        each.map(|(row, (target, weight))| (row, *target as usize, *weight))
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
        #[allow(clippy::cast_possible_truncation)] // losses are f32
        let sum = terms.sum::<f64>() as f32;
        Ok((CpuStorage::F32(vec![sum]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(logits.apply_op2_no_bwd(grad, self)?))
    }
}

/// The gradient: g weight (p - 1 at the target).
impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy-bwd"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (logits, grad) = (numbers(logits, layout)?, numbers(grad, grad_layout)?);
        let mut out = Vec::with_capacity(logits.len());
        for (row, target, weight) in self.rows(logits, width(layout)) {
            let (largest, mass) = Self::mass(row);
            let (first, scale) = (out.len(), grad[0] * weight);
            out.extend(row.iter().map(|logit| (logit - largest).exp() / mass * scale));
            out[first + target] -= scale;
        }
        Ok(done(out, layout))
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
