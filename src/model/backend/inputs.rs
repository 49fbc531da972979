//! What a pass brings to its device: all its words in one copy.

use candle_core::{Result, Tensor};
use std::ops::Range;

/// Words that are gathered for a pass: token ids, positions, indices, and what kernels read.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) words: Vec<u32>,
    /// What decides, with the model, which kernels run on which places: the end of each addition.
    pub(crate) shape: Vec<usize>,
    /// Whether whole rows of logits come to the host: too many numbers to keep a place for them in
    /// a recorded pass.
    pub(crate) brings_rows: bool,
    /// How many rows there are to be of so many.
    filled_up: fn(usize) -> usize,
}

impl Default for Inputs {
    fn default() -> Self {
        Self::filled_up_by(|rows| rows)
    }
}

impl Inputs {
    /// Each addition is filled up with rows of zeros, so that passes of nearly the same size have
    /// the same shape.
    pub(crate) fn filled_up_by(filled_up: fn(usize) -> usize) -> Self {
        Self { words: Vec::new(), shape: Vec::new(), brings_rows: false, filled_up }
    }

    /// Adds words; returns their place, filled up.
    pub(crate) fn add(&mut self, words: impl IntoIterator<Item = u32>) -> Range<usize> {
        self.add_rows(words, 1)
    }

    /// Adds rows of `width` words each; returns their place, filled up.
    pub(crate) fn add_rows(&mut self, words: impl IntoIterator<Item = u32>, width: usize) -> Range<usize> {
        let first = self.words.len();
        self.words.extend(words);
        let rows = (self.words.len() - first) / width;
        self.words.resize(first + (self.filled_up)(rows) * width, 0);
        self.shape.push(self.words.len());
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
    /// Of each tile its first query, queries (0 in those that fill up), first key and keys.
    pub(crate) tiles: Range<usize>,
    /// How many keys each query sees.
    pub(crate) limits: Range<usize>,
    /// The list of keys that tiles count in, where these do not lie side by side.
    pub(crate) keys: Option<Range<usize>>,
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
    /// Rows, those that fill up included.
    pub(crate) count: usize,
}
