//! What training asks of a device beyond products of matrices: operations and, beside each, the
//! gradient of its arguments, written out. Sums are in f32 whatever the number format. Out of
//! scope: the order of the operations, which is the network's.
//!
//! Activations are f32, or bf16 where a run has mixed precision. The residual stream, gains and
//! everything of the optimiser are f32. A gradient is named after what it is the gradient of.

use super::inputs::Inputs;
use super::summary::{Summaries, SummaryOptions, Vocabulary};
use super::{Angles, Backend, Computed};
use candle_core::{DType, Result, Tensor};

/// The operations of one device with their gradients.
pub(crate) trait Training: Backend {
    /// Rows of these lengths, one after the other, for any number of attentions.
    fn lay_out_rows(&self, lengths: &[usize]) -> Result<PackedRows>;

    /// x / sqrt(mean(x^2) + eps) * gain of each row of `x` (rows, width), f32, in the format `to`;
    /// `gain` (width), f32.
    fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f32, to: DType) -> Result<Tensor>;

    /// The gradients of [`Training::rms_norm`] from that of its result, `grad` (rows, width): of
    /// `x`, f32, to which `carried` (rows, width), f32, is added; and of the gain (width), f32, if
    /// asked.
    fn rms_norm_gradients(
        &self,
        of: &Normed<'_>,
        grad: &Tensor,
        carried: Option<&Tensor>,
        is_gain_asked: bool,
    ) -> Result<(Tensor, Option<Tensor>)>;

    /// Rotates the heads, of width d, of `x` (tokens, heads * d) by the angles of their tokens; or
    /// `back` by them, which is the gradient.
    fn rotated(&self, x: &Tensor, d: usize, angles: &Angles, back: bool) -> Result<Tensor>;

    /// softmax(q k^T / sqrt(d)) v within each row, for heads of width d: `q` (tokens, heads * d),
    /// `k` and `v` (tokens, kv heads * d), of which each head is shared by neighbouring heads of q.
    fn attended(&self, qkv: [&Tensor; 3], d: usize, rows: &PackedRows) -> Result<Attended>;

    /// The gradients of q, k and v from that of the attention's result.
    fn attended_gradients(
        &self,
        qkv: [&Tensor; 3],
        d: usize,
        rows: &PackedRows,
        attended: &Attended,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]>;

    /// silu(gate) * up, (rows, width) each.
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// The gradients of gate and up from that of their [`Training::swiglu`].
    fn swiglu_gradients(&self, gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]>;

    /// x + update, (rows, width) each: `x` and the sum are f32.
    fn added(&self, x: &Tensor, update: &Tensor) -> Result<Tensor>;

    /// Of `logits` (rows, vocabulary): the sum of weight x cross-entropy, the sum of
    /// cross-entropies, in nats, and how many targets are the most probable token (the first of
    /// equal ones): (3), f32.
    fn cross_entropy(&self, logits: &Tensor, targets: &Targets) -> Result<Tensor>;

    /// The gradient of `factor` x the first of these three numbers, in the format of the logits.
    fn cross_entropy_gradient(&self, logits: &Tensor, targets: &Targets, factor: f32) -> Result<Tensor>;

    /// Sums of rows: row `i` of the result (rows, width), f32, is the sum of those rows of `x`
    /// (count, width) whose `index` is i, always added up in the same order. It is the gradient of
    /// taking rows by their index.
    fn scattered(&self, x: &Tensor, index: &[u32], rows: usize) -> Result<Tensor>;

    /// A step of AdamW (arXiv 1711.05101) with clipping: changes `state` (4, parameters), f32,
    /// whose rows are the parameters, the moving averages of their gradients and of the squares of
    /// these, and the moving average of the parameters. Returns the norm of `gradients`
    /// (parameters), f32: (1). If it is not finite, nothing changes.
    fn adam(&self, state: &Tensor, gradients: &Tensor, step: &AdamStep) -> Result<Tensor>;
}

impl dyn Training + '_ {
    /// Words on the device.
    pub(crate) fn words(&self, words: &[u32]) -> Result<Tensor> {
        let mut inputs = Inputs::default();
        inputs.add(words.iter().copied());
        self.bring(&inputs)
    }

    /// Summaries of rows of `logits` (rows, vocabulary), a token drawn for each, computed where the
    /// logits lie.
    pub(crate) fn drawn(
        &self,
        logits: &Tensor,
        vocabulary: Vocabulary,
        options: Vec<SummaryOptions<'_>>,
    ) -> Result<Summaries> {
        let mut inputs = Inputs::default();
        let asks = self.ask(options, &mut inputs);
        let answers = self.summaries(logits, vocabulary, &asks, &self.bring(&inputs)?)?;
        Ok(self.collect(Computed { answers: vec![answers], qualities: Vec::new() })?.0)
    }
}

/// The arguments of a norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normed<'a> {
    pub(crate) x: &'a Tensor,
    pub(crate) gain: &'a Tensor,
    pub(crate) eps: f32,
}

/// Rows of different lengths, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct PackedRows {
    /// Tokens of each; none is empty.
    pub(crate) lengths: Vec<usize>,
    /// Tiles of queries and of keys, on a GPU.
    pub(crate) tiles: Option<Tensor>,
}

/// What attention returns, and what its gradient needs of it.
#[derive(Clone, Debug)]
pub(crate) struct Attended {
    /// (tokens, heads * d)
    pub(crate) mixed: Tensor,
    /// On a CPU the shares of the keys, by rows of equal length: (rows, heads, length, length)
    /// each; on a GPU the logarithms of their sums: (tokens, heads). Empty where both are computed
    /// again.
    pub(crate) kept: Vec<Tensor>,
}

/// What the tokens of some rows of logits are, and what each weighs: (rows) each.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    pub(crate) tokens: Tensor,  // u32
    pub(crate) weights: Tensor, // f32
}

/// The numbers of a step of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdamStep {
    pub(crate) rate: f32,
    /// Decay rates of the first and the second moment.
    pub(crate) betas: [f32; 2],
    /// 1 - beta^steps of both.
    pub(crate) unbias: [f32; 2],
    /// Factor of the first `decayed` parameters; that of the others is 1.
    pub(crate) decay: f32,
    pub(crate) decayed: usize,
    /// Largest norm of the gradients; larger ones are scaled down to it.
    pub(crate) clip: f32,
    /// Decay of the moving average of the parameters.
    pub(crate) average: f32,
}

/// Keeps AdamW's quotient finite where a second moment is 0.
pub(crate) const ADAM_EPSILON: f32 = 1e-8;
