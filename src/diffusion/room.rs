//! The changes of filled cells that a step has room for. Out of scope: how many they are.

use super::canvas::Edit;

/// The changes of filled cells that a step may still make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Erasures and replacements together.
    pub(super) changes: u32,
    /// Erasures among them.
    pub(super) erasures: u32,
}

impl Room {
    /// Whether there is room for this edit, which is then taken. A fill is no change of a filled
    /// cell.
    pub(super) fn take(&mut self, edit: &Edit) -> bool {
        let erasures = match edit {
            Edit::Erase { .. } => self.erasures.checked_sub(1),
            Edit::Replace { .. } => Some(self.erasures),
            Edit::Fill { .. } => None,
        };
        let left = self.changes.checked_sub(1).zip(erasures);
        *self = left.map_or(*self, |(changes, erasures)| Self { changes, erasures });
        left.is_some()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::units::{Position, Probability, TokenId};
    use super::*;

    /// How many of so many replacements, and then of so many erasures, there is room for.
    pub(in crate::diffusion) fn taken(mut room: Room, replacements: u32, erasures: u32) -> [u32; 2] {
        let (at, was) = (Position(0), TokenId(0));
        let replace = Edit::Replace { at, was, token: TokenId(1), confidence: Probability::ONE };
        let erase = Edit::Erase { at, was, quality: None };
        [(replacements, replace), (erasures, erase)]
            .map(|(count, edit)| u32::try_from((0..count).filter(|_| room.take(&edit)).count()).unwrap())
    }

    #[test]
    fn a_fill_is_no_change_of_a_filled_cell_and_erasures_have_less_room() {
        let mut room = Room { changes: 3, erasures: 1 };
        assert!(!room.take(&Edit::Fill { at: Position(0), token: TokenId(0), confidence: Probability::ONE }));
        assert_eq!(taken(room, 0, 3), [0, 1]);
        assert_eq!(taken(room, 5, 3), [3, 0]);
        assert_eq!(taken(room, 2, 3), [2, 1]);
    }
}
