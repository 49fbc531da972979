//! Attention with gradients: rows of different lengths, grouped heads and heads of many widths.

use super::super::attention_training::{attended, attended_gradients, lay_out_rows};
use super::{FORMATS, below, both, cuda, distance, random};
use crate::model::backend::cpu::Cpu;
use crate::model::backend::training::{Attended, Training};
use candle_core::{DType, Result, Tensor};

/// Heads, heads of keys, their width, and the lengths of rows.
const SHAPES: [(usize, usize, usize, &[usize]); 7] = [
    (2, 2, 64, &[7, 65, 64, 1]),
    (4, 2, 32, &[130, 3]),
    (3, 1, 8, &[200]),
    (2, 1, 128, &[70, 70, 9]),
    (1, 1, 80, &[33, 65]),
    (6, 3, 24, &[1, 1, 128]),
    (2, 2, 6, &[5, 5, 9]), // no kernel takes it
];

/// q, k, v and the gradient of the result.
fn tensors(seed: u64, tokens: usize, (heads, kv_heads, d): (usize, usize, usize)) -> Result<[Tensor; 4]> {
    let of = |n: u64, count: usize| random(seed + n, &[tokens, count * d]);
    Ok([of(0, heads).affine(2.0, 0.0)?, of(1, kv_heads), of(2, kv_heads), of(3, heads)])
}

fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn attention_and_its_gradients_are_the_cpus() -> Result<()> {
    let cuda = cuda();
    for (heads, kv_heads, d, lengths) in SHAPES {
        for (dtype, allowed) in FORMATS {
            let all = tensors(1, lengths.iter().sum(), (heads, kv_heads, d))?;
            let [q, k, v, grad] = all.map(|x| both(&cuda, &x, dtype).unwrap());
            let (there, here) = ([&q.0, &k.0, &v.0], [&q.1, &k.1, &v.1]);
            let (rows, rows_cpu) = (lay_out_rows(&cuda.gpu, lengths)?, Cpu.lay_out_rows(lengths)?);
            let (found, expected) = (attended(&cuda.gpu, there, d, &rows)?, Cpu.attended(here, d, &rows_cpu)?);
            let off = distance(&found.mixed, &expected.mixed)?;
            assert!(off < allowed, "{heads} {kv_heads} {d} {lengths:?} {dtype:?}: {off}");
            assert_eq!(found.kept.len(), usize::from(dtype == DType::BF16 && d != 6), "no scores are kept");
            let found = attended_gradients(&cuda.gpu, there, d, &rows, &found, &grad.0)?;
            let expected = Cpu.attended_gradients(here, d, &rows_cpu, &expected, &grad.1)?;
            for ((name, found), expected) in ["q", "k", "v"].iter().zip(found).zip(expected) {
                let off = distance(&found, &expected)?;
                // bf16 rounds scores and their slopes on the way
                assert!(off < 1.5 * allowed, "{name} of {heads} {kv_heads} {d} {lengths:?} {dtype:?}: {off}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn what_is_kept_are_the_logarithms_of_the_sums() -> Result<()> {
    let (cuda, lengths, d) = (cuda(), [70usize, 3], 16);
    let [q, k, v, _] = tensors(7, 73, (2, 1, d))?.map(|x| both(&cuda, &x, DType::BF16).unwrap());
    let found = attended(&cuda.gpu, [&q.0, &k.0, &v.0], d, &lay_out_rows(&cuda.gpu, &lengths)?)?;
    let (q, k) = (q.1.to_vec2::<f32>()?, k.1.to_vec2::<f32>()?);
    for token in [0, 69, 70, 72] {
        let row = if token < 70 { 0..70 } else { 70..73 };
        for head in 0..2 {
            let score =
                |key: usize| -> f32 { (0..d).map(|at| q[token][head * d + at] * k[key][at]).sum::<f32>() / 4.0 };
            let expected = row.clone().map(|key| score(key).exp()).sum::<f32>().log2();
            let found = found.kept[0].get(token)?.get(head)?.to_scalar::<f32>()?;
            assert!((found - expected).abs() < 1e-3, "{token} {head}: {found} {expected}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn scores_far_below_zero_keep_their_shares() -> Result<()> {
    let (cuda, lengths, d) = (cuda(), [70usize, 3], 16);
    let [q, k, v, grad] = tensors(8, 73, (2, 1, d))?;
    // scores of about -32 * 16 / 4, which differ little between keys
    let (q, k) = (q.affine(0.1, 16.0)?, k.affine(0.1, -2.0)?);
    let [q, k, v, grad] = [q, k, v, grad].map(|x| both(&cuda, &x, DType::BF16).unwrap());
    let (there, here) = ([&q.0, &k.0, &v.0], [&q.1, &k.1, &v.1]);
    let (rows, rows_cpu) = (lay_out_rows(&cuda.gpu, &lengths)?, Cpu.lay_out_rows(&lengths)?);
    let (found, expected) = (attended(&cuda.gpu, there, d, &rows)?, Cpu.attended(here, d, &rows_cpu)?);
    let highest = found.kept[0].max_all()?.to_scalar::<f32>()?;
    assert!(highest < -100.0, "the scores are as low as the test needs them: {highest}");
    assert!(distance(&found.mixed, &expected.mixed)? < 0.02);
    let found = attended_gradients(&cuda.gpu, there, d, &rows, &found, &grad.0)?;
    let expected = Cpu.attended_gradients(here, d, &rows_cpu, &expected, &grad.1)?;
    // not of q, in whose sum the part that keys have in common cancels, up to the rounding of bf16
    for ((name, found), expected) in ["q", "k", "v"].iter().zip(found).zip(expected).skip(1) {
        let off = distance(&found, &expected)?;
        assert!(off < 0.03, "{name}: {off}");
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn other_shapes_are_refused() -> Result<()> {
    let (cuda, d) = (cuda(), 16);
    let [q, k, v, grad] = tensors(9, 8, (2, 1, d))?.map(|x| both(&cuda, &x, DType::BF16).unwrap().0);
    let rows = lay_out_rows(&cuda.gpu, &[8])?;
    let refused = |qkv: [&Tensor; 3], rows: &_| attended(&cuda.gpu, qkv, d, rows).err().unwrap().to_string();
    assert!(refused([&q, &k, &v.narrow(0, 0, 7)?], &rows).contains("v has the shape [7, 16]"));
    assert!(refused([&q, &k, &v], &lay_out_rows(&cuda.gpu, &[9])?).contains("[9, 32]"));
    assert!(refused([&k, &q, &q], &rows).contains("1 heads of queries cannot share 2 of keys"));
    let done = attended(&cuda.gpu, [&q, &k, &v], d, &rows)?;
    let short = grad.narrow(1, 0, d)?;
    let refused = attended_gradients(&cuda.gpu, [&q, &k, &v], d, &rows, &done, &short).err().unwrap();
    assert!(refused.to_string().contains("the gradient has the shape [8, 16]"), "{refused}");
    Ok(())
}

/// The results for some rows, in words, and the gradients.
fn whole(seed: u64, d: usize, lengths: &[usize]) -> Result<[Vec<f32>; 4]> {
    let cuda = cuda();
    let all = tensors(seed, lengths.iter().sum(), (2, 1, d))?;
    let [q, k, v, grad] = all.map(|x| both(&cuda, &x, DType::BF16).unwrap().0);
    let rows = lay_out_rows(&cuda.gpu, lengths)?;
    let done: Attended = attended(&cuda.gpu, [&q, &k, &v], d, &rows)?;
    let [of_q, of_k, of_v] = attended_gradients(&cuda.gpu, [&q, &k, &v], d, &rows, &done, &grad)?;
    Ok([numbers(&done.mixed)?, numbers(&of_q)?, numbers(&of_k)?, numbers(&of_v)?])
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn numbers_are_always_the_same_and_do_not_depend_on_other_rows() -> Result<()> {
    let first = 60 + below(3, 20);
    let (one, again) = (whole(5, 64, &[first, 90])?, whole(5, 64, &[first, 90])?);
    assert_eq!(one, again);
    // random numbers are drawn in order, so the first row has the same ones alone
    let alone = whole(5, 64, &[first])?;
    for (one, alone) in one.iter().zip(&alone) {
        assert_eq!(one[..alone.len()], alone[..]);
    }
    Ok(())
}
