//! The operations on an NVIDIA GPU: products by cuBLAS, all else by few kernels of ours. Everything
//! is on one stream and nothing waits for the device but what brings answers to the host.

mod adam;
mod attention;
mod attention_training;
mod call;
mod gpu;
mod graphs;
#[cfg(test)]
mod host;
mod keep;
mod layers;
mod matrices;
mod modules;
#[cfg(feature = "cuda")]
mod pinned;
mod rows;
mod scatter;
mod summary;
#[cfg(test)]
mod tests;
mod training;

use super::counts::Counts;
use super::inputs::{Inputs, part};
use super::summary::{Answers, Asks, Summaries, SummaryOptions, Vocabulary};
use super::{
    Angles, Backend, Computed, Joined, Keeping, KeysValues, Matrix, Norm, Normal, Operation, Part, Scorer, Segment,
    Span, Spans, Stored, Work,
};
use attention::{Mask, attention, lay_out};
use call::{Call, Number, Output, form, is_wide, stride, word};
use candle_core::{DType, Device, Result, Tensor, bail};
use gpu::{Gpu, THREADS};
use graphs::{Graphs, Numbers};
use keep::{keep, lay_out_kept};
use matrices::{Fused, Plain, Quantised};
use std::{ops::Range, sync::Arc};

/// Most states for which logits are computed at once: 260 MB of bf16 over LLaDA's vocabulary, and
/// seldom more than one chunk a pass.
const STATES_MAX: usize = 1024;

/// One GPU.
#[derive(Clone, Debug)]
pub(crate) struct Cuda {
    gpu: Gpu,
    /// Where passes are recorded.
    graphs: Option<Arc<Graphs>>,
}

impl Cuda {
    /// The operations of `device`; with graphs, passes of the same shape are sent as a whole.
    pub(crate) fn new(device: Device, has_graphs: bool) -> Self {
        Self { gpu: Gpu::new(device), graphs: has_graphs.then(Arc::default) }
    }
}

/// A norm's weight and bias, and its epsilon.
fn of_norm(norm: &Norm) -> (&Tensor, Option<&Tensor>, f32) {
    match norm {
        Norm::Rms { weight, eps } => (weight, None, *eps),
        Norm::Layer { weight, bias, eps } => (weight, Some(bias), *eps),
    }
}

/// Everything that a pass computed, one after the other.
fn laid(gpu: &Gpu, Computed { answers, qualities }: Computed) -> Result<Numbers> {
    let mut parts = Vec::new();
    for answers in answers {
        match answers {
            Answers::Device(words) => parts.push(words.flatten_all()?),
            Answers::Host(_) => bail!("summaries that were made on the host"),
        }
    }
    let answered = parts.iter().map(Tensor::elem_count).sum();
    parts.extend(qualities);
    if parts.is_empty() {
        return Ok(Numbers { numbers: None, answered });
    }
    gpu.counters.launched(if parts.len() > 1 { parts.len() as u64 } else { 0 });
    Ok(Numbers { numbers: Some(Tensor::cat(&parts, 0)?), answered })
}

/// Numbers of a pass as summaries and qualities.
fn read(numbers: &[f32], answered: usize) -> (Summaries, Vec<f32>) {
    let (answers, qualities) = numbers.split_at(answered);
    (summary::read(answers), qualities.to_vec())
}

/// Bytes that are free on the GPU whose context is this thread's.
#[cfg(feature = "cuda")]
fn free_bytes() -> u64 {
    candle_core::cuda_backend::cudarc::driver::result::mem_get_info().map_or(0, |(free, _)| free as u64)
}

#[cfg(not(feature = "cuda"))]
fn free_bytes() -> u64 {
    0
}

impl Backend for Cuda {
    fn device(&self) -> Device {
        self.gpu.device.clone()
    }

    fn is_parallel(&self) -> bool {
        false
    }

    /// The whole pass is one piece.
    fn cut(&self, lengths: &[usize]) -> Vec<Vec<Segment>> {
        let segment = |(row, length): (usize, &usize)| Segment { row, positions: 0..*length };
        vec![lengths.iter().enumerate().map(segment).collect()]
    }

    fn free_bytes(&self) -> u64 {
        free_bytes()
    }

    fn states_max(&self) -> usize {
        STATES_MAX
    }

    fn full(&self, weight: &Tensor) -> Result<Box<dyn Matrix>> {
        Ok(Box::new(Plain::new(weight.clone(), &self.gpu.counters)))
    }

    fn matrix(&self, weight: &Stored) -> Result<Box<dyn Matrix>> {
        match weight {
            Stored::Full(weight) => self.full(weight),
            Stored::Quantised(weight) => Ok(Box::new(Quantised::new(weight, &self.gpu.counters)?)),
        }
    }

    fn joined(&self, weights: &[Stored]) -> Result<Box<dyn Joined>> {
        let full = |stored: &Stored| match stored {
            Stored::Full(weight) => Some(weight.clone()),
            Stored::Quantised(_) => None,
        };
        match weights.iter().map(full).collect::<Option<Vec<Tensor>>>() {
            Some(weights) => Ok(Box::new(Fused::new(&weights, &self.gpu.counters)?)),
            None => Ok(Box::new(weights.iter().map(|weight| self.matrix(weight)).collect::<Result<Vec<_>>>()?)),
        }
    }

    fn attention(&self, q: &Tensor, kv: &KeysValues<'_>, d: usize, spans: &Spans, inputs: &Tensor) -> Result<Tensor> {
        let is_kept = |span: &Span| span.keys.iter().any(|part| matches!(part, Part::Kept(_)));
        if kv.kept.is_none() && spans.spans.iter().any(is_kept) {
            bail!("keys of a store, in a pass without one");
        }
        match &spans.tiles {
            Some(tiles) => attention(&self.gpu, q, kv, d, tiles, inputs),
            None => bail!("spans that were laid out for the CPU"),
        }
    }

    fn lay_out(&self, spans: Vec<Span>, inputs: &mut Inputs) -> Spans {
        let tiles = Some(lay_out(&spans, Mask::Full, inputs));
        Spans { spans, tiles }
    }

    fn keep(&self, [k, v]: &[Tensor; 2], kept: &[Tensor; 2], keeping: &Keeping, inputs: &Tensor) -> Result<()> {
        match &keeping.pairs {
            Some(pairs) => keep(&self.gpu, [k, v], kept, &part(inputs, pairs)?),
            None => bail!("what is kept was laid out for the CPU"),
        }
    }

    fn lay_out_kept(&self, ranges: Vec<(Range<usize>, usize)>, inputs: &mut Inputs) -> Keeping {
        let pairs = Some(lay_out_kept(&ranges, inputs));
        Keeping { ranges, pairs }
    }

    fn bring(&self, inputs: &Inputs) -> Result<Tensor> {
        self.gpu.bring(&inputs.words)
    }

    fn gather(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        let ((_, width), count) = (x.dims2()?, index.elem_count());
        if count == 0 {
            return x.narrow(0, 0, 0);
        }
        self.gpu.launch(&Call {
            kernel: format!("gather_{}", form(x.dtype(), is_wide(x, 1)?)?),
            inputs: &[Some(x), Some(index)],
            output: Output::New((count, width).into(), x.dtype()),
            grid: [count, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[word(width), word(stride(x)?)],
        })
    }

    fn embed(&self, embedding: &Stored, ids: &Tensor) -> Result<Tensor> {
        match embedding {
            Stored::Full(weight) => self.gather(weight, ids),
            Stored::Quantised(weight) => {
                self.gpu.counters.launched(1);
                weight.embedding(ids)
            }
        }
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let (weight, bias, eps) = of_norm(norm);
        let (rows, width) = x.dims2()?;
        let kernel = match (x.dtype(), weight.dtype()) {
            (DType::BF16, DType::F32) => "norm_bf16_f32".to_owned(),
            (own, _) => format!("norm_{}", form(own, is_wide(x, 1)?)?),
        };
        self.gpu.launch(&Call {
            kernel,
            inputs: &[Some(x), Some(weight), bias],
            output: Output::New((rows, width).into(), weight.dtype()),
            grid: [rows, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[word(width), word(stride(x)?), Number::Float(eps)],
        })
    }

    fn add_norm(&self, x: &Tensor, update: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        let (weight, bias, eps) = of_norm(norm);
        let (rows, width) = x.dims2()?;
        let is_wide = is_wide(x, 1)? && is_wide(update, 1)?;
        let both = self.gpu.launch(&Call {
            kernel: format!("add_norm_{}", form(x.dtype(), is_wide)?),
            inputs: &[Some(x), Some(update), Some(weight), bias],
            output: Output::New((2, rows, width).into(), x.dtype()),
            grid: [rows, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[word(width), word(stride(x)?), word(stride(update)?), Number::Float(eps)],
        })?;
        Ok((both.get(0)?, both.get(1)?))
    }

    fn rotate(&self, parts: &[&Tensor], d: usize, angles: &Angles) -> Result<Vec<Tensor>> {
        // two parts in one launch, as queries and keys
        let mut rotated = Vec::new();
        for pair in parts.chunks(2) {
            let both = layers::rotated(&self.gpu, pair, d, angles, false)?;
            let mut from = 0;
            for part in pair {
                rotated.push(both.narrow(1, from, part.dim(1)?)?);
                from += part.dim(1)?;
            }
        }
        Ok(rotated)
    }

    fn gated(&self, x: &Tensor, gate_up: &dyn Joined) -> Result<Tensor> {
        let parts = gate_up.products(x, 0..2)?;
        layers::gated(&self.gpu, &parts[0], &parts[1])
    }

    fn scored(&self, x: &Tensor, scorer: &Scorer) -> Result<Tensor> {
        let Scorer { matrix, bias, last, last_bias, .. } = scorer;
        let x = matrix.product(x)?; // (rows, out)
        let (rows, width) = x.dims2()?;
        self.gpu.launch(&Call {
            kernel: "scored".to_owned(),
            inputs: &[Some(&x), Some(bias), Some(last), Some(last_bias)],
            output: Output::New(rows.into(), DType::F32),
            grid: [rows, 1],
            threads: THREADS,
            shared: 0,
            numbers: &[word(width)],
        })
    }

    fn ask<'a>(&self, options: Vec<SummaryOptions<'a>>, inputs: &mut Inputs) -> Asks<'a> {
        let places = Some(summary::ask(&options, inputs));
        Asks { options, places }
    }

    fn summaries(&self, logits: &Tensor, vocabulary: Vocabulary, asks: &Asks<'_>, inputs: &Tensor) -> Result<Answers> {
        match &asks.places {
            Some(places) => summary::summaries(&self.gpu, logits, vocabulary, places, inputs).map(Answers::Device),
            None => bail!("asks that were made for the CPU"),
        }
    }

    /// In one copy.
    fn collect(&self, computed: Computed) -> Result<(Summaries, Vec<f32>)> {
        let Numbers { numbers, answered } = laid(&self.gpu, computed)?;
        let numbers = numbers.map(|numbers| self.gpu.numbers(&numbers)).transpose()?.unwrap_or_default();
        Ok(read(&numbers, answered))
    }

    fn inputs(&self) -> Inputs {
        self.graphs.as_ref().map_or_else(Inputs::default, |_| Inputs::filled_up_by(graphs::filled_up))
    }

    fn pass(&self, inputs: &Inputs, work: Work<'_>) -> Result<(Summaries, Vec<f32>)> {
        let lay = |inputs: &Tensor| laid(&self.gpu, work(inputs)?);
        if let Some(graphs) = &self.graphs
            && let Some((numbers, answered)) = graphs.run(&self.gpu, inputs, &lay)?
        {
            return Ok(read(&numbers, answered));
        }
        self.collect(work(&self.bring(inputs)?)?)
    }

    fn counts(&self) -> Counts {
        self.gpu.counters.counts()
    }

    fn copying(&self, bytes: usize) -> Result<Operation<'_>> {
        let from = Tensor::zeros(bytes.div_ceil(DType::F32.size_in_bytes()), DType::F32, &self.gpu.device)?;
        Ok(Box::new(move || from.copy().map(drop)))
    }

    fn normal(&self, normal: Normal, shape: &[usize]) -> Result<Tensor> {
        let Normal { seed, stream, mean, deviation } = normal;
        self.gpu.device.set_seed(seed ^ ((stream as u64) << 32))?;
        Tensor::randn(mean as f32, deviation as f32, shape, &self.gpu.device)
    }
}
