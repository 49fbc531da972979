//! Attention: rows of random lengths, grouped heads, some of the queries, both masks.

use super::super::Cuda;
use super::super::attention::{Mask, attention, lay_out};
use super::{FORMATS, below, both, cuda, distance, random};
use crate::model::backend::inputs::Inputs;
use crate::model::backend::{Backend, Span, Spans, cpu::Cpu};
use candle_core::{Result, Tensor};

/// Rows laid end to end, each with the queries that are asked for.
fn spans(lengths: &[(usize, usize)]) -> Vec<Span> {
    let (mut query, mut key) = (0, 0);
    let span = |(queries, keys): &(usize, usize)| {
        let span = Span { queries: query..query + queries, keys: key..key + keys };
        (query, key) = (query + queries, key + keys);
        span
    };
    lengths.iter().map(span).collect()
}

/// q, k and v of heads of width `d`, side by side as a fused product leaves them.
fn parts(seed: u64, spans: &[Span], heads: usize, kv_heads: usize, d: usize) -> Result<[Tensor; 3]> {
    let last = spans.last().unwrap();
    let q = random(seed, &[last.queries.end, heads * d]).affine(2.0, 0.0)?;
    let kv = random(seed + 1, &[last.keys.end, 2 * kv_heads * d]);
    Ok([q, kv.narrow(1, 0, kv_heads * d)?, kv.narrow(1, kv_heads * d, kv_heads * d)?])
}

fn on_cpu(qkv: [&Tensor; 3], d: usize, spans: Vec<Span>) -> Result<Tensor> {
    Cpu.attention(qkv, d, &Spans { spans, tiles: None }, qkv[0])
}

fn on_gpu(cuda: &Cuda, qkv: [&Tensor; 3], d: usize, spans: &[Span], mask: Mask) -> Result<Tensor> {
    let mut inputs = Inputs::default();
    let tiles = lay_out(spans, mask, &mut inputs);
    attention(&cuda.gpu, qkv, d, &tiles, &cuda.bring(&inputs)?)
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn attention_is_the_cpus() -> Result<()> {
    let cuda = cuda();
    let random_length = |seed: u64| 1 + below(seed, 700);
    let cases = [
        (vec![(1, 1)], 1, 1, 64),
        (vec![(5, 5), (64, 64), (17, 17)], 4, 2, 128),
        (vec![(random_length(1), random_length(1))], 2, 1, 128),
        (vec![(3, random_length(2)), (0, 9), (70, random_length(3).max(70))], 4, 4, 64),
        (vec![(33, 40), (129, 129)], 2, 2, 96),
        (vec![(65, 65), (7, 200)], 4, 1, 32),
        (vec![(20, 20), (6, 50)], 3, 1, 20),
        (vec![(900, 900), (130, 130)], 1, 1, 128), // the long form
        (vec![(1030, 90)], 2, 1, 48),
    ];
    for (index, (lengths, heads, kv_heads, d)) in cases.into_iter().enumerate() {
        let spans = spans(&lengths);
        let tensors = parts(index as u64, &spans, heads, kv_heads, d)?;
        for (dtype, allowed) in FORMATS {
            let pair = |n: usize| both(&cuda, &tensors[n], dtype);
            let ((q, q_cpu), (k, k_cpu), (v, v_cpu)) = (pair(0)?, pair(1)?, pair(2)?);
            let expected = {
                let spans = spans.iter().filter(|span| !span.queries.is_empty()).cloned().collect();
                let [k, v] = [k_cpu.contiguous()?, v_cpu.contiguous()?];
                on_cpu([&q_cpu, &k, &v], d, spans)?
            };
            let found = on_gpu(&cuda, [&q, &k, &v], d, &spans, Mask::Full)?;
            let off = distance(&found, &expected)?;
            assert!(off < allowed, "{lengths:?}, {heads} heads of {d}, {dtype:?}: {off}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn under_a_block_causal_mask_a_query_sees_its_block_and_those_before() -> Result<()> {
    let cuda = cuda();
    for (length, first, block, heads, kv_heads, d) in
        [(200, 0, 32, 2, 1, 128), (130, 10, 7, 2, 2, 64), (90, 3, 64, 1, 1, 128), (50, 0, 16, 2, 1, 24)]
    {
        let spans = vec![
            Span { queries: 0..length, keys: 0..length },
            Span { queries: length..length + 9, keys: length..length + 9 },
        ];
        let tensors = parts(block as u64, &spans, heads, kv_heads, d)?;
        let mask = Mask::Blocks { first, length: block };
        for (dtype, allowed) in FORMATS {
            let pair = |n: usize| both(&cuda, &tensors[n], dtype);
            let ((q, q_cpu), (k, k_cpu), (v, v_cpu)) = (pair(0)?, pair(1)?, pair(2)?);
            // each block of queries is a span of its own
            let mut seen = Vec::new();
            for row in &spans {
                let mut start = 0;
                while start < row.queries.len() {
                    let end = if start < first { first } else { start + block }.min(row.queries.len());
                    let queries = row.queries.start + start..row.queries.start + end;
                    seen.push(Span { queries, keys: row.keys.start..row.keys.start + end });
                    start = end;
                }
            }
            let expected = {
                let [k, v] = [k_cpu.contiguous()?, v_cpu.contiguous()?];
                on_cpu([&q_cpu, &k, &v], d, seen)?
            };
            let found = on_gpu(&cuda, [&q, &k, &v], d, &spans, mask)?;
            let off = distance(&found, &expected)?;
            assert!(off < allowed, "blocks of {block} from {first} on, {dtype:?}: {off}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_row_has_the_same_numbers_alone_and_among_others() -> Result<()> {
    let (cuda, d) = (cuda(), 128);
    let lengths = [(40, 40), (100, 100), (1000, 30)]; // together they take the long form
    let spans = spans(&lengths);
    let tensors = parts(7, &spans, 2, 1, d)?;
    for (dtype, _) in FORMATS {
        let [q, k, v] = [0, 1, 2].map(|n| both(&cuda, &tensors[n], dtype).unwrap().0);
        let all = on_gpu(&cuda, [&q, &k, &v], d, &spans, Mask::Full)?;
        for Span { queries, keys } in &spans[..2] {
            let part = |x: &Tensor, range: &std::ops::Range<usize>| x.narrow(0, range.start, range.len());
            let alone = [Span { queries: 0..queries.len(), keys: 0..keys.len() }];
            let parts = [&part(&q, queries)?, &part(&k, keys)?, &part(&v, keys)?];
            let alone = on_gpu(&cuda, parts, d, &alone, Mask::Full)?;
            let among = part(&all, queries)?;
            assert_eq!(
                alone.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?,
                among.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?
            );
        }
    }
    Ok(())
}
