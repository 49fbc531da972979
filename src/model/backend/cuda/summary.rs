//! Summaries of logits on the GPU they lie on: one kernel reads each row, and a few words a row
//! come to the host.

use super::call::{Call, Output, word};
use super::gpu::{Gpu, THREADS};
use crate::diffusion::{Credit, Probability, TokenId, u32_of};
use crate::model::backend::inputs::{AskPlaces, Inputs, part};
use crate::model::backend::summary::{Summaries, Summary, SummaryOptions, Vocabulary};
use crate::model::sampling::{Change, Filter, Noise};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;

/// The kernel's input: words as in `summary.cu`.
#[derive(Debug, Default)]
struct Words {
    asks: Vec<u32>,
    /// The tokens of biases, with [`SCALE`] where the logit is scaled, and [`CREDIT`] where the
    /// number is a credit; then those that may be drawn.
    tokens: Vec<u32>,
    /// As many as there are tokens of biases.
    biases: Vec<f32>,
}

/// Words of what is asked of a row.
const ASK: usize = 18;
/// Words of a row's result.
const ANSWER: usize = 9;
/// The bit of a bias's token that says that the logit is scaled.
const SCALE: u32 = 1 << 31;
/// The bit of a bias's token that says that the number is the token's credit.
const CREDIT: u32 = 1 << 30;
/// What a row without credit has in place of its favourite.
const NONE: u32 = u32::MAX;
/// Bits of a token in the order of a filter.
const TOKEN_BITS: u32 = 20;

impl Words {
    /// Lists that rows share are written once.
    fn of(options: &[SummaryOptions<'_>]) -> Self {
        let mut words = Self::default();
        let (mut biases, mut lists) = (HashMap::new(), HashMap::new());
        // credit is each row's own
        let list = |options: &SummaryOptions<'_>| (options.biases.as_ptr_range(), held(options).as_ptr_range());
        for options in options {
            biases.entry(list(options)).or_insert_with(|| words.add_biases(options.biases, held(options)));
        }
        for only in options.iter().filter_map(|options| options.only) {
            lists.entry(only.as_ptr_range()).or_insert_with(|| words.add_tokens(only));
        }
        for (row, options) in options.iter().enumerate() {
            let biases = biases[&list(options)].clone();
            let only = options.only.map_or(0..0, |only| lists[&only.as_ptr_range()].clone());
            words.ask(row, options, &biases, &only);
        }
        words
    }

    /// Ascending, as the kernel looks for them.
    fn add_biases(&mut self, biases: &[(TokenId, Change)], credits: &[(TokenId, f32)]) -> Range<usize> {
        let first = self.tokens.len();
        let changes = biases.iter().map(|(token, change)| match change {
            Change::Add(bias) => (*token, 0, *bias),
            Change::Scale(penalty) => (*token, SCALE, *penalty),
        });
        let credits = credits.iter().map(|(token, credit)| (*token, CREDIT, *credit));
        let mut all: Vec<(TokenId, u32, f32)> = changes.chain(credits).collect();
        all.sort_by_key(|(token, ..)| *token); // keeps the order of equals
        self.tokens.extend(all.iter().map(|(token, flag, _)| token.0 | flag));
        self.biases.extend(all.iter().map(|(.., number)| *number));
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
        let credit = options.credit.map_or([0.0; 2], |Credit { weight, power, .. }| [weight, power]);
        self.asks.extend(credit.map(f32::to_bits));
    }
}

/// The credits that a row has from earlier passes.
fn held<'a>(options: &SummaryOptions<'a>) -> &'a [(TokenId, f32)] {
    options.credit.map_or(&[], |credit| credit.held)
}

/// Summaries from the kernel's results; `None` where a logit was not finite.
pub(super) fn read(answers: &[f32]) -> Summaries {
    let read = |answer: &[f32]| {
        let (token, is_finite) = (answer[0].to_bits(), answer[1].to_bits() == 1);
        let [logit, largest, second, mass, moment] = std::array::from_fn(|word| answer[word + 2]);
        let summary = Summary::of(token, [logit, largest, second], mass.into(), moment.into()).filter(|_| is_finite)?;
        let favourite = Some(answer[7].to_bits()).filter(|favourite| *favourite != NONE);
        let favourite = favourite.and_then(|token| Some((token, Probability::rounded(answer[8])?)));
        Some(Summary { favourite, ..summary })
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
        output: Output::New((count, ANSWER).into(), DType::F32),
        grid: [count, 1],
        threads: THREADS,
        shared: 0,
        numbers: &[word(width), word(size), word(mask.min(size))],
    })
}
