//! What the operations of a backend take beside tensors and matrices.

use candle_core::Tensor;
use std::ops::Range;

/// A range of positions in one row of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    /// The row's index in the pass.
    pub(crate) row: usize,
    pub(crate) positions: Range<usize>,
}

/// The keys that some queries attend to. Queries and keys are counted apart, so that fewer queries
/// than keys can be computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    /// The row's queries among all queries.
    pub(crate) queries: Range<usize>,
    /// The row's keys among all keys.
    pub(crate) keys: Range<usize>,
}

/// Rotary angles of some tokens.
pub(crate) struct Angles {
    pub(crate) cos: Tensor, // (tokens, 1, head dim / 2)
    pub(crate) sin: Tensor, // (tokens, 1, head dim / 2)
}

/// A norm over rows, with its weights.
pub(crate) enum Norm {
    /// x / sqrt(mean(x^2) + eps) * weight, summed in f32.
    Rms {
        weight: Tensor, // (width)
        eps: f32,
    },
    /// (x - mean) / sqrt(variance + eps) * weight + bias.
    Layer {
        weight: Tensor, // (width)
        bias: Tensor,   // (width)
        eps: f32,
    },
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
