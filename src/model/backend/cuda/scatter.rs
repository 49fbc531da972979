//! Sums of rows by an index on a GPU: the host groups the index by the rows of the result, and the
//! device adds each group up in order.

use super::call::{Call, Output, form, is_packed, stride, word};
use super::gpu::{Gpu, THREADS};
use super::rows::{PACK, expect, threads};
use crate::diffusion::u32_of;
use candle_core::{DType, Result, Tensor, bail};
use std::ops::Range;

/// Most rows that one block adds up. A row of the result with more, such as that of the mask token,
/// is the sum of several blocks.
const SEGMENT: usize = 128;

/// Which rows are added up, in the words that the kernel reads.
#[derive(Debug, PartialEq)]
struct Groups {
    words: Vec<u32>,
    /// Places among the words of the rows that are added up, group by group.
    sources: Range<usize>,
    /// Where among these each group begins, and where the last ends.
    starts: Range<usize>,
    /// Where groups were cut, where the groups of each row of the result begin among them.
    rows: Option<Range<usize>>,
}

impl Groups {
    /// `index` has numbers below `rows`.
    fn of(index: &[u32], rows: usize) -> Self {
        let mut starts = vec![0u32; rows + 1];
        index.iter().for_each(|at| starts[*at as usize + 1] += 1);
        let mut sum = 0;
        starts.iter_mut().for_each(|start| {
            sum += *start;
            *start = sum;
        });
        let (mut next, mut words) = (starts.clone(), vec![0; index.len()]);
        for (source, at) in (0..).zip(index) {
            let next = &mut next[*at as usize];
            words[*next as usize] = source;
            *next += 1;
        }
        let sources = 0..words.len();
        let mut add = |more: &[u32]| {
            words.extend(more);
            words.len() - more.len()..words.len()
        };
        if starts.windows(2).all(|pair| (pair[1] - pair[0]) as usize <= SEGMENT) {
            let starts = add(&starts);
            return Self { words, sources, starts, rows: None };
        }
        let (mut segments, mut firsts) = (Vec::new(), vec![0]);
        for pair in starts.windows(2) {
            segments.extend((pair[0]..pair[1]).step_by(SEGMENT));
            firsts.push(u32_of(segments.len()));
        }
        segments.push(u32_of(index.len()));
        let (starts, rows) = (add(&segments), Some(add(&firsts)));
        Self { words, sources, starts, rows }
    }
}

/// The sums of groups of rows of `x`: those from one of `starts` to the next among `sources`, or of
/// the rows of these numbers themselves.
fn summed(gpu: &Gpu, x: &Tensor, starts: &Tensor, sources: Option<&Tensor>) -> Result<Tensor> {
    let (groups, (_, width)) = (starts.elem_count() - 1, x.dims2()?);
    let is_wide = is_packed(x, 1, PACK)?;
    let packs = width / if is_wide { PACK } else { 1 };
    let threads = threads(packs, THREADS);
    gpu.launch(&Call {
        kernel: format!("scatter_{}", form(x.dtype(), is_wide)?),
        inputs: &[Some(x), Some(starts), sources],
        output: Output::New((groups, width).into(), DType::F32),
        grid: [groups, packs.div_ceil(threads as usize)],
        threads,
        shared: 0,
        numbers: &[word(width), word(stride(x)?)],
    })
}

/// [`crate::model::backend::training::Training::scattered`].
pub(super) fn scattered(gpu: &Gpu, x: &Tensor, index: &[u32], rows: usize) -> Result<Tensor> {
    let (count, width) = x.dims2()?;
    if index.len() != count {
        bail!("{} indices for {count} rows; each row needs one", index.len());
    }
    if let Some(at) = index.iter().find(|at| **at as usize >= rows) {
        bail!("the index {at} of a row that is added up; there are {rows} sums");
    }
    if count == 0 {
        return Tensor::zeros((rows, width), DType::F32, &gpu.device);
    }
    expect("rows that are added up", x, &[count, width], &[DType::F32, DType::BF16])?;
    let groups = Groups::of(index, rows);
    let words = gpu.bring(&groups.words)?;
    let part = |place: &Range<usize>| words.narrow(0, place.start, place.len());
    let sums = summed(gpu, x, &part(&groups.starts)?, Some(&part(&groups.sources)?))?;
    match &groups.rows {
        None => Ok(sums),
        Some(rows) => summed(gpu, &sums, &part(rows)?, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_grouped_by_row_in_order_and_long_groups_are_cut() {
        let groups = Groups::of(&[2, 0, 2, 3], 5);
        assert_eq!((&groups.words[groups.sources.clone()], groups.rows), (&[1, 0, 2, 3][..], None));
        assert_eq!(groups.words[groups.starts], [0, 1, 1, 3, 4, 4]);

        let index: Vec<u32> = (0..300).map(|at| if at == 7 { 0 } else { 2 }).collect();
        let groups = Groups::of(&index, 3);
        let sources = &groups.words[groups.sources.clone()];
        assert!(sources[0] == 7 && sources[1..].is_sorted() && sources.len() == 300);
        assert_eq!(groups.words[groups.starts], [0, 1, 129, 257, 300]);
        assert_eq!(groups.words[groups.rows.unwrap()], [0, 1, 1, 4]);
    }
}
