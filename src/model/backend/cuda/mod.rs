//! The operations on an NVIDIA GPU. Summaries, qualities and inspected numbers come to the host.

mod summary;

use super::summary::{Summaries, SummaryOptions, Vocabulary};
use super::{Backend, Matrix, Normal, Segment, Span, attention::attention, cpu::summary::summarise};
use crate::diffusion::u32_of;
use crate::model::interface::Filter;
use candle_core::{DType, Device, Result, Tensor};

/// Most states for which logits are computed at once: 260 MB of bf16 over LLaDA's vocabulary, and
/// seldom more than one chunk a pass. The host waits for each chunk.
const STATES_MAX: usize = 1024;

/// One GPU.
#[derive(Clone, Debug)]
pub(crate) struct Cuda {
    pub(crate) device: Device,
}

/// (out, in), as checkpoints have it.
struct Plain(Tensor);

impl Matrix for Plain {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.0.t()?)
    }
}

impl Backend for Cuda {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn is_parallel(&self) -> bool {
        false
    }

    /// The whole pass is one piece.
    fn cut(&self, lengths: &[usize]) -> Vec<Vec<Segment>> {
        let segment = |(row, length): (usize, &usize)| Segment { row, positions: 0..*length };
        vec![lengths.iter().enumerate().map(segment).collect()]
    }

    fn states_max(&self) -> usize {
        STATES_MAX
    }

    fn full(&self, weight: &Tensor) -> Result<Box<dyn Matrix>> {
        Ok(Box::new(Plain(weight.clone())))
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span]) -> Result<Tensor> {
        attention(q, k, v, spans, Tensor::contiguous) // cuBLAS takes no transposed views
    }

    fn summaries(&self, logits: &Tensor, vocabulary: Vocabulary, options: &[SummaryOptions<'_>]) -> Result<Summaries> {
        let logits = guided(logits, options)?; // (options, width)
        let mut summaries = summary::summaries(&logits, vocabulary, options)?;
        // the kernel knows neither filters nor allowed tokens: such rows are summarised on the host
        for (index, options) in options.iter().enumerate() {
            let is_filtered = options.noise.is_some_and(|noise| noise.filter != Filter::ALL);
            if options.only.is_some() || is_filtered {
                let logits = logits.get(index)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                summaries[index] = summarise(logits.into(), vocabulary, options);
            }
        }
        Ok(summaries)
    }

    fn normal(&self, normal: Normal, shape: &[usize]) -> Result<Tensor> {
        let Normal { seed, stream, mean, deviation } = normal;
        self.device.set_seed(seed ^ ((stream as u64) << 32))?;
        Tensor::randn(mean as f32, deviation as f32, shape, &self.device)
    }
}

/// The rows that `options` are about, guidance applied where any asks for it: (options, width).
fn guided(logits: &Tensor, options: &[SummaryOptions<'_>]) -> Result<Tensor> {
    let own = logits.narrow(0, 0, options.len())?; // (options, width)
    if options.iter().all(|options| options.guidance.is_none()) {
        return Ok(own);
    }
    // without guidance a row is its own counterpart, and its weight is 1
    let unguided = |(index, options): (usize, &SummaryOptions<'_>)| {
        u32_of(options.guidance.map_or(index, |guidance| guidance.unguided))
    };
    let unguided: Vec<u32> = options.iter().enumerate().map(unguided).collect();
    let weights = options.iter().map(|options| 1.0 + options.guidance.map_or(0.0, |guidance| guidance.weight));
    let weights = Tensor::new(weights.collect::<Vec<f32>>(), logits.device())?.unsqueeze(1)?; // (options, 1)
    let unguided = logits.index_select(&Tensor::new(unguided, logits.device())?, 0)?.to_dtype(DType::F32)?;
    let step = (own.to_dtype(DType::F32)? - &unguided)?.broadcast_mul(&weights)?;
    unguided + step
}
