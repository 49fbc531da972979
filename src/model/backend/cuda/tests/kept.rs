//! Keys and values that are kept: how they get into the store, and passes that use them.

use super::super::Cuda;
use super::model::{compare, directory, load};
use super::{FORMATS, both, cuda, distance, random};
use crate::diffusion::{Canvas, Cell, Reading, Reuse, TokenId};
use crate::model::backend::inputs::Inputs;
use crate::model::backend::{Backend, Part, Span, cpu::Cpu};
use crate::model::interface::Denoiser;
use crate::model::row::{Row, SequenceName};
use candle_core::{DType, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn keys_and_values_go_into_their_slots_and_nothing_else_changes() -> Result<()> {
    let cuda = cuda();
    let ranges = vec![(4..9, 16), (0..1, 3), (9..12, 21)];
    for width in [3, 8, 2048] {
        let (tokens, store) = (random(1, &[12, 3 * width]), [random(2, &[30, width]), random(3, &[30, width])]);
        for (dtype, _) in FORMATS {
            let fresh = |x: &Tensor| {
                let part = |n: usize| x.narrow(1, n * width, width).unwrap();
                [part(1), part(2)] // behind the queries, as a fused product leaves them
            };
            let (there, here) = both(&cuda, &tokens, dtype)?;
            let pairs: Vec<(Tensor, Tensor)> = store.iter().map(|x| both(&cuda, x, dtype)).collect::<Result<_>>()?;
            let kept = [pairs[0].0.clone(), pairs[1].0.clone()];
            let expected = [pairs[0].1.copy()?, pairs[1].1.copy()?];
            let mut inputs = Inputs::default();
            Cpu.keep(&fresh(&here), &expected, &Cpu.lay_out_kept(ranges.clone(), &mut inputs), &tokens)?;
            // filled up, as recorded passes are
            let mut inputs = Inputs::filled_up_by(|rows| rows.next_multiple_of(16));
            inputs.add([5; 7]);
            let keeping = cuda.lay_out_kept(ranges.clone(), &mut inputs);
            let words = cuda.bring(&inputs)?;
            let before = cuda.counts();
            cuda.keep(&fresh(&there), &kept, &keeping, &words)?;
            assert_eq!((cuda.counts() - before).launches, 1);
            for (kept, expected) in kept.iter().zip(&expected) {
                assert_eq!(distance(kept, expected)?, 0.0, "{width} {dtype:?}");
            }
            let nothing = cuda.lay_out_kept(Vec::new(), &mut inputs);
            let before = cuda.counts();
            cuda.keep(&fresh(&there), &kept, &nothing, &words)?;
            assert_eq!((cuda.counts() - before).launches, 0);
        }
    }
    Ok(())
}

/// A recorded pass is replayed for all passes of its shape, so what a shape does not tell must be
/// among the words that are brought anew.
#[test]
fn slots_are_words_of_a_pass_and_not_of_its_shape() {
    let cuda = Cuda::new(candle_core::Device::Cpu, true);
    let inputs = |kept: Vec<(Range<usize>, usize)>, keys: Vec<Part>| {
        let mut inputs = cuda.inputs();
        inputs.add([7; 6]);
        cuda.lay_out_kept(kept, &mut inputs);
        cuda.lay_out(vec![Span { queries: 0..6, keys }], &mut inputs);
        inputs
    };
    let keys = |slot: usize| vec![Part::Kept(slot..slot + 30), Part::Fresh(0..6)];
    let (first, second) = (inputs(vec![(0..6, 48)], keys(16)), inputs(vec![(0..6, 80)], keys(112)));
    assert_eq!(first.shape, second.shape);
    assert_eq!(first.words.iter().zip(&second.words).filter(|(a, b)| a != b).count(), 6 + 30);
    let others = [inputs(vec![], keys(16)), inputs(vec![(0..6, 48)], vec![Part::Fresh(0..6)])];
    assert!(others.iter().all(|other| other.shape != first.shape), "other kernels run");
}

#[test]
fn the_blocks_of_a_row_share_a_list_of_keys() {
    let cuda = Cuda::new(candle_core::Device::Cpu, false);
    let row = |slot: usize, keys: usize| vec![Part::Kept(slot..slot + 20), Part::Fresh(0..keys)];
    let spans = [(0..4, row(64, 4)), (4..8, row(64, 8)), (8..9, row(16, 12)), (9..12, row(16, 5))];
    let spans = spans.map(|(queries, keys)| Span { queries, keys });
    let mut inputs = cuda.inputs();
    let tiles = cuda.lay_out(spans.to_vec(), &mut inputs).tiles.unwrap();
    let places: Vec<&[u32]> = inputs.words[tiles.tiles].chunks(4).map(|tile| &tile[2..]).collect();
    assert_eq!(places, [[0, 24], [0, 28], [28, 32], [60, 25]]);
    let numbered = |slot: u32, keys: u32| (slot..slot + 20).map(|slot| 1 << 31 | slot).chain(0..keys);
    let rows: Vec<u32> = numbered(64, 8).chain(numbered(16, 12)).chain(numbered(16, 5)).collect();
    assert_eq!(inputs.words[tiles.keys.unwrap()], rows);
}

const LENGTHS: [usize; 3] = [20, 37, 9];

fn canvas(length: usize, sequence: usize, pass: usize) -> Canvas {
    let cell = |at: usize| match at % 4 {
        0 if at < length / 2 => Cell::Fixed(TokenId((at * 7 + sequence) as u32 % 250)),
        1 => Cell::Filled(TokenId((at * 13 + sequence) as u32 % 250)),
        2 if at / 4 % 3 < pass => Cell::Filled(TokenId((at * 5) as u32 % 250)),
        _ => Cell::Blank,
    };
    Canvas::new((0..length).map(cell).collect())
}

/// Readings of a full pass over some sequences, and of passes that use its keys and values.
fn readings(model: &mut dyn Denoiser, first_sequence: usize) -> Vec<Reading> {
    let bases = [0, 1, 2].map(|index| canvas(LENGTHS[index], first_sequence + index, 0));
    let mut all = Vec::new();
    for pass in 0..3 {
        let canvases = [0, 1, 2].map(|index| canvas(LENGTHS[index], first_sequence + index, pass));
        let row = |index: usize| {
            let (canvas, base, length) = (&canvases[index], &bases[index], LENGTHS[index]);
            let run = if pass == 0 { 0..length } else { length / 3..length - 2 };
            let reuse = Reuse { base, run: vec![run.clone()], seen: vec![0..length] };
            Row {
                reuse: Some((SequenceName((first_sequence + index) as u64), reuse)),
                guidance: (index == 1).then_some(0.6),
                present: true,
                ..Row::plain(canvas, run)
            }
        };
        // a row without a store among those with one
        let rows = [row(0), row(1), row(2), Row::plain(&canvases[0], 0..LENGTHS[0])];
        all.extend(model.read(&rows).unwrap().into_iter().map(std::result::Result::unwrap));
        let name = SequenceName((first_sequence + 2) as u64);
        assert!(model.kept().unwrap().sequences.contains(&name));
        assert!(pass == 0 || model.tokens(&rows[2]) < LENGTHS[2]);
    }
    (0..3).for_each(|index| model.forget(SequenceName((first_sequence + index) as u64)));
    all
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn passes_that_use_kept_keys_and_values_read_what_the_cpu_reads() {
    check("llada-tiny", 5); // the third time is recorded on a GPU, and later ones replayed
}

#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn so_do_those_of_a_block_causal_model() {
    check("remedi-tiny", 1);
}

fn check(model: &str, times: u64) {
    let source = directory(model);
    let gpu = cuda();
    let mut expected = load(&source, Arc::new(Cpu), DType::F32);
    let mut alone = load(&source, Arc::new(gpu.clone()), DType::F32);
    let mut graphs = load(&source, Arc::new(Cuda::new(gpu.device(), true)), DType::F32);
    // sequences that stay, so that the same passes meet other slots
    let held = canvas(33, 50, 0);
    for time in 0..times {
        let hold = reusing(1000 + time, &Row::plain(&held, 0..33));
        for model in [&mut expected, &mut alone, &mut graphs] {
            model.read(std::slice::from_ref(&hold)).unwrap();
        }
        let first = 10 * time as usize;
        let expected = readings(expected.as_mut(), first);
        compare(&readings(alone.as_mut(), first), &expected);
        compare(&readings(graphs.as_mut(), first), &expected);
    }
}

/// The row, and all that it computes is kept.
fn reusing<'a>(sequence: u64, row: &Row<'a>) -> Row<'a> {
    let all = [row.window.clone()];
    let reuse = Reuse { base: row.canvas, run: all.clone().into(), seen: all.into() };
    Row { reuse: Some((SequenceName(sequence), reuse)), ..row.clone() }
}

/// One more launch a layer than in a pass without a store, and none where nothing new is kept.
#[test]
#[ignore = "needs the program that .ci/kernels builds, or a GPU"]
fn what_is_kept_of_a_layer_takes_one_launch_whatever_the_number_of_rows() {
    let backend = cuda();
    let mut model = load(&directory("llada-tiny"), Arc::new(backend.clone()), DType::F32);
    let canvases: Vec<Canvas> = (0..5).map(|index| canvas(20 + index, index, 0)).collect();
    let plain: Vec<Row<'_>> = canvases.iter().map(|canvas| Row::plain(canvas, 0..canvas.len())).collect();
    let reusing: Vec<Row<'_>> = (0..).zip(&plain).map(|(index, row)| reusing(index, row)).collect();
    let mut counts = |rows: &[Row<'_>]| {
        let before = backend.counts();
        model.read(rows).unwrap();
        backend.counts() - before
    };
    let (plain, kept, again) = (counts(&plain), counts(&reusing), counts(&reusing));
    assert_eq!((kept.launches - plain.launches, kept.copies, kept.waits), (2, plain.copies, plain.waits));
    assert_eq!(again, plain);
}
