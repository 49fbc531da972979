//! The interface between the algorithm and a model: a batch of canvases goes in, readings come out.
//! Out of scope: policies, requests and time.

use super::batch::Batch;
use super::error::ModelError;
use super::spec::ModelSpec;
use crate::diffusion::{Reading, TokenId};
use std::fmt;

/// Every number of one forward pass over one row of ids, for parity checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// (positions, vocabulary): scores before the softmax, that of the mask included.
    pub logits: Vec<Vec<f32>>,
    /// (positions, hidden): states after the final norm; empty where a model has none.
    pub hidden: Vec<Vec<f32>>,
    /// (positions): quality before the sigmoid; `None` without a head.
    pub quality_logits: Option<Vec<f32>>,
}

/// A masked diffusion model, its quality head included. Tensors stay behind this trait.
pub trait Denoiser: Send {
    /// What it can take and what it offers. Never changes.
    fn spec(&self) -> &ModelSpec;

    /// One forward pass over all rows; one reading per row, in order. A row's reading depends on
    /// that row alone (as far as docs/models.md promises this of arithmetic).
    ///
    /// # Errors
    /// When the pass fails; then no row has a reading.
    fn read(&mut self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError>;

    /// Every number of one pass over `ids`; ids equal to the mask count as blanks here.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the row is longer than the canvas limit, or the pass
    /// fails.
    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError>;
}

impl fmt::Debug for dyn Denoiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denoiser").field("spec", self.spec()).finish()
    }
}
