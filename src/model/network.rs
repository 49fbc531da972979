//! Networks: rows of ids laid end to end go in, states of the requested tokens come out. Out of
//! scope: canvases, and the layers in between.

use super::backend::cost::{Cost, Numbers};
use super::backend::{Spans, inputs::Inputs};
use candle_core::{Result, Tensor};
use std::num::NonZeroUsize;
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
    /// Cells at its start that are the prompt.
    pub(crate) prompt: usize,
}

impl PassRow {
    /// The requested positions in a range.
    pub(crate) fn asked_in(&self, range: &Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let place = |at: usize| self.asked.partition_point(|asked| *asked < at);
        self.asked[place(range.start)..place(range.end.max(range.start))].iter().copied()
    }

    /// A range of positions, cut into runs that attend to the same cells of the row: each with the
    /// number of these, from the row's first on.
    pub(crate) fn runs(
        &self,
        sight: Sight,
        range: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, usize)> + use<> {
        let (prompt, cells, mut next) = (self.prompt, self.tokens.len(), range.start);
        std::iter::from_fn(move || {
            let seen = sight.reach(next, prompt, cells);
            let run = next..seen.min(range.end);
            next = run.end;
            (!run.is_empty()).then_some((run, seen))
        })
    }
}

/// Which cells of a row attend to which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Every cell to every cell.
    #[default]
    All,
    /// The prompt is one block, and blocks of `length` cells follow, counted from its end. A cell
    /// attends to its own block and to those before it.
    #[cfg_attr(not(test), allow(dead_code))] // no family that runs here has it yet
    Blocks { length: NonZeroUsize },
}

impl Sight {
    /// How many of a row's `cells` the cell `at` attends to, from the first on. The first `prompt`
    /// are the prompt.
    pub(crate) fn reach(self, at: usize, prompt: usize, cells: usize) -> usize {
        match self {
            Self::All => cells,
            Self::Blocks { .. } if at < prompt => prompt.min(cells),
            Self::Blocks { length } => (prompt + ((at - prompt) / length + 1) * length.get()).min(cells),
        }
    }
}

impl Pass {
    /// Adds a row of tokens, the first `prompt` of which are the prompt. The states at `asked`,
    /// ascending positions in the row, follow those of the earlier rows; returns the index of the
    /// first.
    pub(crate) fn push(&mut self, ids: impl Iterator<Item = u32>, prompt: usize, asked: Vec<usize>) -> usize {
        let (first, first_asked) = (self.ids.len(), self.asked);
        self.ids.extend(ids);
        self.asked += asked.len();
        self.rows.push(PassRow { tokens: first..self.ids.len(), asked, prompt });
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
    /// Which cells of a row attend to which.
    fn sight(&self) -> Sight {
        Sight::All
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_from_the_end_of_the_prompt_and_the_last_may_be_shorter() {
        let blocks = Sight::Blocks { length: NonZeroUsize::new(4).unwrap() };
        let row = |prompt| PassRow { tokens: 5..16, asked: vec![0, 2, 3, 6, 10], prompt };
        let runs = |row: &PassRow, sight, range| row.runs(sight, range).collect::<Vec<_>>();
        assert_eq!(runs(&row(3), blocks, 0..11), [(0..3, 3), (3..7, 7), (7..11, 11)]);
        assert_eq!(runs(&row(0), blocks, 0..11), [(0..4, 4), (4..8, 8), (8..11, 11)]);
        assert_eq!(runs(&row(2), blocks, 1..8), [(1..2, 2), (2..6, 6), (6..8, 10)], "a piece of a row");
        assert_eq!(runs(&row(20), blocks, 0..11), [(0..11, 11)], "all is prompt");
        assert_eq!(runs(&row(3), Sight::All, 2..9), [(2..9, 11)]);
        assert_eq!(runs(&row(3), blocks, 4..4), []);
        assert_eq!(row(3).asked_in(&(2..6)).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(row(3).asked_in(&(7..10)).count(), 0);
        assert_eq!([2, 3, 6, 7, 10].map(|at| blocks.reach(at, 3, 11)), [3, 7, 7, 11, 11]);
    }
}
