//! Cells of a full text that were erased and got the same token again.

use super::canvas::Edit;
use super::units::{Position, TokenId};
use std::collections::{BTreeMap, BTreeSet};

/// What was erased and written again, so that a repair does not erase the same token for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Rewritten {
    /// What stood in the cells that are erased now.
    was: BTreeMap<Position, TokenId>,
    /// Cells that were written again as they were, since another cell last changed.
    same: BTreeSet<Position>,
}

impl Rewritten {
    /// Records an edit.
    pub(super) fn take(&mut self, edit: &Edit) {
        match edit {
            Edit::Erase { at, was, .. } => drop(self.was.insert(*at, *was)),
            Edit::Fill { at, token, .. } if self.was.remove(at) == Some(*token) => drop(self.same.insert(*at)),
            Edit::Fill { .. } | Edit::Replace { .. } => self.same.clear(),
        }
    }

    /// Whether a cell was written again as it was, and no other cell has changed since.
    pub(super) fn is_same(&self, at: Position) -> bool {
        self.same.contains(&at)
    }
}
