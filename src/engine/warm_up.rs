//! The first forward pass, before the server is ready: loads weights and allocates memory.

use crate::diffusion::{Canvas, Cell, TokenId};
use crate::model::{Denoiser, ModelError, Row};

/// Reads canvases of `tokens` tokens in total, half of their cells blank and half filled: as much
/// work as a pass of that size can have. A GPU with too little memory fails here, not under load.
///
/// # Errors
/// When the pass fails, or one of its numbers is not finite.
pub fn warm_up(model: &mut dyn Denoiser, tokens: usize) -> Result<(), ModelError> {
    let spec = model.spec();
    let (mask, review) = (spec.mask, spec.has_quality);
    let filling = (0..spec.vocabulary).map(TokenId).find(|token| *token != mask).unwrap_or(TokenId(0));
    let cell = |at: usize| if at.is_multiple_of(2) { Cell::Blank } else { Cell::Filled(filling) };
    let tokens = tokens.max(1);
    let lengths = (0..tokens).step_by(spec.canvas_max).map(|from| spec.canvas_max.min(tokens - from));
    let canvases: Vec<Canvas> = lengths.map(|length| Canvas::new((0..length).map(cell).collect())).collect();
    let plain = canvases.iter().map(|canvas| Row::plain(canvas, 0..canvas.len()));
    let rows: Vec<Row<'_>> = plain.map(|row| Row { review, ..row }).collect();
    model.read(&rows)?.into_iter().try_for_each(|reading| reading.map(drop))?;
    Ok(())
}
