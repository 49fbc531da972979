//! Attention: rows of random lengths, grouped heads, some of the queries, both masks, and keys that
//! lie in a store.

use super::super::Cuda;
use super::super::attention::{Mask, attention, lay_out};
use super::{FORMATS, below, both, cuda, distance, random};
use crate::model::backend::inputs::Inputs;
use crate::model::backend::{Backend, KeysValues, Part, Span, Spans, cpu::Cpu};
use candle_core::{DType, Result, Tensor};
use std::ops::Range;

/// Rows laid end to end, each with the queries that are asked for.
fn spans(lengths: &[(usize, usize)]) -> Vec<Span> {
    let (mut query, mut key) = (0, 0);
    let span = |(queries, keys): &(usize, usize)| {
        let span = Span::of(query..query + queries, key..key + keys);
        (query, key) = (query + queries, key + keys);
        span
    };
    lengths.iter().map(span).collect()
}

/// The keys of a span of [`spans`].
fn keys(span: &Span) -> Range<usize> {
    match &span.keys[..] {
        [Part::Fresh(keys)] => keys.clone(),
        other => panic!("{other:?}"),
    }
}

/// q, k and v of heads of width `d`, side by side as a fused product leaves them.
fn tensors(seed: u64, queries: usize, keys: usize, heads: usize, kv_heads: usize, d: usize) -> Result<[Tensor; 3]> {
    let q = random(seed, &[queries, heads * d]).affine(2.0, 0.0)?;
    let kv = random(seed + 1, &[keys, 2 * kv_heads * d]);
    Ok([q, kv.narrow(1, 0, kv_heads * d)?, kv.narrow(1, kv_heads * d, kv_heads * d)?])
}

/// The same for spans of [`spans`].
fn parts(seed: u64, spans: &[Span], heads: usize, kv_heads: usize, d: usize) -> Result<[Tensor; 3]> {
    let last = spans.last().unwrap();
    tensors(seed, last.queries.end, keys(last).end, heads, kv_heads, d)
}

fn fresh(k: &Tensor, v: &Tensor) -> KeysValues<'static> {
    KeysValues { fresh: [k.clone(), v.clone()], kept: None }
}

fn on_cpu(q: &Tensor, kv: &KeysValues<'_>, d: usize, spans: Vec<Span>) -> Result<Tensor> {
    let [k, v] = &kv.fresh;
    let kv = KeysValues { fresh: [k.contiguous()?, v.contiguous()?], kept: kv.kept };
    Cpu.attention(q, &kv, d, &Spans { spans, tiles: None }, q)
}

fn on_gpu(cuda: &Cuda, q: &Tensor, kv: &KeysValues<'_>, d: usize, spans: &[Span], mask: Mask) -> Result<Tensor> {
    let mut inputs = Inputs::default();
    let tiles = lay_out(spans, mask, &mut inputs);
    attention(&cuda.gpu, q, kv, d, &tiles, &cuda.bring(&inputs)?)
}

fn numbers(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    x.to_dtype(DType::F32)?.to_vec2()
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
            let asked = spans.iter().filter(|span| !span.queries.is_empty()).cloned().collect();
            let expected = on_cpu(&q_cpu, &fresh(&k_cpu, &v_cpu), d, asked)?;
            let found = on_gpu(&cuda, &q, &fresh(&k, &v), d, &spans, Mask::Full)?;
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
        let spans = spans(&[(length, length), (9, 9)]);
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
                    seen.push(Span::of(queries, keys(row).start..keys(row).start + end));
                    start = end;
                }
            }
            let expected = on_cpu(&q_cpu, &fresh(&k_cpu, &v_cpu), d, seen)?;
            let found = on_gpu(&cuda, &q, &fresh(&k, &v), d, &spans, mask)?;
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
        let all = on_gpu(&cuda, &q, &fresh(&k, &v), d, &spans, Mask::Full)?;
        for span in &spans[..2] {
            let (queries, keys) = (&span.queries, &keys(span));
            let part = |x: &Tensor, range: &Range<usize>| x.narrow(0, range.start, range.len());
            let kv = fresh(&part(&k, keys)?, &part(&v, keys)?);
            let alone = [Span::of(0..queries.len(), 0..keys.len())];
            let alone = on_gpu(&cuda, &part(&q, queries)?, &kv, d, &alone, Mask::Full)?;
            assert_eq!(numbers(&alone)?, numbers(&part(&all, queries)?)?);
        }
    }
    Ok(())
}

/// Keys of a span, by turns fresh ones and kept ones, of random lengths and from random places on.
fn mixed(seed: u64, tokens: usize, slots: usize, parts: usize) -> Vec<Part> {
    let part = |n: usize| {
        let seed = seed * 100 + 3 * n as u64;
        let among = if n.is_multiple_of(2) { slots } else { tokens };
        let start = below(seed, among);
        let range = start..start + 1 + below(seed + 1, among - start);
        if n.is_multiple_of(2) { Part::Kept(range) } else { Part::Fresh(range) }
    };
    (0..parts).map(part).collect()
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn attention_to_kept_and_fresh_keys_is_the_cpus() -> Result<()> {
    let (cuda, tokens, slots) = (cuda(), 90, 130);
    // queries and parts of each row; heads, those of keys, their width; columns before the store's
    let cases = [
        (vec![(1, 1)], 1, 1, 64, 0),
        (vec![(5, 3), (64, 1), (17, 6)], 4, 2, 128, 0),
        (vec![(70, 4), (0, 2), (3, 5)], 4, 1, 64, 8),
        (vec![(40, 4), (9, 3)], 2, 2, 96, 4), // not at multiples of 16 bytes
        (vec![(20, 3), (6, 2)], 3, 1, 20, 0),
        (vec![(1030, 5), (7, 2)], 2, 1, 128, 0), // the long form
    ];
    for (index, (rows, heads, kv_heads, d, before)) in cases.into_iter().enumerate() {
        let mut query = 0;
        let span = |(row, (queries, parts)): (usize, &(usize, usize))| {
            query += queries;
            let keys = mixed((index * 10 + row) as u64, tokens, slots, *parts);
            Span { queries: query - queries..query, keys }
        };
        let mut spans: Vec<Span> = rows.iter().enumerate().map(span).collect();
        spans.push(Span::of(query..query + 2, 4..tokens)); // a row without kept keys
        let parts = tensors(index as u64, query + 2, tokens, heads, kv_heads, d)?;
        let store = [7, 8].map(|seed| random(seed + index as u64, &[slots, before + kv_heads * d]));
        for (dtype, allowed) in FORMATS {
            let pair = |n: usize| both(&cuda, &parts[n], dtype);
            let ((q, q_cpu), (k, k_cpu), (v, v_cpu)) = (pair(0)?, pair(1)?, pair(2)?);
            let stored = |n: usize| {
                let (there, here) = both(&cuda, &store[n], dtype)?;
                let own = |x: Tensor| x.narrow(1, before, kv_heads * d);
                Ok::<_, candle_core::Error>((own(there)?, own(here)?.contiguous()?))
            };
            let ((kept_k, kept_k_cpu), (kept_v, kept_v_cpu)) = (stored(0)?, stored(1)?);
            let asked = spans.iter().filter(|span| !span.queries.is_empty()).cloned().collect();
            let kept_cpu = [kept_k_cpu, kept_v_cpu];
            let kv_cpu = KeysValues { kept: Some(&kept_cpu), ..fresh(&k_cpu, &v_cpu) };
            let expected = on_cpu(&q_cpu, &kv_cpu, d, asked)?;
            let kept = [kept_k, kept_v];
            let kv = KeysValues { kept: Some(&kept), ..fresh(&k, &v) };
            let off = distance(&on_gpu(&cuda, &q, &kv, d, &spans, Mask::Full)?, &expected)?;
            assert!(off < allowed, "{rows:?}, {heads} heads of {d}, {dtype:?}: {off}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_query_has_the_same_numbers_wherever_its_keys_lie() -> Result<()> {
    let cuda = cuda();
    for (d, lengths) in [(128, &[(150, 150), (70, 70)][..]), (64, &[(1000, 80), (30, 300)]), (20, &[(60, 60)])] {
        let side = spans(lengths);
        let last = keys(side.last().unwrap()).end;
        let parts = parts(11, &side, 4, 2, d)?;
        // keys by turns of five: stored in reverse order of the turns, or left where they are
        let turns: Vec<Range<usize>> = (0..last).step_by(5).map(|first| first..(first + 5).min(last)).collect();
        let slot = |turn: usize| (turns.len() - turn) * 5;
        let spread = |span: &Span| {
            let part = |key: usize| match key / 5 {
                turn if turn.is_multiple_of(2) => Part::Kept(slot(turn) + key % 5..slot(turn) + key % 5 + 1),
                _ => Part::Fresh(key..key + 1),
            };
            Span { queries: span.queries.clone(), keys: keys(span).map(part).collect() }
        };
        let spread: Vec<Span> = side.iter().map(spread).collect();
        for (dtype, _) in FORMATS {
            let [q, k, v] = [0, 1, 2].map(|n| both(&cuda, &parts[n], dtype).unwrap().0);
            let store = |x: &Tensor| {
                let store = Tensor::zeros(((turns.len() + 1) * 5, 2 * d), dtype, &cuda.gpu.device)?;
                for (turn, keys) in turns.iter().enumerate() {
                    store.slice_set(&x.narrow(0, keys.start, keys.len())?.contiguous()?, 0, slot(turn))?;
                }
                Ok::<_, candle_core::Error>(store)
            };
            let kept = [store(&k)?, store(&v)?];
            // what was stored is not read where it was
            let erased = |x: &Tensor| {
                let numbers = (0..last).map(|key| if key / 5 % 2 == 0 { f32::NAN } else { 1.0 }).collect::<Vec<_>>();
                x.broadcast_mul(&Tensor::from_vec(numbers, (last, 1), &cuda.gpu.device)?.to_dtype(dtype)?)
            };
            let kv = KeysValues { fresh: [erased(&k)?, erased(&v)?], kept: Some(&kept) };
            for mask in [Mask::Full, Mask::Blocks { first: 7, length: 16 }] {
                if mask != Mask::Full && side.iter().any(|span| span.queries.len() > keys(span).len()) {
                    continue; // a mask of blocks is for queries that are keys
                }
                let expected = on_gpu(&cuda, &q, &fresh(&k, &v), d, &side, mask)?;
                let found = on_gpu(&cuda, &q, &kv, d, &spread, mask)?;
                assert_eq!(numbers(&found)?, numbers(&expected)?, "{d} {dtype:?} {mask:?}");
            }
        }
    }
    Ok(())
}
