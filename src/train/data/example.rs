//! A row of training data.

/// A row of training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Positions that may be masked, ascending.
    pub free: Vec<u32>,
}
