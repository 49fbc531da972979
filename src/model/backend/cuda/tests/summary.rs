//! Summaries: noise, every filter, biases, allowed tokens and guidance, in both number formats.

use super::{cuda, random};
use crate::diffusion::{Credit, Draws, Position, Purpose, Seed, TokenId};
use crate::model::backend::inputs::Inputs;
use crate::model::backend::summary::{Answers, Guidance, Summary, SummaryOptions, Vocabulary};
use crate::model::backend::{Backend, Computed, cpu::Cpu};
use crate::model::sampling::{Change, Filter, Noise};
use candle_core::{DType, Result, Tensor};
use std::num::NonZeroU32;

/// The credits of some tokens.
type Held = Vec<(TokenId, f32)>;

/// How one row is summarised.
#[derive(Default)]
struct Ask {
    noise: Option<Noise>,
    biases: Vec<(TokenId, Change)>,
    /// Weight, power, and what is held.
    credit: Option<([f32; 2], Held)>,
    only: Option<Vec<TokenId>>,
    guidance: Option<Guidance>,
}

fn noise(position: u32, temperature: f64, filter: Filter) -> Option<Noise> {
    let draws = Draws::new(Seed(u64::from(position) << 33 | 5), Purpose::Token, position, Position(position));
    Some(Noise { temperature, draws, filter })
}

/// Every kind of option over a vocabulary; row 0 of the logits is the unguided one.
fn asks(size: usize) -> Vec<Ask> {
    let id = |at: usize| TokenId((at % size) as u32);
    let k = |top_k: u32| Filter { top_k: NonZeroU32::new(top_k), ..Filter::ALL };
    let p = |top_p: f32| Filter { top_p: Some(top_p), ..Filter::ALL };
    let filters = [
        k(1),
        k(5),
        k(100),
        k(u32::MAX),
        p(0.01),
        p(0.5),
        p(0.93),
        p(0.999),
        Filter { min_p: Some(0.2), ..Filter::ALL },
        Filter { min_p: Some(1.0), ..Filter::ALL },
        Filter { top_p: Some(0.8), ..k(7) },
        Filter { min_p: Some(0.05), top_p: Some(0.7), ..k(300) },
    ];
    let drawn = (1..).zip([0.0, 0.7, 1.0, 2.5]).map(|(at, temperature)| Ask {
        noise: noise(at, temperature, Filter::ALL).filter(|noise| noise.temperature > 0.0),
        ..Ask::default()
    });
    let filtered = (10..).zip(filters).flat_map(|(at, filter)| {
        [0.4, 1.3].map(|temperature| Ask { noise: noise(at, temperature, filter), ..Ask::default() })
    });
    let ban = Change::Add(f32::NEG_INFINITY);
    let banned: Vec<_> = (0..size / 2).rev().map(|at| (id(at), ban)).collect();
    // several changes of a token, in their order
    let changed =
        vec![(id(7), Change::Add(1.5)), (id(2), ban), (id(7), Change::Scale(1.7)), (id(7), Change::Add(0.25))];
    let scaled: Vec<_> = (0..size).step_by(2).map(|at| (id(at), Change::Scale(2.5))).collect();
    let listed: Vec<TokenId> = (0..size).rev().step_by(3).map(id).collect();
    let guidance = Some(Guidance { weight: 1.5, unguided: 0 });
    let held: Vec<_> = (0..size).step_by(3).map(|at| (id(at), 0.1 + (at % 7) as f32)).collect();
    let paper = Some(([0.7, 0.2], held.clone()));
    let credited = [
        Ask { credit: Some(([0.7, 0.2], Vec::new())), ..Ask::default() },
        Ask { credit: paper.clone(), biases: changed.clone(), ..Ask::default() },
        Ask { credit: paper.clone(), noise: noise(44, 1.0, p(0.8)), biases: scaled.clone(), ..Ask::default() },
        Ask { credit: Some(([9.0, 1.0], held)), only: Some(listed.clone()), guidance, ..Ask::default() },
        Ask { credit: paper, noise: noise(45, 0.9, Filter::ALL), only: Some(vec![id(3), id(5)]), ..Ask::default() },
    ];
    let others = [
        Ask { biases: changed, ..Ask::default() },
        Ask { biases: scaled.clone(), ..Ask::default() },
        Ask { biases: scaled, noise: noise(43, 1.2, p(0.7)), ..Ask::default() },
        Ask { biases: banned.clone(), noise: noise(40, 1.0, p(0.6)), ..Ask::default() },
        Ask { only: Some(listed.clone()), ..Ask::default() },
        Ask { only: Some(vec![id(3)]), biases: banned, ..Ask::default() },
        Ask { only: Some(listed), noise: noise(41, 0.9, k(2)), ..Ask::default() },
        Ask { guidance, ..Ask::default() },
        Ask { guidance, noise: noise(42, 0.8, p(0.9)), biases: vec![(id(1), Change::Add(-2.0))], ..Ask::default() },
    ];
    [Ask::default()].into_iter().chain(drawn).chain(filtered).chain(others).chain(credited).collect()
}

fn summaries(
    backend: &dyn Backend,
    logits: &Tensor,
    vocabulary: Vocabulary,
    options: &[SummaryOptions<'_>],
) -> Result<Answers> {
    let mut inputs = Inputs::default();
    let asks = backend.ask(options.to_vec(), &mut inputs);
    inputs.add([0]); // the CPU needs none
    backend.summaries(logits, vocabulary, &asks, &backend.bring(&inputs)?)
}

/// The numbers of two summaries are the same but for rounding, and the tokens are the same.
fn check(case: &str, logits: &Tensor, width: usize, vocabulary: Vocabulary) -> Result<()> {
    let cuda = cuda();
    let asks = asks(vocabulary.size);
    let listed: Vec<Option<Vec<TokenId>>> = asks
        .iter()
        .map(|ask| {
            ask.only.as_ref().map(|only| only.iter().copied().filter(|id| id.0 as usize != vocabulary.mask).collect())
        })
        .collect();
    let options: Vec<SummaryOptions<'_>> = asks
        .iter()
        .zip(&listed)
        .map(|(ask, only)| SummaryOptions {
            noise: ask.noise,
            biases: &ask.biases,
            credit: ask.credit.as_ref().map(|([weight, power], held)| Credit { weight: *weight, power: *power, held }),
            only: only.as_deref(),
            guidance: ask.guidance,
        })
        .collect();
    assert_eq!(logits.dims2()?, (options.len(), width));
    let expected = summaries(&Cpu, logits, vocabulary, &options)?.on_host()?;
    for dtype in [DType::F32, DType::BF16] {
        let there = logits.to_dtype(dtype)?.to_device(&cuda.gpu.device)?;
        let found = summaries(&cuda, &there, vocabulary, &options)?;
        let (found, _) = cuda.collect(Computed { answers: vec![found], qualities: Vec::new() })?;
        assert_eq!(found.len(), expected.len());
        for (row, (found, expected)) in found.into_iter().zip(&expected).enumerate() {
            assert_eq!(found.map(|s| s.token), expected.map(|s| s.token), "{case}, row {row}, {dtype:?}");
            let (Some(found), Some(expected)) = (found, expected) else { continue };
            let favourite = |s: &Summary| s.favourite.map(|(token, _)| token);
            assert_eq!(favourite(&found), favourite(expected), "{case}, row {row}, {dtype:?}");
            let numbers = |s: &Summary| {
                [
                    s.confidence.get(),
                    s.margin.get(),
                    s.entropy,
                    s.favourite.map_or(0.0, |(_, probability)| probability.get()),
                ]
            };
            for (a, b) in numbers(&found).into_iter().zip(numbers(expected)) {
                assert!(
                    (a - b).abs() < 2e-5 * b.abs().max(1.0),
                    "{case}, row {row}, {dtype:?}: {found:?} {expected:?}"
                );
            }
        }
    }
    Ok(())
}

/// Logits that a bf16 holds exactly, so that both formats have the same.
fn logits(seed: u64, size: usize, width: usize, spread: f64) -> Result<Tensor> {
    let rows = asks(size).len();
    random(seed, &[rows, width]).affine(spread, 0.0)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn summaries_are_the_cpus() -> Result<()> {
    let cases = [
        (9, 12, 4, 4.0),
        (264, 264, 263, 6.0),
        (1001, 1024, 0, 15.0),
        (6000, 6001, 5998, 3.0),
        (70_001, 70_016, 12, 9.0),
    ];
    for (seed, (size, width, mask, spread)) in (1..).zip(cases) {
        check(&format!("{size} tokens"), &logits(seed, size, width, spread)?, width, Vocabulary { size, mask })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn among_equals_the_lowest_id_is_taken_and_counted_first() -> Result<()> {
    for (size, mask) in [(500, 0), (2100, 2099)] {
        let rows = asks(size).len();
        let equal = Tensor::full(0.5f32, (rows, size), &candle_core::Device::Cpu)?;
        check("equal logits", &equal, size, Vocabulary { size, mask })?;
        // few values, each many times
        let few = random(3, &[rows, size]).affine(2.0, 0.0)?.round()?;
        check("few values", &few, size, Vocabulary { size, mask })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn a_logit_that_is_not_finite_ends_its_row_alone() -> Result<()> {
    let (size, mask) = (300, 299);
    let rows = asks(size).len();
    let mut numbers =
        random(1, &[rows, size]).flatten_all()?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    for (row, (at, number)) in
        [(3, (7, f32::NAN)), (12, (0, f32::INFINITY)), (20, (150, f32::NEG_INFINITY)), (5, (mask, f32::NAN))]
    {
        numbers[row * size + at] = number;
    }
    let logits = Tensor::from_vec(numbers, (rows, size), &candle_core::Device::Cpu)?;
    check("not finite", &logits, size, Vocabulary { size, mask })
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn answers_and_qualities_come_in_one_copy() -> Result<()> {
    let cuda = cuda();
    let logits = random(1, &[3, 50]).to_device(&cuda.gpu.device)?;
    let options = [SummaryOptions::default(); 3];
    let vocabulary = Vocabulary { size: 50, mask: 49 };
    let answers = (0..2).map(|_| summaries(&cuda, &logits, vocabulary, &options)).collect::<Result<Vec<Answers>>>()?;
    let qualities = vec![random(2, &[4]).to_device(&cuda.gpu.device)?, random(3, &[1]).to_device(&cuda.gpu.device)?];
    let before = cuda.counts();
    let (summaries, found) = cuda.collect(Computed { answers, qualities })?;
    let counts = cuda.counts() - before;
    assert_eq!((counts.copies, counts.waits), (1, 1));
    assert_eq!(summaries[..3], summaries[3..]);
    assert_eq!(found, [random(2, &[4]).to_vec1::<f32>()?, random(3, &[1]).to_vec1::<f32>()?].concat());
    Ok(())
}
