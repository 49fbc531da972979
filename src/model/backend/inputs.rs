//! What a pass brings to its device: all its words in one copy.

use candle_core::{Result, Tensor};
use std::ops::Range;

/// Words that are gathered for a pass: token ids, positions, indices, and what kernels read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Inputs {
    pub(crate) words: Vec<u32>,
}

impl Inputs {
    /// Adds words; returns their place.
    pub(crate) fn add(&mut self, words: impl IntoIterator<Item = u32>) -> Range<usize> {
        let first = self.words.len();
        self.words.extend(words);
        first..self.words.len()
    }
}

/// The words at a place of inputs that lie on a device.
pub(crate) fn part(inputs: &Tensor, place: &Range<usize>) -> Result<Tensor> {
    inputs.narrow(0, place.start, place.len())
}

/// What attention over some spans needs on a GPU, as places among the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Of each tile its first query, queries, first key and keys.
    pub(crate) tiles: Range<usize>,
    /// How many keys each query sees.
    pub(crate) limits: Range<usize>,
    /// Tiles.
    pub(crate) count: usize,
    /// Queries of a tile at most.
    pub(crate) size: usize,
}

/// What some summaries need on a GPU, as places among the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskPlaces {
    /// What is asked of each row.
    pub(crate) asks: Range<usize>,
    /// The tokens of biases, then those that may be written.
    pub(crate) tokens: Range<usize>,
    /// One for each token that has one.
    pub(crate) biases: Range<usize>,
    /// Rows.
    pub(crate) count: usize,
}
