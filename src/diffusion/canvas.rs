//! The canvas: cells that are blank, filled or fixed. Only edits change it. Out of scope: the id of
//! a model's mask; a blank is a variant, not an id.

use super::units::{Position, Probability, TokenId};
use std::ops::Range;

/// One cell of a canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Not filled yet, or erased.
    Blank,
    /// Written by the model; may be erased again.
    Filled(TokenId),
    /// Given by the user (prompt, pinned text); never changes.
    Fixed(TokenId),
}

impl Cell {
    /// The token that stands here, if any.
    pub const fn token(self) -> Option<TokenId> {
        match self {
            Self::Blank => None,
            Self::Filled(token) | Self::Fixed(token) => Some(token),
        }
    }
}

/// One change of one cell. An answer is the sequence of its edits: replaying them over the first
/// canvas gives the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A blank cell gets a token.
    Fill {
        /// Where.
        at: Position,
        /// What now stands there.
        token: TokenId,
        /// The model's probability of the token when it was chosen.
        confidence: Probability,
    },
    /// A filled cell becomes blank again: it is remasked.
    Erase {
        /// Where.
        at: Position,
        /// What stood there.
        was: TokenId,
        /// The quality it was judged by; `None` where the policy erases without judging.
        quality: Option<Probability>,
    },
    /// A filled cell gets another token at once, without becoming blank in between.
    Replace {
        /// Where.
        at: Position,
        /// What stood there.
        was: TokenId,
        /// What now stands there.
        token: TokenId,
        /// The model's probability of the new token when it was chosen.
        confidence: Probability,
    },
}

impl Edit {
    /// The cell it changes.
    pub const fn at(&self) -> Position {
        match self {
            Self::Fill { at, .. } | Self::Erase { at, .. } | Self::Replace { at, .. } => *at,
        }
    }

    /// The token that it writes, and its confidence; `None` of an erasure.
    pub const fn written(&self) -> Option<(TokenId, Probability)> {
        match self {
            Self::Fill { token, confidence, .. } | Self::Replace { token, confidence, .. } => {
                Some((*token, *confidence))
            }
            Self::Erase { .. } => None,
        }
    }
}

/// An edit that does not fit the cell it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{edit:?} does not fit the canvas: that cell is {found:?}")]
pub struct EditError {
    /// What was to be done.
    pub edit: Edit,
    /// What stands there; `None` past the canvas's end.
    pub found: Option<Cell>,
}

/// A row of cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    cells: Vec<Cell>,
}

impl Canvas {
    /// A canvas of these cells.
    pub const fn new(cells: Vec<Cell>) -> Self {
        Self { cells }
    }

    /// A fixed prompt followed by `blanks` blank cells.
    pub fn continuing(prompt: &[TokenId], blanks: usize) -> Self {
        let prompt = prompt.iter().map(|&token| Cell::Fixed(token));
        Self::new(prompt.chain(std::iter::repeat_n(Cell::Blank, blanks)).collect())
    }

    /// All cells, first to last.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Cells on the canvas.
    #[allow(clippy::len_without_is_empty)] // an empty canvas is as good as any
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Fixed cells before the first one that is not fixed.
    pub fn prompt_length(&self) -> usize {
        self.cells.iter().take_while(|cell| matches!(cell, Cell::Fixed(_))).count()
    }

    /// Positions of the blank cells in `range`, left to right.
    pub fn blanks(&self, range: Range<usize>) -> impl Iterator<Item = Position> + '_ {
        range.filter(|&index| self.cells.get(index) == Some(&Cell::Blank)).map(Position::at)
    }

    /// Positions and tokens of the cells in `range` that the model filled, left to right.
    pub fn filled(&self, range: Range<usize>) -> impl Iterator<Item = (Position, TokenId)> + '_ {
        range.filter_map(|index| match self.cells.get(index) {
            Some(Cell::Filled(token)) => Some((Position::at(index), *token)),
            Some(Cell::Blank | Cell::Fixed(_)) | None => None,
        })
    }

    /// The tokens of the fixed cells in `range`, left to right.
    pub fn fixed(&self, range: Range<usize>) -> impl Iterator<Item = TokenId> + '_ {
        let end = range.end.min(self.len());
        self.cells[range.start.min(end)..end].iter().filter_map(|cell| match cell {
            Cell::Fixed(token) => Some(*token),
            Cell::Blank | Cell::Filled(_) => None,
        })
    }

    /// Makes one change.
    ///
    /// # Errors
    /// When the cell is not what the edit says: filling needs a blank cell, erasing and replacing
    /// one filled with `was`.
    pub fn apply(&mut self, edit: &Edit) -> Result<(), EditError> {
        let cell = self.cells.get_mut(edit.at().index());
        match (cell, edit) {
            (Some(cell @ Cell::Blank), Edit::Fill { token, .. }) => *cell = Cell::Filled(*token),
            (Some(cell), Edit::Erase { was, .. }) if *cell == Cell::Filled(*was) => *cell = Cell::Blank,
            (Some(cell), Edit::Replace { was, token, .. }) if *cell == Cell::Filled(*was) => {
                *cell = Cell::Filled(*token);
            }
            (found, _) => return Err(EditError { edit: *edit, found: found.map(|cell| *cell) }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TokenId = TokenId(1);
    const B: TokenId = TokenId(2);

    fn fill(at: u32, token: TokenId) -> Edit {
        Edit::Fill { at: Position(at), token, confidence: Probability::ONE }
    }

    fn erase(at: u32, was: TokenId) -> Edit {
        Edit::Erase { at: Position(at), was, quality: None }
    }

    fn replace(at: u32, was: TokenId, token: TokenId) -> Edit {
        Edit::Replace { at: Position(at), was, token, confidence: Probability::ONE }
    }

    #[test]
    fn a_fixed_cell_can_never_be_edited() {
        let mut canvas = Canvas::continuing(&[A], 1);
        assert!(canvas.apply(&fill(0, B)).is_err());
        assert!(canvas.apply(&replace(0, A, B)).is_err());
        assert!(canvas.apply(&erase(0, A)).is_err());
        assert_eq!(canvas.cells(), [Cell::Fixed(A), Cell::Blank]);
    }

    #[test]
    fn an_edit_must_fit_its_cell() {
        let mut canvas = Canvas::continuing(&[], 1);
        assert!(canvas.apply(&erase(0, A)).is_err(), "nothing to erase");
        assert!(canvas.apply(&replace(0, A, B)).is_err(), "nothing to replace");
        canvas.apply(&fill(0, A)).unwrap();
        assert!(canvas.apply(&fill(0, B)).is_err(), "already filled");
        assert!(canvas.apply(&erase(0, B)).is_err(), "something else stands there");
        assert!(canvas.apply(&replace(0, B, A)).is_err(), "something else stands there");
        assert!(canvas.apply(&fill(1, A)).is_err(), "past the end");
        assert!(canvas.apply(&replace(1, A, B)).is_err(), "past the end");
        assert_eq!(canvas.cells(), [Cell::Filled(A)]);
        canvas.apply(&replace(0, A, B)).unwrap();
        assert_eq!(canvas.cells(), [Cell::Filled(B)], "filled all the time");
        canvas.apply(&erase(0, B)).unwrap();
        assert_eq!(canvas.cells(), [Cell::Blank]);
    }

    #[test]
    fn blanks_and_filled_cells_are_listed_within_the_range() {
        let canvas = Canvas::new(vec![Cell::Fixed(A), Cell::Blank, Cell::Filled(B), Cell::Blank]);
        assert_eq!(canvas.blanks(0..3).collect::<Vec<_>>(), [Position(1)]);
        assert_eq!(canvas.filled(0..9).collect::<Vec<_>>(), [(Position(2), B)]);
    }
}
