//! Arithmetic over slices in a form that the compiler turns into vector instructions.

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
pub(super) fn sum(numbers: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = numbers.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane += number);
    }
    lanes.iter().sum::<f32>() + rest
}

/// e^x with a relative error of at most 2e-7, without a branch, so that loops over it are
/// vectorised. x = n ln 2 + r with
/// |r| <= ln 2 / 2, and e^r is a polynomial (Cephes, expf). x is clamped to [-87, 87].
#[inline]
#[allow(clippy::excessive_precision)] // as published
pub(super) fn exp(x: f32) -> f32 {
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
