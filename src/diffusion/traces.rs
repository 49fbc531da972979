//! What a sequence keeps of its cells besides their tokens, for the rules that ask.

use super::canvas::Edit;
use super::policy::{Choice, FilledCell};
use super::units::{Position, Probability};

/// Of each cell of a canvas.
#[derive(Clone, Debug)]
pub(super) struct Traces(Vec<Trace>);

/// Of one cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    /// Probability of the token when it was written; 1 where it was given.
    pub(super) confidence: Probability,
    /// The first step that sees the token.
    pub(super) seen_from: u32,
    /// What the remasking's rule remembers.
    pub(super) memory: f32,
}

impl Traces {
    /// Of so many cells, whose tokens are given.
    pub(super) fn new(cells: usize) -> Self {
        Self(vec![Trace { confidence: Probability::ONE, seen_from: 0, memory: 0.0 }; cells])
    }

    pub(super) fn of(&self, at: Position) -> Trace {
        self.0[at.index()]
    }

    /// Keeps what the steps from `next` on may ask about the cells: of those that stay, and of the
    /// tokens just written.
    pub(super) fn remember(&mut self, remasking: &Choice, filled: &[FilledCell], edits: &[Edit], next: u32) {
        if let Some(remember) = remasking.rule.remember {
            for cell in filled {
                self.0[cell.at.index()].memory = remember(cell);
            }
        }
        for edit in edits {
            if let Some((_, confidence)) = edit.written() {
                self.0[edit.at().index()] = Trace { confidence, seen_from: next, memory: 0.0 };
            }
        }
    }
}
