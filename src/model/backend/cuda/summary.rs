//! Summaries of logits on the GPU they lie on: one kernel reads each row, and a few words a row
//! come to the host.

use super::call::{Call, word};
use super::gpu::{Gpu, THREADS};
use crate::diffusion::{TokenId, u32_of};
use crate::model::backend::inputs::{AskPlaces, Inputs, part};
use crate::model::backend::summary::{Summaries, Summary, SummaryOptions, Vocabulary};
use crate::model::interface::{Change, Filter, Noise};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;

/// The kernel's input: words as in `summary.cu`.
#[derive(Debug, Default)]
struct Words {
    asks: Vec<u32>,
    /// The tokens of biases, with [`SCALE`] where the logit is scaled; then those that may be
    /// drawn.
    tokens: Vec<u32>,
    /// As many as there are tokens of biases.
    biases: Vec<f32>,
}

/// Words of what is asked of a row.
const ASK: usize = 16;
/// Words of a row's result.
const ANSWER: usize = 8;
/// The bit of a bias's token that says that the logit is scaled.
const SCALE: u32 = 1 << 31;
/// Bits of a token in the order of a filter.
const TOKEN_BITS: u32 = 20;

impl Words {
    /// Lists that rows share are written once.
    fn of(options: &[SummaryOptions<'_>]) -> Self {
        let mut words = Self::default();
        let (mut biases, mut lists) = (HashMap::new(), HashMap::new());
        for SummaryOptions { biases: own, .. } in options {
            biases.entry(own.as_ptr_range()).or_insert_with(|| words.add_biases(own));
        }
        for only in options.iter().filter_map(|options| options.only) {
            lists.entry(only.as_ptr_range()).or_insert_with(|| words.add_tokens(only));
        }
        for (row, options) in options.iter().enumerate() {
            let biases = biases[&options.biases.as_ptr_range()].clone();
            let only = options.only.map_or(0..0, |only| lists[&only.as_ptr_range()].clone());
            words.ask(row, options, &biases, &only);
        }
        words
    }

    /// Ascending, as the kernel looks for them.
    fn add_biases(&mut self, biases: &[(TokenId, Change)]) -> Range<usize> {
        let first = self.tokens.len();
        let mut biases = biases.to_vec();
        biases.sort_by_key(|(token, _)| *token); // keeps the order of equals
        for (token, change) in biases {
            let (flag, number) = match change {
                Change::Add(bias) => (0, bias),
                Change::Scale(penalty) => (SCALE, penalty),
            };
            self.tokens.push(token.0 | flag);
            self.biases.push(number);
        }
        first..self.tokens.len()
    }

    fn add_tokens(&mut self, tokens: &[TokenId]) -> Range<usize> {
        let first = self.tokens.len();
        self.tokens.extend(tokens.iter().map(|token| token.0));
        first..self.tokens.len()
    }

    fn ask(&mut self, row: usize, options: &SummaryOptions<'_>, biases: &Range<usize>, only: &Range<usize>) {
        let (key, [purpose, step, position], temperature, filter) = match options.noise {
            Some(Noise { temperature, draws, filter }) => (draws.key(), draws.place(), temperature, filter),
            None => ([0; 2], [0; 3], 0.0, Filter::ALL),
        };
        let temperature = [temperature.to_bits() as u32, (temperature.to_bits() >> 32) as u32];
        let top_k = filter.top_k.map_or(0, NonZeroU32::get);
        let (top_p, min_p) = (filter.top_p.unwrap_or(1.0), filter.min_p.unwrap_or(0.0));
        let (unguided, weight) = match options.guidance {
            Some(guidance) => (guidance.unguided, 1.0 + guidance.weight),
            None => (row, 1.0),
        };
        self.asks.extend(key.into_iter().chain([step, position, purpose]).chain(temperature));
        self.asks.extend([top_k, top_p.to_bits(), min_p.to_bits(), u32_of(unguided), weight.to_bits()]);
        self.asks.extend([biases.start, biases.end, only.start, only.end].map(u32_of));
    }
}

/// Summaries from the kernel's results; `None` where a logit was not finite.
pub(super) fn read(answers: &[f32]) -> Summaries {
    let read = |answer: &[f32]| {
        let (token, is_finite) = (answer[0].to_bits(), answer[1].to_bits() == 1);
        let [logit, largest, second, mass, moment] = std::array::from_fn(|word| answer[word + 2]);
        if is_finite { Summary::of(token, [logit, largest, second], mass.into(), moment.into()) } else { None }
    };
    answers.chunks_exact(ANSWER).map(read).collect()
}

/// Adds what is asked of some rows to the inputs.
pub(super) fn ask(options: &[SummaryOptions<'_>], inputs: &mut Inputs) -> AskPlaces {
    let Words { asks, tokens, biases } = Words::of(options);
    let asks = inputs.add_rows(asks, ASK);
    AskPlaces {
        count: asks.len() / ASK,
        asks,
        tokens: inputs.add(tokens),
        biases: inputs.add(biases.into_iter().map(f32::to_bits)),
    }
}

/// Words of summaries of the first of `logits` (rows, width): (asks, words of an answer).
pub(super) fn summaries(
    gpu: &Gpu,
    logits: &Tensor,
    Vocabulary { size, mask }: Vocabulary,
    places: &AskPlaces,
    inputs: &Tensor,
) -> Result<Tensor> {
    let ((rows, width), count) = (logits.dims2()?, places.count);
    if rows < count || width < size || size > 1 << TOKEN_BITS {
        bail!("{count} summaries over {size} tokens of ({rows}, {width}) logits");
    }
    let kernel = match logits.dtype() {
        DType::F32 => "summarise_f32",
        DType::BF16 => "summarise_bf16",
        other => bail!("logits in {other:?}; the kernel reads f32 and bf16"),
    };
    let place = |place: &Range<usize>| part(inputs, place);
    gpu.launch(&Call {
        kernel: kernel.to_owned(),
        inputs: &[
            Some(&logits.contiguous()?),
            Some(&place(&places.asks)?),
            Some(&place(&places.tokens)?),
            Some(&place(&places.biases)?),
        ],
        output: ((count, ANSWER).into(), DType::F32),
        grid: [count, 1],
        threads: THREADS,
        shared: 0,
        numbers: &[word(width), word(size), word(mask.min(size))],
    })
}
