//! What a model returns for a canvas in one forward pass, in numbers that a policy can compare.

use super::units::{Position, Probability, TokenId};
use std::sync::Arc;

/// What the model would write into one blank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// The blank.
    pub at: Position,
    /// The token to write: the most probable one, or one sampled at the request's temperature.
    pub token: TokenId,
    /// Probability of `token`, untempered and without noise.
    pub confidence: Probability,
    /// Probability of the most probable token minus that of the second.
    pub margin: Probability,
    /// Entropy of the distribution in nats; finite, not negative.
    pub entropy: f32,
}

/// What the model says about one token it wrote earlier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Review {
    /// The filled cell.
    pub at: Position,
    /// Probability that the token there is right given everything else (PRISM, arXiv 2510.01384,
    /// eq. 5): as the quality head says, or exact.
    pub quality: Probability,
}

/// What the output layer says about one token that the model wrote earlier: its probability as the
/// canvas stands now, the token itself included in what the model sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Present {
    /// The filled cell.
    pub at: Position,
    /// Probability of the token there, untempered.
    pub confidence: Probability,
}

/// What the output layer would write into a cell: its most probable token as the canvas stands now,
/// the token that stands in a filled cell included in what the model sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The cell.
    pub at: Position,
    /// The most probable of the tokens that may stand there; may be the one that does.
    pub token: TokenId,
    /// Probability of `token`, untempered, of the whole vocabulary.
    pub confidence: Probability,
}

/// A number by which cells are ranked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The cell.
    pub at: Position,
    /// The larger, the better; finite.
    pub score: f32,
}

/// The model's own distribution in a blank: without guidance, biases, penalties and credit.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The blank.
    pub at: Position,
    /// (vocabulary without the mask): natural logarithms of the probabilities, by token id.
    pub log_probabilities: Arc<[f32]>,
}

/// One canvas as one forward pass saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// One per blank of the window, left to right.
    pub proposals: Vec<Proposal>,
    /// One per filled cell of the window, left to right; empty when the row asked for none.
    pub reviews: Vec<Review>,
    /// One per filled cell of the window, left to right; empty when the row asked for none.
    pub present: Vec<Present>,
    /// One per filled cell of the window, left to right; empty when the row asked for none.
    pub best: Vec<Best>,
    /// What is the most probable without credit, one per blank of the window, left to right; empty
    /// when the row has no credit.
    pub favourites: Vec<Best>,
    /// One per blank of the window, left to right; empty when the row asked for none.
    pub distributions: Vec<Distribution>,
    /// One per blank and filled cell of the window, left to right; empty when the row asked for
    /// none.
    pub scores: Vec<Score>,
}
