//! The interface between the algorithm and a model: a batch of canvases goes in, readings come out.
//! Out of scope: policies, requests and time.

use super::backend::cost::{Cost, Speed};
use super::backend::counts::Counts;
use super::error::{ModelError, RowError};
use super::row::{Row, SequenceName};
use super::spec::ModelSpec;
use crate::diffusion::{Reading, TokenId};
use std::fmt;

/// A masked diffusion model, its quality head included. Tensors stay behind this trait.
pub trait Denoiser: Send {
    /// What it can take and what it offers. Never changes.
    fn spec(&self) -> &ModelSpec;

    /// One forward pass over all rows; one reading or error per row, in order. Either depends on
    /// that row alone (as far as docs/models.md promises this of arithmetic).
    ///
    /// # Errors
    /// When the pass fails; then no row has a reading.
    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError>;

    /// What its device was asked to do so far; all zero where nothing is counted.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// What a pass over these rows computes and reads; `None` of a model without weights.
    fn cost(&self, _batch: &Batch<'_>) -> Option<Cost> {
        None
    }

    /// Tokens that a pass over this row would compute now: more than the row's own where what it
    /// reuses is not kept any more.
    fn tokens(&self, row: &Row<'_>) -> usize {
        row.tokens()
    }

    /// Drops what is kept for a sequence.
    fn forget(&mut self, _sequence: SequenceName) {}

    /// The keys and values that are kept; `None` where the model keeps none.
    fn kept(&self) -> Option<KeptStates> {
        None
    }

    /// Measures its device with its own operations, which takes a second or two and at most a
    /// gigabyte there; `None` of a model without weights.
    ///
    /// # Errors
    /// When an operation fails, also for lack of memory.
    fn speed(&self) -> Result<Option<Speed>, ModelError> {
        Ok(None)
    }

    /// Every number of one pass over `ids`; ids equal to the mask count as blanks here, and those
    /// before the first blank are the prompt.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the row is too long, or the pass fails.
    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError>;

    /// The same where the first `prompt` ids are the prompt. It matters to block-causal models
    /// only: the others attend to all cells alike.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    fn inspect_prompted(&mut self, ids: &[TokenId], _prompt: usize) -> Result<Inspection, ModelError> {
        self.inspect(ids)
    }
}

impl fmt::Debug for dyn Denoiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denoiser").field("spec", self.spec()).finish()
    }
}

/// Keys and values that a model keeps between passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptStates {
    /// The sequences that have some.
    pub sequences: Vec<SequenceName>,
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes at most.
    pub bytes_max: u64,
    /// Times so far that a sequence lost theirs to others, or that a pass found no room for them.
    pub evicted: u64,
}

/// Every number of one forward pass over one row of ids, for parity checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// (positions, vocabulary): scores before the softmax, that of the mask included.
    pub logits: Vec<Vec<f32>>,
    /// (positions, hidden): states after the final norm, from which the logits of the position are
    /// read; empty where a model has none.
    pub hidden: Vec<Vec<f32>>,
    /// (positions): quality before the sigmoid; `None` without a head.
    pub quality_logits: Option<Vec<f32>>,
}

/// Rows that share a forward pass, concatenated without padding.
pub type Batch<'a> = [Row<'a>];

/// What a forward pass says about each of its rows.
pub type Readings = Vec<Result<Reading, RowError>>;
