//! What a network takes and gives: rows of ids laid end to end go in, states of the tokens asked for come out. Refuses to
//! know canvases, and what lies between.

use candle_core::{Result, Tensor};
use std::ops::Range;

/// What one forward pass reads: rows laid end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Vec<PassRow>,
    asked: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PassRow {
    /// Its place among the tokens of the pass.
    pub(crate) tokens: Range<usize>,
    /// Positions in the row, ascending.
    pub(crate) asked: Vec<usize>,
}

impl Pass {
    /// Adds a row of tokens. The states of those at `asked`, ascending positions in the row, will follow those of
    /// the rows before; returned is the index of the first.
    pub(crate) fn push(&mut self, ids: impl Iterator<Item = u32>, asked: Vec<usize>) -> usize {
        let first = self.ids.len();
        self.ids.extend(ids);
        let first_asked = self.asked;
        self.asked += asked.len();
        self.rows.push(PassRow { tokens: first..self.ids.len(), asked });
        first_asked
    }

    /// States that the pass will give.
    pub(crate) const fn asked(&self) -> usize {
        self.asked
    }
}

/// States of the tokens asked for, in their order, each (asked, width).
pub(crate) struct States {
    /// What the output layer reads.
    pub(crate) hidden: Tensor,
    /// What the quality head reads.
    pub(crate) judged: Tensor,
}

/// A network of some family, weights in place.
pub(crate) trait Network: Send + Sync {
    /// One forward pass. No row's states depend on the other rows.
    fn forward(&self, pass: &Pass) -> Result<States>;

    /// Scores before the softmax: (states, width) to (states, at least as many as there are ids).
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// Qualities before the sigmoid, one per state of (states, width); `None` without a quality head.
    fn qualities(&self, judged: &Tensor) -> Result<Option<Vec<f32>>>;
}
