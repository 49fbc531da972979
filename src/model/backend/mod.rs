//! What a network asks of the device it is computed on: operations on whole tensors, implemented by
//! `cpu` and `cuda`. Provided methods run on every device. Out of scope: what the tensors mean.

pub(crate) mod composed;
pub(crate) mod cost;
pub(crate) mod counts;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod inputs;
pub(crate) mod speed;
pub(crate) mod summary;
pub(crate) mod training;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{ops, rotary_emb};
use cost::{Numbers, Size};
use counts::Counts;
use inputs::{Inputs, Tiles};
use rayon::prelude::*;
use std::{fmt, ops::Range, sync::Arc};
use summary::{Answers, Asks, Summaries, SummaryOptions, Vocabulary};

/// The operations of one device.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// The device that its tensors lie on.
    fn device(&self) -> Device;

    /// Whether pieces and chunks of a pass run side by side on the threads of the host.
    fn is_parallel(&self) -> bool;

    /// Cuts a pass over rows of these lengths into pieces, each of which goes through a block as a
    /// whole. Pieces meet in the attention only.
    fn cut(&self, lengths: &[usize]) -> Vec<Vec<Segment>>;

    /// Most states for which logits or qualities are computed at once.
    fn states_max(&self) -> usize;

    /// Lays out a matrix (out, in) in floats for products.
    fn full(&self, weight: &Tensor) -> Result<Box<dyn Matrix>>;

    /// softmax(q k^T / sqrt(d)) v within each span, without a causal mask, for heads of width d.
    ///
    /// q (queries, heads * d); keys and values (keys, kv heads * d), each kv head shared by
    /// `heads / kv heads` neighbouring query heads; `inputs` are those that the spans were laid out
    /// with. The result is (queries, heads * d).
    fn attention(&self, q: &Tensor, kv: &KeysValues<'_>, d: usize, spans: &Spans, inputs: &Tensor) -> Result<Tensor>;

    /// Lays out spans for any number of attentions, and adds what these need to the pass's inputs.
    fn lay_out(&self, spans: Vec<Span>, _: &mut Inputs) -> Spans {
        Spans { spans, tiles: None }
    }

    /// Puts the keys and values of tokens of the pass, `fresh`, into slots of the store, `kept`, of
    /// the same layer; `inputs` are those that `keeping` was laid out with.
    fn keep(&self, fresh: &[Tensor; 2], kept: &[Tensor; 2], keeping: &Keeping, _: &Tensor) -> Result<()> {
        for (tokens, slot) in &keeping.ranges {
            for (kept, fresh) in kept.iter().zip(fresh) {
                kept.slice_set(&fresh.narrow(0, tokens.start, tokens.len())?.contiguous()?, 0, *slot)?;
            }
        }
        Ok(())
    }

    /// Lays out what is kept of a pass, tokens and the first slot for theirs, for any number of
    /// layers, and adds what these need to the pass's inputs.
    fn lay_out_kept(&self, ranges: Vec<(Range<usize>, usize)>, _: &mut Inputs) -> Keeping {
        Keeping { ranges, pairs: None }
    }

    /// Summaries of `logits` (rows, at least `vocabulary.size`): `asks` were made of the options of
    /// the first rows, and `inputs` are those that they were added to.
    fn summaries(&self, logits: &Tensor, vocabulary: Vocabulary, asks: &Asks<'_>, inputs: &Tensor) -> Result<Answers>;

    /// Adds what summaries with these options need to the pass's inputs.
    fn ask<'a>(&self, options: Vec<SummaryOptions<'a>>, _: &mut Inputs) -> Asks<'a> {
        Asks { options, places: None }
    }

    /// Independent normally distributed numbers, always the same for the same arguments.
    fn normal(&self, normal: Normal, shape: &[usize]) -> Result<Tensor>;

    /// Lays out a matrix (out, in) for products.
    fn matrix(&self, weight: &Stored) -> Result<Box<dyn Matrix>> {
        match weight {
            Stored::Full(weight) => self.full(weight),
            Stored::Quantised(weight) => Ok(Box::new(QMatMul::from_arc(Arc::clone(weight))?)),
        }
    }

    /// Lays out matrices (out, in) over the same input, as those of queries, keys and values.
    fn joined(&self, weights: &[Stored]) -> Result<Box<dyn Joined>> {
        Ok(Box::new(weights.iter().map(|weight| self.matrix(weight)).collect::<Result<Vec<_>>>()?))
    }

    /// No inputs yet.
    fn inputs(&self) -> Inputs {
        Inputs::default()
    }

    /// Brings a pass's inputs to the device: (words).
    fn bring(&self, inputs: &Inputs) -> Result<Tensor> {
        Tensor::new(&*inputs.words, &self.device())
    }

    /// Brings the inputs of a pass to the device, does its work there, and brings the answers to
    /// the host: summaries and quality logits, those of padding included. What `work` does depends
    /// on the shape of the inputs alone.
    fn pass(&self, inputs: &Inputs, work: Work<'_>) -> Result<(Summaries, Vec<f32>)> {
        self.collect(work(&self.bring(inputs)?)?)
    }

    /// The rows `index` (indices) of `x` (rows, ..): (indices, ..).
    fn gather(&self, x: &Tensor, index: &Tensor) -> Result<Tensor> {
        x.index_select(index, 0)
    }

    /// The rows `ids` (tokens) of an embedding (rows, width): (tokens, width).
    fn embed(&self, embedding: &Stored, ids: &Tensor) -> Result<Tensor> {
        match embedding {
            Stored::Full(weight) => weight.index_select(ids, 0),
            Stored::Quantised(weight) => weight.embedding(ids),
        }
    }

    /// The norm of each row of `x` (rows, width), in the number format of the norm's weights.
    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        match norm {
            Norm::Rms { weight, eps } => ops::rms_norm(&x.to_dtype(weight.dtype())?, weight, *eps),
            Norm::Layer { weight, bias, eps } => ops::layer_norm(&x.to_dtype(weight.dtype())?, weight, bias, *eps),
        }
    }

    /// The residual stream after an update, and its norm: x + update, norm(x + update).
    fn add_norm(&self, x: &Tensor, update: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        let x = (x + update)?;
        let normed = self.norm(&x, norm)?;
        Ok((x, normed))
    }

    /// Rotates the heads, of width d, of each of `parts` (tokens, heads * d) by the angles of their
    /// tokens, in f32.
    fn rotate(&self, parts: &[&Tensor], d: usize, Angles { cos, sin }: &Angles) -> Result<Vec<Tensor>> {
        let rotate = |x: &&Tensor| {
            let (tokens, width) = x.dims2()?;
            // each token is a batch entry of length one, so that each has its own angles
            let heads = x.to_dtype(DType::F32)?.reshape((tokens, 1, width / d, d))?;
            rotary_emb::rope_thd(&heads, cos, sin)?.reshape((tokens, width))?.to_dtype(x.dtype())
        };
        parts.iter().map(rotate).collect()
    }

    /// silu(x Wg^T) * x Wu^T of the two matrices (Wg, Wu): (rows, in) to (rows, out).
    fn gated(&self, x: &Tensor, gate_up: &dyn Joined) -> Result<Tensor> {
        let parts = gate_up.products(x, 0..2)?;
        parts[0].silu()? * &parts[1]
    }

    /// gelu(x W^T + b) w + c of a scorer: (rows, in) to (rows).
    fn scored(&self, x: &Tensor, scorer: &Scorer) -> Result<Tensor> {
        let x = scorer.matrix.product(x)?.broadcast_add(&scorer.bias)?.gelu_erf()?; // (rows, out)
        scorer.last_matrix.product(&x)?.broadcast_add(&scorer.last_bias)?.squeeze(1)
    }

    /// Brings answers to the host, in order.
    fn collect(&self, Computed { answers, qualities }: Computed) -> Result<(Summaries, Vec<f32>)> {
        let mut summaries = Vec::new();
        for answers in answers {
            summaries.extend(answers.on_host()?);
        }
        let qualities: Vec<Vec<f32>> = qualities.iter().map(Tensor::to_vec1).collect::<Result<_>>()?;
        Ok((summaries, qualities.concat()))
    }

    /// Bytes of the device's memory that nobody uses now, as far as that can be found out.
    fn free_bytes(&self) -> u64;

    /// What the device was asked to do so far; all zero where nothing is counted.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// A copy of so many bytes, within the device's memory.
    fn copying<'a>(&'a self, bytes: usize) -> Result<Operation<'a>>;

    /// Waits until the device has done all that it was asked for.
    fn wait(&self) -> Result<()> {
        self.device().synchronize()
    }

    /// Copies `x` (rows, width) to the host, as f32.
    fn rows(&self, x: &Tensor) -> Result<Vec<Vec<f32>>> {
        x.to_dtype(DType::F32)?.to_vec2()
    }
}

impl dyn Backend + '_ {
    /// Calls `f` with each item and its index, side by side where the device allows it.
    pub(crate) fn each<T: Sync, R: Send, E: Send>(
        &self,
        items: &[T],
        f: impl Fn(usize, &T) -> std::result::Result<R, E> + Sync,
    ) -> std::result::Result<Vec<R>, E> {
        if !self.is_parallel() {
            return items.iter().enumerate().map(|(index, item)| f(index, item)).collect();
        }
        items.par_iter().enumerate().map(|(index, item)| f(index, item)).collect()
    }
}

/// What a pass computes on its device.
pub(crate) struct Computed {
    pub(crate) answers: Vec<Answers>,
    /// Quality logits, (states) each.
    pub(crate) qualities: Vec<Tensor>,
}

/// The device's part of a pass, given the inputs on the device.
pub(crate) type Work<'a> = &'a (dyn Fn(&Tensor) -> Result<Computed> + Sync);

/// An operation that can be run again and again.
pub(crate) type Operation<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// A range of positions in one row of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    /// The row's index in the pass.
    pub(crate) row: usize,
    pub(crate) positions: Range<usize>,
}

/// The queries of a row among all queries, and the keys that they attend to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) queries: Range<usize>,
    pub(crate) keys: Vec<Part>,
}

impl Span {
    /// Queries that attend to neighbouring keys of the pass.
    pub(crate) fn of(queries: Range<usize>, keys: Range<usize>) -> Self {
        Self { queries, keys: vec![Part::Fresh(keys)] }
    }
}

/// Neighbouring keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Those of tokens of the pass.
    Fresh(Range<usize>),
    /// Those in slots of the store.
    Kept(Range<usize>),
}

/// The keys and values of a layer, (keys, kv heads * d) each.
pub(crate) struct KeysValues<'a> {
    /// Of the tokens of the pass.
    pub(crate) fresh: [Tensor; 2],
    /// Of the slots of the store, if the pass uses it.
    pub(crate) kept: Option<&'a [Tensor; 2]>,
}

/// The store of keys and values, as a pass uses it.
pub(crate) struct KvLayers<'a> {
    /// Of each layer, (slots, kv heads * d) each.
    pub(crate) layers: &'a [[Tensor; 2]],
    /// What is put there.
    pub(crate) keeping: Keeping,
}

/// Which keys and values of a pass are kept, as [`Backend::keep`] takes them.
pub(crate) struct Keeping {
    /// Tokens of the pass, and the first slot for theirs.
    pub(crate) ranges: Vec<(Range<usize>, usize)>,
    /// The same on a GPU, as a place among the inputs: pairs of a token and its slot plus 1, or of
    /// zeros that fill up.
    pub(crate) pairs: Option<Range<usize>>,
}

/// Spans as [`Backend::attention`] takes them.
pub(crate) struct Spans {
    pub(crate) spans: Vec<Span>,
    /// The same on a GPU.
    pub(crate) tiles: Option<Tiles>,
}

/// Rotary angles of some tokens.
pub(crate) struct Angles {
    pub(crate) cos: Tensor, // (tokens, 1, head dim / 2)
    pub(crate) sin: Tensor, // (tokens, 1, head dim / 2)
}

/// A norm over rows, with its weights.
pub(crate) enum Norm {
    /// x / sqrt(mean(x^2) + eps) * weight, summed in f32; `weight` (width).
    Rms { weight: Tensor, eps: f32 },
    /// (x - mean) / sqrt(variance + eps) * weight + bias; `weight` and `bias` (width).
    Layer { weight: Tensor, bias: Tensor, eps: f32 },
}

/// Two linear layers that give each row one number.
pub(crate) struct Scorer {
    pub(crate) matrix: Box<dyn Matrix>, // (out, in)
    pub(crate) bias: Tensor,            // (out)
    pub(crate) last: Tensor,            // (1, out)
    pub(crate) last_matrix: Box<dyn Matrix>,
    pub(crate) last_bias: Tensor, // (1)
}

/// Which normally distributed numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normal {
    pub(crate) seed: u64,
    /// Numbers of different streams are independent.
    pub(crate) stream: usize,
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

/// A matrix as a file of weights has it.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// (out, in), or an embedding (rows, width), in floats.
    Full(Tensor),
    /// The same in few bits.
    Quantised(Arc<QTensor>),
}

impl Stored {
    pub(crate) fn size(&self) -> Size {
        match self {
            Self::Full(matrix) => Size::full(matrix),
            Self::Quantised(matrix) => {
                Size { parameters: matrix.shape().elem_count() as u64, bytes: matrix.storage_size_in_bytes() as u64 }
            }
        }
    }

    pub(crate) fn numbers(&self) -> Numbers {
        match self {
            Self::Full(matrix) => Numbers::Full(matrix.dtype()),
            Self::Quantised(matrix) => Numbers::Quantised(matrix.dtype()),
        }
    }
}

/// A matrix W (out, in), laid out for its device.
pub(crate) trait Matrix: Send + Sync {
    /// x W^T: (rows, in) to (rows, out).
    fn product(&self, x: &Tensor) -> Result<Tensor>;
}

/// In few bits. Each row of inputs is rounded to eight bits by itself.
impl Matrix for QMatMul {
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }
}

/// Matrices over the same input.
pub(crate) trait Joined: Send + Sync {
    /// x W^T of each of the matrices in `range`: (rows, in) to (rows, out) each.
    fn products(&self, x: &Tensor, range: Range<usize>) -> Result<Vec<Tensor>>;
}

/// One after the other.
impl Joined for Vec<Box<dyn Matrix>> {
    fn products(&self, x: &Tensor, range: Range<usize>) -> Result<Vec<Tensor>> {
        self[range].iter().map(|matrix| matrix.product(x)).collect()
    }
}
