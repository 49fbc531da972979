//! By what a quality head knows the weights it was made for: a few numbers of every tensor,
//! adapters folded in, which are compared as far as the formats that weights are stored in keep
//! them. Out of scope: where tensors come from.

use candle_core::quantized::GgmlDType;
use std::collections::{BTreeMap, BTreeSet};

/// Rows of a matrix that are looked at, and numbers of a row.
const ROWS: usize = 4;
const COLUMNS: usize = 8;
/// A tensor with this many other numbers is another one. A single one may lie on the edge.
const DIFFERENT: usize = 2;

/// Half a step of bf16 is 2^-9 of a number; twice that is for numbers that were rounded twice.
const ROUNDING: f32 = 1.0 / 256.0;
/// Share of the largest number of a row by which sums in another order differ, when an adapter is
/// folded in.
const SUMMING: f32 = 1e-6;
/// The smallest step of f16.
const SMALLEST: f32 = 6e-8;

/// A number of a tensor, and how far from it the same number may be that was stored otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) value: f32,
    pub(crate) tolerance: f32,
}

/// Numbers of a model's tensors by their names.
pub(crate) type Samples = BTreeMap<String, Vec<Sample>>;

/// A row of a tensor as it is stored, and with its adapter folded in.
pub(crate) struct Row {
    pub(crate) stored: Vec<f32>,
    pub(crate) folded: Vec<f32>,
    pub(crate) format: GgmlDType,
}

/// The rows of a tensor to look at; a vector is one row.
pub(crate) fn rows(shape: &[usize]) -> Vec<usize> {
    if let [rows, _] = shape { spread(*rows, ROWS) } else { vec![0] }
}

/// The numbers of a row to look at. A vector has as many as a matrix.
pub(crate) fn samples(row: &Row, is_vector: bool) -> Vec<Sample> {
    let largest = row.folded.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
    let (share, block) = (error_share(row.format), row.format.block_size().max(1));
    let sample = |column: usize| {
        let (stored, value) = (row.stored[column], row.folded[column]);
        let in_block = row.stored.chunks(block).nth(column / block).unwrap_or_default();
        let largest_in_block = in_block.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
        let rounding = ROUNDING * (value.abs() + if stored == value { 0.0 } else { stored.abs() });
        Sample { value, tolerance: rounding + SUMMING * largest + SMALLEST + share * largest_in_block }
    };
    spread(row.folded.len(), if is_vector { ROWS * COLUMNS } else { COLUMNS }).into_iter().map(sample).collect()
}

/// `count` places, evenly spread; all of them where there are no more.
fn spread(places: usize, count: usize) -> Vec<usize> {
    if places <= count {
        (0..places).collect()
    } else {
        (0..count).map(|n| (2 * n + 1) * places / (2 * count)).collect()
    }
}

/// How far a stored number is from the original at most, as a share of the largest in its block.
const fn error_share(format: GgmlDType) -> f32 {
    match format {
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => 0.0,
        GgmlDType::Q8_0 | GgmlDType::Q8_1 | GgmlDType::Q8K => 1.0 / 120.0,
        GgmlDType::Q6K => 1.0 / 24.0,
        GgmlDType::Q5_0 | GgmlDType::Q5_1 | GgmlDType::Q5K => 1.0 / 12.0,
        GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => 1.0 / 6.0,
        GgmlDType::Q3K | GgmlDType::Q2K => 1.0 / 2.0,
    }
}

/// The numbers alone, as the header of a head's file has them.
pub(crate) fn written(samples: &Samples) -> String {
    let numbers = |samples: &Vec<Sample>| samples.iter().map(|sample| sample.value).collect::<Vec<_>>();
    let numbers: BTreeMap<&String, Vec<f32>> = samples.iter().map(|(name, samples)| (name, numbers(samples))).collect();
    serde_json::json!(numbers).to_string()
}

/// The names of the tensors that are not those whose numbers were `written`, or that only one of
/// the two has; `None` if that is no list of numbers.
pub(crate) fn differing(written: &str, found: &Samples) -> Option<Vec<String>> {
    // JSON has null for a number that is not finite
    let made_for: BTreeMap<String, Vec<Option<f32>>> = serde_json::from_str(written).ok()?;
    let differs = |numbers: &[Option<f32>], samples: &[Sample]| {
        let is_other = |(number, sample): &(&Option<f32>, &Sample)| match number {
            Some(number) => (number - sample.value).abs() > sample.tolerance || !sample.value.is_finite(),
            None => sample.value.is_finite(),
        };
        numbers.len() != samples.len()
            || numbers.iter().zip(samples).filter(is_other).count() >= DIFFERENT.min(samples.len())
    };
    let is_other = |name: &&String| match (made_for.get(*name), found.get(*name)) {
        (Some(numbers), Some(samples)) => differs(numbers, samples),
        (Some(_), None) | (None, Some(_)) => true,
        (None, None) => false,
    };
    let names: BTreeSet<&String> = made_for.keys().chain(found.keys()).collect();
    Some(names.into_iter().filter(is_other).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    const WIDTH: usize = 512;

    /// Pseudo-random numbers around zero.
    fn numbers(seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..WIDTH).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.03).collect()
    }

    fn of(row: &[f32], format: GgmlDType) -> Samples {
        let matrix = Tensor::from_slice(row, (1, WIDTH), &Device::Cpu).unwrap();
        let stored = QTensor::quantize(&matrix, format).unwrap().dequantize(&Device::Cpu).unwrap();
        let stored = stored.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let row = Row { folded: stored.clone(), stored, format };
        BTreeMap::from([("a".to_owned(), samples(&row, true))])
    }

    #[test]
    fn the_same_numbers_are_known_in_every_format_and_others_are_not() {
        for seed in 0..200 {
            let row = numbers(seed);
            let made_for = written(&of(&row, GgmlDType::F32));
            for format in [
                GgmlDType::F32,
                GgmlDType::F16,
                GgmlDType::BF16,
                GgmlDType::Q8_0,
                GgmlDType::Q6K,
                GgmlDType::Q5_0,
                GgmlDType::Q5K,
                GgmlDType::Q4_0,
                GgmlDType::Q4K,
            ] {
                assert_eq!(differing(&made_for, &of(&row, format)), Some(vec![]), "{format:?} {seed}");
                let other = of(&numbers(seed + 1000), format);
                assert_eq!(differing(&made_for, &other), Some(vec!["a".to_owned()]), "{format:?} {seed}");
            }
            // a hundredth of the numbers' deviation, as a short training changes them
            let changed: Vec<f32> =
                row.iter().zip(numbers(seed + 500)).map(|(one, other)| one + 0.01 * other).collect();
            assert_eq!(differing(&made_for, &of(&changed, GgmlDType::BF16)), Some(vec!["a".to_owned()]), "{seed}");
        }
        assert_eq!(differing("{", &Samples::new()), None);
    }

    #[test]
    fn a_tensor_too_many_or_too_few_and_a_number_that_is_not_finite_are_known() {
        let named = |name: &str, row: &[f32]| {
            let samples = of(row, GgmlDType::F32).remove("a").unwrap();
            (name.to_owned(), samples)
        };
        let [a, b] = [named("a", &numbers(1)), named("b", &numbers(2))];
        let (one, two) = (Samples::from([a.clone()]), Samples::from([a, b]));
        let b = Some(vec!["b".to_owned()]);
        assert_eq!((differing(&written(&two), &one), differing(&written(&one), &two)), (b.clone(), b));
        assert_eq!(differing(&written(&two), &two), Some(vec![]));
        let mut damaged = numbers(1);
        damaged[..64].fill(f32::NAN);
        let damaged = Samples::from([named("a", &damaged)]);
        assert_eq!(differing(&written(&damaged), &damaged), Some(vec![]));
        assert_eq!(differing(&written(&damaged), &one), Some(vec!["a".to_owned()]));
        assert_eq!(differing(&written(&one), &damaged), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn places_are_spread_over_a_tensor() {
        assert_eq!(rows(&[1000, 8]), [125, 375, 625, 875]);
        assert_eq!((rows(&[3, 8]), rows(&[8])), (vec![0, 1, 2], vec![0]));
        assert_eq!(spread(64, 8), [4, 12, 20, 28, 36, 44, 52, 60]);
    }
}
