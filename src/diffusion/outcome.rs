//! What a step did, or why it could not be taken. Plain data.

use super::canvas::{Edit, EditError};
use std::ops::Range;

/// A reading that does not fit its canvas: a fault of the model, never of the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadingError {
    /// Proposals are not exactly the window's blanks, left to right.
    #[error("the reading has {given} proposals that are not the {blanks} blanks of the window")]
    NotTheBlanks {
        /// Proposals in the reading.
        given: usize,
        /// Blanks in the window.
        blanks: usize,
    },
    /// An edit made from it does not fit.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// What erases in a block that is full: no remasking of the registry.
pub const PROOFREADING: &str = "proofreading";

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    /// Counted from 0 over the whole run; also the number of the forward pass.
    pub step: u32,
    /// The changes, those of filled cells first; no cell appears twice.
    pub edits: Vec<Edit>,
    /// What erased, if something did: the name of the remasking, or [`PROOFREADING`].
    pub erased_by: Option<&'static str>,
    /// The block that this step finished. Its cells never change again, unless the policy corrects
    /// finished blocks ([`super::Sequence::is_final_at_end`]).
    pub finished: Option<Range<usize>>,
}
