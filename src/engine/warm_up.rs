//! The first forward pass, before the server is ready: loads weights and allocates memory.

use crate::diffusion::{Canvas, Cell, Seed, TokenId};
use crate::model::{Denoiser, Filter, ModelError, Row, Sampling};

/// Reads canvases of `tokens` tokens in total, half of their cells blank and half filled: as much
/// work as a pass of that size can have. A GPU without the memory for it fails here, and not under
/// load.
///
/// # Errors
/// When the pass fails.
pub fn warm_up(model: &mut dyn Denoiser, tokens: usize) -> Result<(), ModelError> {
    let spec = model.spec();
    let (mask, review) = (spec.mask, spec.has_quality);
    let filling = (0..spec.vocabulary).map(TokenId).find(|token| *token != mask).unwrap_or(TokenId(0));
    let cell = |at: usize| if at.is_multiple_of(2) { Cell::Blank } else { Cell::Filled(filling) };
    let mut canvases = Vec::new();
    let mut left = tokens.max(1);
    while left > 0 {
        let length = left.min(spec.canvas_max);
        canvases.push(Canvas::new((0..length).map(cell).collect()));
        left -= length;
    }
    let sampling = Sampling { temperature: 0.0, seed: Seed(0), step: 0, filter: Filter::ALL };
    let row = |canvas| Row {
        canvas,
        window: 0..Canvas::len(canvas),
        sampling,
        guidance: None,
        biases: &[],
        only: &[],
        review,
        present: false,
    };
    let rows: Vec<Row<'_>> = canvases.iter().map(row).collect();
    model.read(&rows).map(|_| ())
}
