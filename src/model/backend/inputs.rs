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
