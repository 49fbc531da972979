//! Networks: rows of ids laid end to end go in, states of the requested tokens come out. Out of
//! scope: canvases, and the layers in between.

use super::backend::inputs::Inputs;
use candle_core::{Result, Tensor};
use std::ops::Range;

/// The input of one forward pass: rows laid end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Vec<PassRow>,
    /// Number of states that the pass returns.
    pub(crate) asked: usize,
}

/// One row of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PassRow {
    /// Its place among the tokens of the pass.
    pub(crate) tokens: Range<usize>,
    /// Positions in the row whose states are requested, ascending.
    pub(crate) asked: Vec<usize>,
}

impl Pass {
    /// Adds a row of tokens. The states at `asked`, ascending positions in the row, follow those of
    /// the earlier rows; returns the index of the first.
    pub(crate) fn push(&mut self, ids: impl Iterator<Item = u32>, asked: Vec<usize>) -> usize {
        let (first, first_asked) = (self.ids.len(), self.asked);
        self.ids.extend(ids);
        self.asked += asked.len();
        self.rows.push(PassRow { tokens: first..self.ids.len(), asked });
        first_asked
    }
}

/// States of the requested tokens, in order, each (asked, width), and the inputs.
pub(crate) struct States {
    /// Input of the output layer.
    pub(crate) hidden: Tensor,
    /// Input of the quality head.
    pub(crate) judged: Tensor,
    /// The inputs of the pass on the device, those of the caller at their places.
    pub(crate) inputs: Tensor,
}

/// A network of some family, weights included.
pub(crate) trait Network: Send + Sync {
    /// One forward pass; `inputs`, which the network adds its own to, come to the device with it. A
    /// row's states do not depend on the other rows.
    fn forward(&self, pass: &Pass, inputs: Inputs) -> Result<States>;

    /// Scores before the softmax: (states, width) to (states, at least the size of the vocabulary).
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// Qualities before the sigmoid: (states, width) to (states); `None` without a quality head.
    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>>;
}
