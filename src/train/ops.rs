//! Operations with hand-written gradients: on a CPU each is one pass over its rows instead of about
//! a dozen. On other devices they are composed of the library's operations.

use crate::model::has_fused_gradients;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Device, Layout, Result, Shape, Storage, Tensor};
use candle_nn::ops;

/// x / sqrt(mean(x^2) + eps) * weight: `x` (rows, width), `weight` (width).
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    if !has_fused_gradients(x) {
        return ops::rms_norm_slow(x, weight, eps);
    }
    let backward = move |x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor| {
        let (x, grad) = (x.contiguous()?, grad.contiguous()?);
        let of_x = computed([&x, weight, &grad], |[x, weight, grad]| norm_gradient(x, weight, grad, eps))?;
        let of_gain = || computed([weight, &x, &grad], |[gain, x, grad]| gain_gradient(gain.len(), x, grad, eps));
        Ok((Some(of_x), if weight.track_op() { Some(of_gain()?) } else { None }))
    };
    let forward = move |x: &[f32], weight: &[f32]| {
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(weight.len()) {
            let scale = norm_scale(row, eps);
            y.extend(row.iter().zip(weight).map(|(x, weight)| x * scale * weight));
        }
        y
    };
    x.apply_op2(weight, Op { name: "rms-norm", shape: x.shape().clone(), forward, backward })
}

/// Softmax over the last dimension, of any shape.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    if !has_fused_gradients(x) {
        return ops::softmax(x, D::Minus1);
    }
    let width = x.dim(D::Minus1)?;
    let backward = move |_: &Tensor, p: &Tensor, grad: &Tensor| {
        Ok(Some(computed([p, &grad.contiguous()?], |[p, grad]| softmax_gradient(width, p, grad))?))
    };
    let forward = move |x: &[f32]| {
        let mut p = x.to_vec();
        for row in p.chunks_exact_mut(width) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = exp(*x - largest));
            let scale = sum(row).recip();
            row.iter_mut().for_each(|x| *x *= scale);
        }
        p
    };
    x.apply_op1(Op { name: "softmax", shape: x.shape().clone(), forward, backward })
}

/// silu(gate) * up, of equal shapes.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !has_fused_gradients(gate) {
        return gate.silu()? * up;
    }
    let product = |gate: &[f32], up: &[f32]| {
        gate.iter().zip(up).map(|(gate, up)| gate * sigmoid(*gate) * up).collect::<Vec<f32>>()
    };
    let backward = move |gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor| {
        let grad = grad.contiguous()?;
        let of_gate = computed([gate, up, &grad], |[gate, up, grad]| gate_gradient(gate, up, grad))?;
        Ok((Some(of_gate), Some(computed([gate, &grad], |[gate, grad]| product(gate, grad))?)))
    };
    gate.apply_op2(up, Op { name: "swiglu", shape: gate.shape().clone(), forward: product, backward })
}

/// The weighted sum of cross-entropies in nats, from `logits` (rows, vocabulary); a scalar.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    if has_fused_gradients(logits) {
        let width = logits.dim(D::Minus1)?;
        let targets: Vec<_> = targets.iter().map(|target| *target as usize).zip(weights.iter().copied()).collect();
        let known = targets.clone();
        let forward = move |logits: &[f32]| {
            let terms = logits.chunks_exact(width).zip(&targets).map(|(row, (target, weight))| {
                let (largest, mass) = mass(row);
                f64::from(*weight) * f64::from(largest + mass.ln() - row[*target])
            });
            vec![terms.sum::<f64>() as f32]
        };
        let backward = move |logits: &Tensor, _: &Tensor, grad: &Tensor| {
            let of_logits = |[logits, grad]: [&[f32]; 2]| cross_entropy_gradient(width, logits, &known, grad[0]);
            Ok(Some(computed([logits, grad], of_logits)?))
        };
        return logits.apply_op1(Op { name: "cross-entropy", shape: Shape::from(()), forward, backward });
    }
    let rows = targets.len();
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?; // (rows, 1)
    let weights = Tensor::new(weights, logits.device())?; // (rows)
    let likelihood = ops::log_softmax(logits, 1)?.gather(&targets, 1)?.reshape(rows)?; // (rows)
    (likelihood * weights)?.sum_all()?.neg()
}

/// An operation on the elements of contiguous tensors: `forward` makes those of a tensor of
/// `shape`, `backward` the gradients of its arguments.
struct Op<F, B> {
    name: &'static str,
    shape: Shape,
    forward: F,
    backward: B,
}

impl<F, B> Op<F, B> {
    fn done(&self, numbers: Vec<f32>) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(numbers), self.shape.clone()))
    }
}

type Pair = (Option<Tensor>, Option<Tensor>);

/// A tensor of the shape of the first of some contiguous tensors, from the elements of all. It has
/// no gradient of its own.
fn computed<const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> Vec<f32>) -> Result<Tensor> {
    let stored = tensors.map(Tensor::storage_and_layout);
    let mut elements = [&[][..]; N];
    for (elements, (storage, layout)) in elements.iter_mut().zip(&stored) {
        let Storage::Cpu(storage) = &**storage else {
            candle_core::bail!("a gradient on the CPU of a tensor elsewhere")
        };
        *elements = numbers(storage, layout)?;
    }
    Tensor::from_vec(f(elements), tensors[0].shape(), &Device::Cpu)
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, until)) => Ok(&storage.as_slice::<f32>()?[from..until]),
        None => candle_core::bail!("an operation on rows was given a tensor that is not contiguous"),
    }
}

impl<F, B> CustomOp1 for Op<F, B>
where
    F: Fn(&[f32]) -> Vec<f32>,
    B: Fn(&Tensor, &Tensor, &Tensor) -> Result<Option<Tensor>>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, a: &CpuStorage, of_a: &Layout) -> Result<(CpuStorage, Shape)> {
        self.done((self.forward)(numbers(a, of_a)?))
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(a, y, grad)
    }
}

impl<F, B> CustomOp2 for Op<F, B>
where
    F: Fn(&[f32], &[f32]) -> Vec<f32>,
    B: Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Pair>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, a: &CpuStorage, of_a: &Layout, b: &CpuStorage, of_b: &Layout) -> Result<(CpuStorage, Shape)> {
        self.done((self.forward)(numbers(a, of_a)?, numbers(b, of_b)?))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Pair> {
        (self.backward)(a, b, y, grad)
    }
}

/// 1 / sqrt(mean(x^2) + eps).
fn norm_scale(x: &[f32], eps: f32) -> f32 {
    let mean = dot(x, x) / x.len() as f32;
    (mean + eps).sqrt().recip()
}

/// s (g w - x s^2 mean(g w x)), with s the row's scale.
fn norm_gradient(x: &[f32], weight: &[f32], grad: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut weighted = vec![0.0; width];
    let mut out = Vec::with_capacity(x.len());
    for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let scale = norm_scale(x, eps);
        for (weighted, (grad, weight)) in weighted.iter_mut().zip(grad.iter().zip(weight)) {
            *weighted = grad * weight;
        }
        let along = dot(&weighted, x) * scale * scale / width as f32;
        out.extend(weighted.iter().zip(x).map(|(weighted, x)| scale * (weighted - x * along)));
    }
    out
}

/// The sum over rows of g x s.
fn gain_gradient(width: usize, x: &[f32], grad: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; width];
    for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let scale = norm_scale(x, eps);
        for (out, (x, grad)) in out.iter_mut().zip(x.iter().zip(grad)) {
            *out += x * grad * scale;
        }
    }
    out
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

#[inline]
fn sigmoid(x: f32) -> f32 {
    (1.0 + exp(-x)).recip()
}

/// g up s (1 + x (1 - s)), with s the sigmoid of the gate x.
fn gate_gradient(gate: &[f32], up: &[f32], grad: &[f32]) -> Vec<f32> {
    let slope = |((gate, up), grad): ((&f32, &f32), &f32)| {
        let s = sigmoid(*gate);
        grad * up * s * (1.0 + gate * (1.0 - s))
    };
    gate.iter().zip(up).zip(grad).map(slope).collect()
}

/// The largest logit of a row, and the sum of exp(logit - largest).
fn mass(row: &[f32]) -> (f32, f32) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (largest, row.iter().map(|logit| (logit - largest).exp()).sum())
}

/// g weight (p - 1 at the target), from the target and the weight of each row.
fn cross_entropy_gradient(width: usize, logits: &[f32], targets: &[(usize, f32)], grad: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for (row, (target, weight)) in logits.chunks_exact(width).zip(targets) {
        let (largest, mass) = mass(row);
        let (first, scale) = (out.len(), grad * weight);
        out.extend(row.iter().map(|logit| (logit - largest).exp() / mass * scale));
        out[first + target] -= scale;
    }
    out
}

/// The dot product of two slices of equal length, added up in 16 lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The sum of a slice, added up in 16 lanes.
fn sum(numbers: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = numbers.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane += number);
    }
    lanes.iter().sum::<f32>() + rest
}

/// e^x with a relative error of at most 2e-7, without a branch, so that loops over it are
/// vectorised. x = n ln 2 + r with |r| <= ln 2 / 2, and e^r is a polynomial (Cephes, expf). x is
/// clamped to [-87, 87].
#[inline]
#[allow(clippy::excessive_precision)] // as published
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: adding it rounds to an integer, held in the low bits
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_375 + n * 2.121_944_40e-4;
    let p = 1.987_569_150_0e-4;
    let p = p * r + 1.398_199_950_7e-3;
    let p = p * r + 8.333_451_907_3e-3;
    let p = p * r + 4.166_579_589_4e-2;
    let p = p * r + 1.666_666_545_9e-1;
    let p = p * r + 5.000_000_120_1e-1;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23); // 2^n
    (p * r * r + r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

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

    #[test]
    fn the_exponential_is_the_exponential() {
        for step in -8700..=8700i16 {
            let x = f32::from(step) / 100.0;
            let (ours, right) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours - right).abs() < 2e-7 * right, "{x}: {ours} {right}");
        }
        assert_eq!((exp(0.0), exp(-1e9) < 1e-37, exp(1e9).is_finite()), (1.0, true, true));
    }

    #[test]
    fn sums_are_sums_whatever_the_length() {
        for length in [0u8, 1, 15, 16, 17, 33, 100] {
            let numbers: Vec<f32> = (0..length).map(f32::from).collect();
            let total = f32::from(length) * (f32::from(length) - 1.0) / 2.0;
            assert_eq!((sum(&numbers), dot(&numbers, &vec![2.0; numbers.len()])), (total, 2.0 * total));
        }
    }
}
