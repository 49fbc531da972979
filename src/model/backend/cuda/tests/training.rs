//! The operations of training but for attention, with wide reads and without.

use super::super::rows::row_sums;
use super::{FORMATS, both, cuda, distance, random};
use crate::model::backend::cuda::Cuda;
use crate::model::backend::training::{AdamStep, Normed, Targets, Training};
use crate::model::backend::{Angles, Backend, cpu::Cpu};
use candle_core::{DType, Device, IndexOp, Result, Tensor};

/// Rows and their widths: more rows than blocks, odd widths, several packs a thread.
const SHAPES: [(usize, usize); 5] = [(1, 7), (3, 64), (13, 301), (4100, 4), (2, 4096)];

/// Rows (rows, width) of random numbers between -2 and 2 and, if `is_cut`, with other numbers
/// between them: there in a format, and here contiguous.
fn rows(cuda: &Cuda, seed: u64, (rows, width): (usize, usize), dtype: DType, is_cut: bool) -> Result<(Tensor, Tensor)> {
    let beside = if is_cut { 8 } else { 0 };
    let (there, here) = both(cuda, &random(seed, &[rows, width + beside]).affine(2.0, 0.0)?, dtype)?;
    Ok((there.narrow(1, beside, width)?, here.narrow(1, beside, width)?.contiguous()?))
}

#[track_caller]
fn near(found: &Tensor, expected: &Tensor, allowed: f32, case: &str) {
    assert_eq!(found.dims(), expected.dims(), "{case}");
    let off = distance(found, expected).unwrap();
    assert!(off < allowed, "{case}: {off}");
}

/// Whether all numbers are the same to the bit.
fn is_same(a: &Tensor, b: &Tensor) -> Result<bool> {
    let bits = |x: &Tensor| {
        let numbers = x.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok::<_, candle_core::Error>(numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    Ok(bits(a)? == bits(b)?)
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn norms_and_their_gradients_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (shape, is_cut) in SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        for (dtype, allowed) in FORMATS {
            let case = format!("{shape:?} {dtype:?} {is_cut}");
            let (x, x_cpu) = rows(&cuda, 1, shape, DType::F32, is_cut)?;
            let (gain, gain_cpu) = both(&cuda, &random(2, &[shape.1]), DType::F32)?;
            let (grad, grad_cpu) = rows(&cuda, 3, shape, dtype, is_cut)?;
            let (carried, carried_cpu) = rows(&cuda, 4, shape, DType::F32, is_cut)?;
            let normed = cuda.rms_norm(&x, &gain, 1e-5, dtype)?;
            assert_eq!(normed.dtype(), dtype);
            near(&normed, &Cpu.rms_norm(&x_cpu, &gain_cpu, 1e-5, DType::F32)?, allowed, &case);
            let of = Normed { x: &x, gain: &gain, eps: 1e-5 };
            let of_cpu = Normed { x: &x_cpu, gain: &gain_cpu, eps: 1e-5 };
            for has_carried in [false, true] {
                let [carried, carried_cpu] = [&carried, &carried_cpu].map(|carried| has_carried.then_some(carried));
                let (of_x, of_gain) = cuda.rms_norm_gradients(&of, &grad, carried, true)?;
                let (of_x_cpu, of_gain_cpu) = Cpu.rms_norm_gradients(&of_cpu, &grad_cpu, carried_cpu, true)?;
                near(&of_x, &of_x_cpu, 1e-5, &case);
                near(&of_gain.unwrap(), &of_gain_cpu.unwrap(), 1e-5, &case);
                let (alone, none) = cuda.rms_norm_gradients(&of, &grad, carried, false)?;
                assert!(is_same(&alone, &of_x)? && none.is_none(), "{case}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn rotations_there_and_back_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (tokens, heads, d) in [(1, 1, 2), (5, 4, 32), (4, 3, 20)] {
        let angles = random(1, &[tokens, 1, d / 2]).affine(3.0, 0.0)?;
        let here = Angles { cos: angles.cos()?, sin: angles.sin()? };
        let [cos, sin] = [&here.cos, &here.sin].map(|part| part.to_device(&cuda.gpu.device));
        let there = Angles { cos: cos?, sin: sin? };
        for ((dtype, allowed), is_cut) in FORMATS.into_iter().flat_map(|format| [(format, false), (format, true)]) {
            let (x, x_cpu) = rows(&cuda, 2, (tokens, heads * d), dtype, is_cut)?;
            let case = format!("{tokens} {heads} {d} {dtype:?} {is_cut}");
            for back in [false, true] {
                let found = cuda.rotated(&x, d, &there, back)?;
                assert_eq!(found.dtype(), dtype);
                near(&found, &Cpu.rotated(&x_cpu, d, &here, back)?, allowed, &case);
            }
            near(&cuda.rotated(&cuda.rotated(&x, d, &there, false)?, d, &there, true)?, &x_cpu, allowed, &case);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn gated_activations_sums_and_their_gradients_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (shape, is_cut) in SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        for (dtype, allowed) in FORMATS {
            let case = format!("{shape:?} {dtype:?} {is_cut}");
            let ((gate, gate_cpu), (up, up_cpu)) =
                (rows(&cuda, 1, shape, dtype, is_cut)?, rows(&cuda, 2, shape, dtype, is_cut)?);
            let (grad, grad_cpu) = rows(&cuda, 3, shape, dtype, is_cut)?;
            near(&cuda.swiglu(&gate, &up)?, &Cpu.swiglu(&gate_cpu, &up_cpu)?, allowed, &case);
            let found = cuda.swiglu_gradients(&gate, &up, &grad)?;
            let expected = Cpu.swiglu_gradients(&gate_cpu, &up_cpu, &grad_cpu)?;
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.dtype(), dtype);
                near(found, expected, allowed, &case);
            }
            let (x, x_cpu) = rows(&cuda, 4, shape, DType::F32, is_cut)?;
            assert!(is_same(&cuda.added(&x, &up)?, &Cpu.added(&x_cpu, &up_cpu)?)?, "{case}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn cross_entropies_and_their_gradients_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (shape, is_cut) in
        [((5, 11), false), ((300, 32), true), ((3, 1000), true), ((2, 40_001), false), ((2, 33_000), false)]
    {
        for (dtype, allowed) in FORMATS {
            let case = format!("{shape:?} {dtype:?} {is_cut}");
            let (logits, logits_cpu) = rows(&cuda, 1, shape, dtype, is_cut)?;
            // half of the targets are the most probable tokens, so that some are right
            let best = logits_cpu.argmax(1)?.to_vec1::<u32>()?;
            let tokens: Vec<u32> = (0..).zip(best).map(|(row, best)| if row % 2 == 0 { best } else { row }).collect();
            let here = Targets {
                tokens: Tensor::from_vec(tokens.iter().map(|at| at % shape.1 as u32).collect(), shape.0, &Device::Cpu)?,
                weights: random(2, &[shape.0]),
            };
            let [tokens, weights] = [&here.tokens, &here.weights].map(|part| part.to_device(&cuda.gpu.device));
            let there = Targets { tokens: tokens?, weights: weights? };
            let found = cuda.cross_entropy(&logits, &there)?;
            let expected = Cpu.cross_entropy(&logits_cpu, &here)?;
            near(&found, &expected, 1e-5, &case);
            assert!(is_same(&found.i(2..)?, &expected.i(2..)?)?, "{case}");
            let found = cuda.cross_entropy_gradient(&logits, &there, 0.3)?;
            assert_eq!(found.dtype(), dtype);
            near(&found, &Cpu.cross_entropy_gradient(&logits_cpu, &here, 0.3)?, allowed, &case);
        }
    }
    let none = Targets {
        tokens: Tensor::new(&[0u32; 0], &cuda.gpu.device)?,
        weights: Tensor::new(&[0f32; 0], &cuda.gpu.device)?,
    };
    let logits = random(1, &[1, 5]).to_device(&cuda.gpu.device)?.narrow(0, 0, 0)?;
    assert_eq!(cuda.cross_entropy(&logits, &none)?.to_vec1::<f32>()?, [0.0; 3]);
    assert_eq!(cuda.cross_entropy_gradient(&logits, &none, 1.0)?.dims(), [0, 5]);
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn of_equal_logits_the_first_is_right_and_what_is_no_number_or_no_token_shows() -> Result<()> {
    let cuda = cuda();
    let losses = |logits: &[f32], token: u32| {
        let targets = Targets {
            tokens: Tensor::new(&[token], &cuda.gpu.device)?,
            weights: Tensor::new(&[1f32], &cuda.gpu.device)?,
        };
        let logits = Tensor::from_slice(logits, (1, logits.len()), &cuda.gpu.device)?;
        cuda.cross_entropy(&logits, &targets)?.to_vec1::<f32>()
    };
    // the largest twice, in packs of different threads
    for width in [9, 1 << 11] {
        let mut logits = vec![0.5f32; width];
        (logits[3], logits[width - 1]) = (2.0, 2.0);
        for (token, is_right) in [(3, 1.0), (width as u32 - 1, 0.0), (0, 0.0)] {
            assert_eq!(losses(&logits, token)?[2], is_right, "{width} {token}");
        }
        assert!(losses(&logits, width as u32)?[1].is_nan());
        logits[5] = f32::NEG_INFINITY;
        assert!(losses(&logits, 3)?[1].is_finite() && losses(&logits, 5)?[1] == f32::INFINITY);
        for broken in [f32::NAN, f32::INFINITY] {
            logits[5] = broken;
            assert!(losses(&logits, 3)?[1].is_nan(), "{broken}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn long_sums_keep_their_digits() -> Result<()> {
    let cuda = cuda();
    let x = (random(1, &[2, 300_000]) + 1.001)?;
    let found = row_sums(&cuda.gpu, &x.to_device(&cuda.gpu.device)?, false)?.to_vec1::<f32>()?;
    for (found, row) in found.into_iter().zip(x.to_vec2::<f32>()?) {
        let expected = row.into_iter().map(f64::from).sum::<f64>();
        assert!((f64::from(found) / expected - 1.0).abs() < 1e-7, "{found} {expected}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn rows_are_added_up_by_their_indices_always_the_same() -> Result<()> {
    let cuda = cuda();
    let many: Vec<u32> = (0..1000).map(|at| if at % 3 == 0 { at / 3 % 7 } else { 8 }).collect();
    for (index, sums) in [(vec![4], 5), (vec![2, 0, 2, 1, 2], 7), (vec![6, 0, 3], 7), (many, 12)] {
        for (width, is_cut) in [(3, false), (8, true), (301, false), (2048, true)] {
            for (dtype, _) in FORMATS {
                let (x, x_cpu) = rows(&cuda, 1, (index.len(), width), dtype, is_cut)?;
                let found = cuda.scattered(&x, &index, sums)?;
                let expected = Cpu.scattered(&x_cpu, &index, sums)?;
                near(&found, &expected, 1e-5, &format!("{} {width} {dtype:?}", index.len()));
                assert!(is_same(&found, &cuda.scattered(&x, &index, sums)?)?);
                let empty = (0..sums).find(|row| !index.contains(&(*row as u32))).unwrap();
                assert!(is_same(&found.get(empty)?, &Tensor::zeros(width, DType::F32, &Device::Cpu)?)?);
            }
        }
    }
    let none = random(1, &[1, 4]).to_device(&cuda.gpu.device)?.narrow(0, 0, 0)?;
    assert!(is_same(&cuda.scattered(&none, &[], 2)?, &Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?)?);
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn steps_of_adamw_are_the_cpus_and_one_that_is_not_finite_changes_nothing() -> Result<()> {
    let cuda = cuda();
    for (count, decayed) in [(1, 0), (1000, 700), (20_003, 20_003)] {
        let here = random(1, &[4, count]).abs()?;
        let there = here.copy()?.to_device(&cuda.gpu.device)?;
        for steps in 1..=4i32 {
            let betas = [0.9f32, 0.98];
            let step = AdamStep {
                rate: 0.01,
                betas,
                unbias: betas.map(|beta| 1.0 - beta.powi(steps)),
                decay: 0.999,
                decayed,
                // in the first steps of larger gradients than this, later of smaller
                clip: if steps < 3 { 0.5 } else { 1e3 },
                average: 0.99,
            };
            let gradients = random(10 + steps as u64, &[count]);
            let norm = cuda.adam(&there, &gradients.to_device(&cuda.gpu.device)?, &step)?;
            near(&norm, &Cpu.adam(&here, &gradients, &step)?, 1e-5, "norm");
            for part in 0..4 {
                near(&there.get(part)?, &here.get(part)?, 1e-5, &format!("{count} {steps} {part}"));
            }
            let before = there.copy()?;
            for broken in [f32::NAN, f32::INFINITY, 1e30] {
                let mut numbers = gradients.to_vec1::<f32>()?;
                numbers[count - 1] = broken;
                let norm = cuda.adam(&there, &Tensor::new(&*numbers, &cuda.gpu.device)?, &step)?;
                assert!(!norm.to_vec1::<f32>()?[0].is_finite() && is_same(&there, &before)?, "{broken}");
            }
        }
        let zeros = Tensor::zeros(count, DType::F32, &cuda.gpu.device)?;
        let step = AdamStep {
            rate: 0.0,
            betas: [0.9, 0.98],
            unbias: [1.0, 1.0],
            decay: 1.0,
            decayed,
            clip: 1.0,
            average: 1.0,
        };
        assert_eq!(cuda.adam(&there, &zeros, &step)?.to_vec1::<f32>()?, [0.0]);
        near(&there.get(0)?, &here.get(0)?, 1e-5, "without gradients");
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn operations_are_few_launches_and_wait_for_nothing() -> Result<()> {
    let cuda = cuda();
    let on = |seed: u64, shape: &[usize]| random(seed, shape).to_device(&cuda.gpu.device);
    let (x, y, gain, state) = (on(1, &[9, 16])?, on(2, &[9, 16])?, on(3, &[16])?, on(4, &[4, 9 * 16])?);
    let targets = Targets { tokens: Tensor::new(&[1u32; 9], &cuda.gpu.device)?, weights: on(5, &[9])? };
    let of = Normed { x: &x, gain: &gain, eps: 1e-5 };
    let step =
        AdamStep { rate: 0.1, betas: [0.5; 2], unbias: [0.5; 2], decay: 1.0, decayed: 0, clip: 1.0, average: 0.5 };
    let long: Vec<u32> = vec![3; 200];
    let (many, gradients) = (on(6, &[200, 16])?, y.flatten_all()?);
    type Operation<'a> = (&'a str, u64, u64, Box<dyn Fn() -> Result<()> + 'a>);
    let operations: [Operation<'_>; 10] = [
        ("norm", 1, 0, Box::new(|| cuda.rms_norm(&x, &gain, 1e-5, DType::BF16).map(drop))),
        ("its gradients", 2, 0, Box::new(|| cuda.rms_norm_gradients(&of, &y, Some(&x), true).map(drop))),
        ("without the gain's", 1, 0, Box::new(|| cuda.rms_norm_gradients(&of, &y, None, false).map(drop))),
        ("swiglu", 1, 0, Box::new(|| cuda.swiglu(&x, &y).map(drop))),
        ("its gradients", 1, 0, Box::new(|| cuda.swiglu_gradients(&x, &y, &x).map(drop))),
        ("cross-entropy", 2, 0, Box::new(|| cuda.cross_entropy(&x, &targets).map(drop))),
        ("its gradient", 1, 0, Box::new(|| cuda.cross_entropy_gradient(&x, &targets, 1.0).map(drop))),
        ("unique rows", 1, 1, Box::new(|| cuda.scattered(&x, &[8, 7, 6, 5, 4, 3, 2, 1, 0], 9).map(drop))),
        ("one row many times", 2, 1, Box::new(|| cuda.scattered(&many, &long, 4).map(drop))),
        ("adam", 3, 0, Box::new(|| cuda.adam(&state, &gradients, &step).map(drop))),
    ];
    for (name, launches, copies, operation) in operations {
        let before = cuda.counts();
        operation()?;
        let counts = cuda.counts() - before;
        assert_eq!((counts.launches, counts.copies, counts.waits), (launches, copies, 0), "{name}");
    }
    Ok(())
}

#[test]
fn what_the_kernels_cannot_read_is_refused() {
    let cuda = Cuda::new(Device::Cpu, false);
    let (x, gain, column) = (random(1, &[4, 6]), random(2, &[6]), random(3, &[4]));
    let turned = random(4, &[6, 4]).t().unwrap();
    let half = x.to_dtype(DType::BF16).unwrap();
    let of = Normed { x: &x, gain: &gain, eps: 1e-5 };
    let targets = Targets { tokens: Tensor::new(&[1u32; 4], &Device::Cpu).unwrap(), weights: column.clone() };
    let swapped = Targets { tokens: column.clone(), weights: targets.tokens.clone() };
    let angles = Angles { cos: gain.clone(), sin: gain.clone() };
    let step =
        AdamStep { rate: 0.1, betas: [0.5; 2], unbias: [0.5; 2], decay: 1.0, decayed: 9, clip: 1.0, average: 0.5 };
    let refused: [(Result<Tensor>, &str); 14] = [
        (cuda.rms_norm(&turned, &gain, 1e-5, DType::F32), "are no rows"),
        (cuda.rms_norm(&half, &gain, 1e-5, DType::F32), "the input of a norm has the shape [4, 6] in BF16"),
        (cuda.rms_norm(&x, &column, 1e-5, DType::F32), "the gain of a norm has the shape [4] in F32; [6]"),
        (cuda.rms_norm(&x, &gain, 1e-5, DType::F16), "a norm in F16"),
        (cuda.rms_norm_gradients(&of, &turned, None, true).map(|both| both.0), "are no rows"),
        (cuda.rotated(&x, 4, &angles, false), "heads of width 4 in rows of 6"),
        (cuda.rotated(&x, 2, &angles, false), "a table of rotary angles has the shape [6] in F32; [4]"),
        (cuda.swiglu(&x, &half), "what is gated has the shape [4, 6] in BF16"),
        (cuda.added(&half, &x), "the residual stream has the shape [4, 6] in BF16"),
        (cuda.cross_entropy(&x, &swapped), "the list of targets has the shape [4] in F32"),
        (cuda.cross_entropy_gradient(&turned, &targets, 1.0), "are no rows"),
        (cuda.scattered(&x, &[0, 1, 2], 4), "3 indices for 4 rows"),
        (cuda.scattered(&x, &[0, 1, 2, 4], 4), "the index 4 of a row"),
        (cuda.adam(&random(5, &[4, 6]), &gain, &step), "9 parameters of 6 decay"),
    ];
    for (result, problem) in refused {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}\n{problem}");
    }
}
