//! The operations on a CPU. A row's numbers are the same to the bit whatever rows share its pass,
//! which is cut by each row's own length: every product has the shape it has for the row alone.

mod attention;
mod blocks;
mod memory;
mod sampling;
pub(crate) mod summary;
#[cfg(test)]
mod tests;
mod training;

use super::summary::{Answers, Asks, Guidance, SummaryOptions, Vocabulary};
use super::{Backend, KeysValues, Matrix, Normal, Operation, Segment, Spans};
use attention::attention;
use blocks::Blocks;
use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use rand_philox::Philox;
use rayon::prelude::*;
use summary::{guided, summarise};

/// Tokens of a piece at most: enough to use a weight several times for each time it is fetched.
const PIECE_MAX: usize = 64;

/// Most cells whose logits a thread holds: 32 MB over LLaDA's vocabulary. More is not faster.
const STATES_MAX: usize = 64;

/// The CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu;

impl Backend for Cpu {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn is_parallel(&self) -> bool {
        true
    }

    /// A piece is part of one row.
    fn cut(&self, lengths: &[usize]) -> Vec<Vec<Segment>> {
        let pieces = lengths.iter().enumerate().flat_map(|(row, &length)| {
            // an even number: two threads finish two halves sooner than three thirds
            let count = length.div_ceil(PIECE_MAX).next_multiple_of(2).min(length);
            let range = move |n| length * n / count..length * (n + 1) / count;
            (0..count).map(move |n| vec![Segment { row, positions: range(n) }])
        });
        pieces.collect()
    }

    fn free_bytes(&self) -> u64 {
        memory::free_bytes()
    }

    fn states_max(&self) -> usize {
        STATES_MAX
    }

    fn full(&self, weight: &Tensor) -> Result<Box<dyn Matrix>> {
        Ok(Box::new(Blocks::new(weight)?))
    }

    fn attention(&self, q: &Tensor, kv: &KeysValues<'_>, d: usize, spans: &Spans, _: &Tensor) -> Result<Tensor> {
        attention(q, kv, d, &spans.spans)
    }

    fn summaries(&self, logits: &Tensor, vocabulary: Vocabulary, asks: &Asks<'_>, _: &Tensor) -> Result<Answers> {
        let (width, logits) = (logits.dim(1)?, logits.to_dtype(DType::F32)?);
        let (storage, layout) = logits.storage_and_layout();
        let (Storage::Cpu(storage), Some((from, until))) = (&*storage, layout.contiguous_offsets()) else {
            bail!("logits that are no rows on the CPU")
        };
        let rows = &storage.as_slice::<f32>()?[from..until];
        let row = |index: usize| &rows[index * width..(index + 1) * width];
        let summary = |(index, options): (usize, &SummaryOptions<'_>)| {
            let logits = match options.guidance {
                Some(Guidance { weight, unguided }) => guided(row(index), row(unguided), weight).into(),
                None => row(index).into(),
            };
            summarise(logits, vocabulary, options)
        };
        Ok(Answers::Host(asks.options.par_iter().enumerate().map(summary).collect()))
    }

    /// With all threads, into memory that was written before.
    fn copying(&self, bytes: usize) -> Result<Operation<'_>> {
        let (from, mut to) = (vec![1u8; bytes], vec![2u8; bytes]);
        let part = bytes.div_ceil(rayon::current_num_threads()).max(1);
        Ok(Box::new(move || {
            to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(&to);
            Ok(())
        }))
    }

    fn normal(&self, normal: Normal, shape: &[usize]) -> Result<Tensor> {
        let numbers = normals(normal, shape.iter().product());
        Tensor::from_vec(numbers, shape, &Device::Cpu)?.affine(1.0, normal.mean)
    }
}

/// Numbers drawn by one task; a fixed number, so that the result does not depend on the threads.
const DRAWN_MAX: usize = 1 << 14;

/// `count` numbers with mean 0, by the Box-Muller transform, whatever the number of threads.
fn normals(Normal { seed, stream, deviation, .. }: Normal, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut numbers = vec![0.0; count];
    numbers.par_chunks_mut(DRAWN_MAX).enumerate().for_each(|(chunk, numbers)| {
        let mut philox = Philox::new(key, ((stream as u128) << 96) | ((chunk as u128) << 32));
        for pair in numbers.chunks_mut(2) {
            // in (0, 1): half a step above zero
            let [u, v] = [philox.next_u32(), philox.next_u32()].map(|word| (f64::from(word) + 0.5) / 4_294_967_296.0);
            let radius = deviation * (-2.0 * u.ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
            pair.iter_mut().zip([cos, sin]).for_each(|(number, direction)| *number = (radius * direction) as f32);
        }
    });
    numbers
}
