//! The working copy of a step that corrects (ProSeCo, arXiv 2602.11590, algorithm 2): a canvas
//! without blanks, in which the model rewrites its own tokens until nothing changes. Out of scope:
//! which steps correct (`schedule`), and the edits that they make.

use super::canvas::{Canvas, Cell};
use super::reading::{Best, Proposal};

/// A canvas whose blanks are filled for the time of one step.
#[derive(Clone, Debug)]
pub(super) struct Correction {
    canvas: Canvas,
    /// Passes over it that are left at most.
    left: u32,
}

impl Correction {
    /// A copy of `canvas` with its blanks filled as proposed, which is read `passes` times at most,
    /// at least once.
    pub(super) fn new(canvas: &Canvas, proposals: &[Proposal], passes: u32) -> Self {
        let mut cells = canvas.cells().to_vec();
        for proposal in proposals {
            cells[proposal.at.index()] = Cell::Filled(proposal.token);
        }
        Self { canvas: Canvas::new(cells), left: passes.max(1) }
    }

    /// What the next pass reads.
    pub(super) const fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// Takes the most probable tokens of a pass. True if there is another pass: one is left, and
    /// not all of the tokens stood there already.
    pub(super) fn rewrite(&mut self, best: &[Best]) -> bool {
        let mut cells = self.canvas.cells().to_vec();
        best.iter().for_each(|best| cells[best.at.index()] = Cell::Filled(best.token));
        let is_settled = cells == self.canvas.cells();
        self.canvas = Canvas::new(cells);
        self.left -= 1;
        self.left > 0 && !is_settled
    }
}
