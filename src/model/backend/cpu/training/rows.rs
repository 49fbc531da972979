//! The arithmetic of training on rows of f32: sums in 16 lanes and an exponential without a branch,
//! so that loops are vectorised.

/// x s gain of each row, with s its scale.
pub(super) fn normed(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(gain.len()) {
        let scale = norm_scale(row, eps);
        y.extend(row.iter().zip(gain).map(|(x, gain)| x * scale * gain));
    }
    y
}

/// 1 / sqrt(mean(x^2) + eps).
fn norm_scale(x: &[f32], eps: f32) -> f32 {
    let mean = dot(x, x) / x.len() as f32;
    (mean + eps).sqrt().recip()
}

/// c + s (g w - x s^2 mean(g w x)), with s the row's scale and c what is carried, or 0.
pub(super) fn norm_gradient([x, gain, grad]: [&[f32]; 3], carried: Option<&[f32]>, eps: f32) -> Vec<f32> {
    let width = gain.len();
    let mut weighted = vec![0.0; width];
    let mut out = Vec::with_capacity(x.len());
    for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let scale = norm_scale(x, eps);
        for (weighted, (grad, gain)) in weighted.iter_mut().zip(grad.iter().zip(gain)) {
            *weighted = grad * gain;
        }
        let along = dot(&weighted, x) * scale * scale / width as f32;
        let row = weighted.iter().zip(x).map(|(weighted, x)| scale * (weighted - x * along));
        match carried {
            None => out.extend(row),
            Some(carried) => out.extend(row.zip(&carried[out.len()..]).map(|(of_x, carried)| carried + of_x)),
        }
    }
    out
}

/// The sum over rows of g x s.
pub(super) fn gain_gradient(width: usize, x: &[f32], grad: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; width];
    for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let scale = norm_scale(x, eps);
        for (out, (x, grad)) in out.iter_mut().zip(x.iter().zip(grad)) {
            *out += x * grad * scale;
        }
    }
    out
}

/// Rotates the halves of the heads, of width d, of each row by the row's angles, (rows, d / 2); or
/// back.
pub(super) fn rotated(x: &[f32], width: usize, d: usize, [cos, sin]: [&[f32]; 2], back: bool) -> Vec<f32> {
    let (half, sign) = (d / 2, if back { -1.0 } else { 1.0 });
    let mut out = vec![0.0; x.len()];
    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
    for ((x, out), (cos, sin)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(angles) {
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let ((low, high), (to_low, to_high)) = (x.split_at(half), out.split_at_mut(half));
            for (at, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                let (cos, sin) = (*cos, sign * sin);
                to_low[at] = low[at] * cos - high[at] * sin;
                to_high[at] = low[at] * sin + high[at] * cos;
            }
        }
    }
    out
}

/// The softmax of each row.
pub(super) fn softmax(width: usize, x: &[f32]) -> Vec<f32> {
    let mut p = x.to_vec();
    for row in p.chunks_exact_mut(width) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|x| *x = exp(*x - largest));
        let scale = sum(row).recip();
        row.iter_mut().for_each(|x| *x *= scale);
    }
    p
}

/// p (g - sum(p g)).
pub(super) fn softmax_gradient(width: usize, p: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(p.len());
    for (p, grad) in p.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let along = dot(p, grad);
        out.extend(p.iter().zip(grad).map(|(p, grad)| p * (grad - along)));
    }
    out
}

/// silu(gate) up.
pub(super) fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    gate.iter().zip(up).map(|(gate, up)| gate * sigmoid(*gate) * up).collect()
}

#[inline]
fn sigmoid(x: f32) -> f32 {
    (1.0 + exp(-x)).recip()
}

/// g up s (1 + x (1 - s)), with s the sigmoid of the gate x.
pub(super) fn gate_gradient(gate: &[f32], up: &[f32], grad: &[f32]) -> Vec<f32> {
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

/// The weighted sum of cross-entropies in nats, their sum, and how many targets are the most
/// probable.
pub(super) fn cross_entropy(width: usize, logits: &[f32], targets: &[u32], weights: &[f32]) -> [f32; 3] {
    let mut sums = [0.0f64; 3];
    for (row, (target, weight)) in logits.chunks_exact(width).zip(targets.iter().zip(weights)) {
        let (largest, mass) = mass(row);
        let logit = row[*target as usize];
        let nats = f64::from(largest + mass.ln() - logit);
        let is_right = logit == largest && !row[..*target as usize].contains(&largest);
        let terms = [f64::from(*weight) * nats, nats, f64::from(u8::from(is_right))];
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    sums.map(|sum| sum as f32)
}

/// factor weight (p - 1 at the target), from the target and the weight of each row.
pub(super) fn cross_entropy_gradient(
    width: usize,
    logits: &[f32],
    targets: &[u32],
    weights: &[f32],
    factor: f32,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(logits.len());
    for (row, (target, weight)) in logits.chunks_exact(width).zip(targets.iter().zip(weights)) {
        let (largest, mass) = mass(row);
        let (first, scale) = (out.len(), factor * weight);
        out.extend(row.iter().map(|logit| (logit - largest).exp() / mass * scale));
        out[first + *target as usize] -= scale;
    }
    out
}

/// Row `i` of the result is the sum of the rows of `x` whose index is i.
pub(super) fn scattered(x: &[f32], width: usize, index: &[u32], rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * width];
    for (row, at) in x.chunks_exact(width).zip(index) {
        let first = *at as usize * width;
        out[first..first + width].iter_mut().zip(row).for_each(|(out, x)| *out += x);
    }
    out
}

/// The dot product of two slices of equal length, added up in 16 lanes.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
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
