//! Networks: rows of ids laid end to end go in, states of the requested tokens come out. Out of
//! scope: canvases, and the layers in between.

use super::backend::cost::{Cost, Numbers};
use super::backend::{Spans, inputs::Inputs};
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

/// Rows of a pass, or a part of one, that go through the layers together: the places of their words
/// among the inputs.
pub(crate) struct Planned {
    pub(crate) ids: Range<usize>,
    pub(crate) positions: Range<usize>,
    pub(crate) spans: Spans,
    /// Indices of the asked tokens among these.
    pub(crate) asked: Range<usize>,
    pub(crate) asked_positions: Range<usize>,
    pub(crate) asked_spans: Spans,
}

/// States of the requested tokens, in order, each (asked, width).
pub(crate) struct States {
    /// Input of the output layer.
    pub(crate) hidden: Tensor,
    /// Input of the quality head.
    pub(crate) judged: Tensor,
}

/// A network of some family, weights included.
pub(crate) trait Network: Send + Sync {
    /// The host's part of a pass: cuts it into what goes through the layers together, and adds what
    /// these need to the inputs.
    fn plan(&self, pass: &Pass, inputs: &mut Inputs) -> Vec<Planned>;

    /// The device's part of a pass: `inputs` are those of the plan. A row's states do not depend on
    /// the other rows.
    fn run(&self, plan: &[Planned], inputs: &Tensor) -> Result<States>;

    /// Scores before the softmax: (states, width) to (states, at least the size of the vocabulary).
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// What a pass computes, with the output layer over so many states, and the quality head.
    fn cost(&self, pass: &Pass, read_out: usize, judged: usize) -> Cost;

    /// The number format of most matrices.
    fn numbers(&self) -> Numbers;

    /// Qualities before the sigmoid: (states, width) to (states); `None` without a quality head.
    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>>;
}
