//! Norms, rotary angles, gated activations and the quality head, with wide reads and without.

use super::{FORMATS, both, cuda, distance, random};
use crate::model::backend::{Angles, Backend, Joined, Norm, Scorer, Stored, cpu::Cpu};
use candle_core::{DType, Result, Tensor};

const SHAPES: [(usize, usize); 4] = [(1, 7), (3, 64), (5, 300), (2, 4096)];

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn norms_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (rows, width) in SHAPES {
        for (dtype, allowed) in FORMATS {
            let pair = |seed: u64, shape: &[usize]| both(&cuda, &random(seed, shape), dtype);
            let (x, x_cpu) = pair(1, &[rows, width])?;
            let (update, update_cpu) = pair(2, &[rows, width])?;
            let ((weight, weight_cpu), (bias, bias_cpu)) = (pair(3, &[width])?, pair(4, &[width])?);
            for is_rms in [true, false] {
                let of = |weight: &Tensor, bias: &Tensor| match is_rms {
                    true => Norm::Rms { weight: weight.clone(), eps: 1e-5 },
                    false => Norm::Layer { weight: weight.clone(), bias: bias.clone(), eps: 1e-5 },
                };
                let (norm, norm_cpu) = (of(&weight, &bias), of(&weight_cpu, &bias_cpu));
                let off = distance(&cuda.norm(&x, &norm)?, &Cpu.norm(&x_cpu, &norm_cpu)?)?;
                assert!(off < allowed, "{rows} {width} {dtype:?} {is_rms}: {off}");
                let (sum, normed) = cuda.add_norm(&x, &update, &norm)?;
                let (sum_cpu, normed_cpu) = Cpu.add_norm(&x_cpu, &update_cpu, &norm_cpu)?;
                let off = distance(&sum, &sum_cpu)?.max(distance(&normed, &normed_cpu)?);
                assert!(off < allowed, "{rows} {width} {dtype:?} {is_rms}: {off}");
            }
        }
        // the quality head reads states of bf16 in f32
        let (x, x_cpu) = both(&cuda, &random(5, &[rows, width]), DType::BF16)?;
        let (weight, weight_cpu) = both(&cuda, &random(6, &[width]), DType::F32)?;
        let norm = |weight: Tensor| Norm::Layer { bias: weight.clone(), weight, eps: 1e-5 };
        let found = cuda.norm(&x, &norm(weight))?;
        assert_eq!(found.dtype(), DType::F32);
        assert!(distance(&found, &Cpu.norm(&x_cpu, &norm(weight_cpu))?)? < 1e-5);
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn rotations_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (tokens, heads, kv_heads, d) in [(1, 1, 1, 2), (5, 4, 2, 32), (3, 2, 1, 128), (4, 3, 1, 20)] {
        let (cos, sin) = (random(1, &[tokens, 1, d / 2]), random(2, &[tokens, 1, d / 2]));
        let there = Angles { cos: cos.to_device(&cuda.gpu.device)?, sin: sin.to_device(&cuda.gpu.device)? };
        let here = Angles { cos, sin };
        for (dtype, allowed) in FORMATS {
            // beside each other, as a fused product leaves them, with values behind them
            let (all, all_cpu) = both(&cuda, &random(3, &[tokens, (heads + 2 * kv_heads) * d]), dtype)?;
            let part = |x: &Tensor, from: usize, count: usize| x.narrow(1, from * d, count * d);
            let (q, k) = (part(&all, 0, heads)?, part(&all, heads, kv_heads)?);
            let [q_cpu, k_cpu] =
                [part(&all_cpu, 0, heads)?.contiguous()?, part(&all_cpu, heads, kv_heads)?.contiguous()?];
            let expected = Cpu.rotate(&[&q_cpu, &k_cpu], d, &here)?;
            let found = cuda.rotate(&[&q, &k], d, &there)?;
            let alone = cuda.rotate(&[&k], d, &there)?;
            for (found, expected) in [(&found[0], &expected[0]), (&found[1], &expected[1]), (&alone[0], &expected[1])] {
                let off = distance(found, expected)?;
                assert!(off < allowed, "{tokens} {heads} {d} {dtype:?}: {off}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn gated_activations_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (rows, inner, width) in [(1, 8, 3), (5, 16, 344), (2, 8, 4096)] {
        for (dtype, allowed) in FORMATS {
            let pair = |seed: u64, shape: &[usize]| both(&cuda, &random(seed, shape).affine(4.0, 0.0)?, dtype);
            let (x, x_cpu) = pair(1, &[rows, inner])?;
            let ((gate, gate_cpu), (up, up_cpu)) = (pair(2, &[width, inner])?, pair(3, &[width, inner])?);
            let joined = |backend: &dyn Backend, gate: Tensor, up: Tensor| {
                backend.joined(&[Stored::Full(gate), Stored::Full(up)])
            };
            let found = cuda.gated(&x, &*joined(&cuda, gate, up)?)?;
            let expected = Cpu.gated(&x_cpu, &*joined(&Cpu, gate_cpu, up_cpu)?)?;
            let off = distance(&found, &expected)?;
            assert!(off < allowed, "{rows} {width} {dtype:?}: {off}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_joined_product_is_that_of_each_matrix() -> Result<()> {
    let cuda = cuda();
    let weights: Vec<Tensor> = [5, 8, 3].iter().zip(0..).map(|(out, seed)| random(seed, &[*out, 6])).collect();
    let x = random(9, &[4, 6]);
    let stored: Vec<Stored> =
        weights.iter().map(|weight| Ok(Stored::Full(weight.to_device(&cuda.gpu.device)?))).collect::<Result<_>>()?;
    let joined: Box<dyn Joined> = cuda.joined(&stored)?;
    for range in [0..3, 1..3, 0..1, 2..3] {
        let products = joined.products(&x.to_device(&cuda.gpu.device)?, range.clone())?;
        assert_eq!(products.len(), range.len());
        for (product, weight) in products.iter().zip(&weights[range]) {
            assert!(distance(product, &x.matmul(&weight.t()?)?)? < 1e-6);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_score_is_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (rows, inner, width) in [(1, 4, 3), (6, 64, 300)] {
        let scorer = |backend: &dyn Backend| {
            let get = |seed: u64, shape: &[usize]| random(seed, shape).to_device(&backend.device());
            let (matrix, last) = (get(1, &[width, inner])?, get(2, &[1, width])?);
            let (matrix, last_matrix) = (backend.full(&matrix)?, backend.full(&last)?);
            Ok::<_, candle_core::Error>(Scorer {
                matrix,
                bias: get(3, &[width])?,
                last,
                last_matrix,
                last_bias: get(4, &[1])?,
            })
        };
        let x = random(5, &[rows, inner]);
        let found = cuda.scored(&x.to_device(&cuda.gpu.device)?, &scorer(&cuda)?)?;
        assert!(distance(&found, &Cpu.scored(&x, &scorer(&Cpu)?)?)? < 1e-5);
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn rows_are_gathered_by_their_indices() -> Result<()> {
    let cuda = cuda();
    for width in [3, 8, 2048] {
        let (x, index) = (random(1, &[9, 2 * width]), Tensor::new(&[3u32, 0, 8, 8, 1], &candle_core::Device::Cpu)?);
        for (dtype, _) in FORMATS {
            let (there, here) = both(&cuda, &x, dtype)?;
            for (x, expected) in
                [(there.clone(), here.clone()), (there.narrow(1, width, width)?, here.narrow(1, width, width)?)]
            {
                let found = cuda.gather(&x, &index.to_device(&cuda.gpu.device)?)?;
                assert_eq!(distance(&found, &expected.contiguous()?.index_select(&index, 0)?)?, 0.0);
            }
        }
    }
    Ok(())
}
