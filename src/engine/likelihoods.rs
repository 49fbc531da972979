//! The probability of each token of a finished canvas, given all others: a row for each, from
//! which that token is left out. Out of scope: other rows of the pass.

use crate::diffusion::{Canvas, Cell, Position, Probability, Reading, TokenId};
use crate::model::{Restriction, Row};
use std::collections::VecDeque;

/// The tokens that are still to be measured, left to right.
#[derive(Debug, Default)]
pub(super) struct Likelihoods {
    left: VecDeque<(Position, TokenId)>,
    /// The rows of the next pass, for the first of them.
    rows: Vec<LeaveOneOut>,
}

/// A canvas without one token.
#[derive(Debug)]
struct LeaveOneOut {
    at: Position,
    canvas: Canvas,
    only: [Restriction; 1],
}

impl Likelihoods {
    /// For the filled cells of `canvas`.
    pub(super) fn new(canvas: &Canvas) -> Self {
        Self { left: canvas.filled(0..canvas.len()).collect(), rows: Vec::new() }
    }

    /// Rows that are still to be read.
    pub(super) fn len(&self) -> usize {
        self.left.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Gives up what is left.
    pub(super) fn clear(&mut self) {
        self.left.clear();
        self.rows.clear();
    }

    /// Makes the rows of the next pass, at most `count` of them.
    pub(super) fn prepare(&mut self, canvas: &Canvas, count: usize) {
        let row = |&(at, token): &(Position, TokenId)| {
            let without = |(index, cell): (usize, &Cell)| if index == at.index() { Cell::Blank } else { *cell };
            let canvas = Canvas::new(canvas.cells().iter().enumerate().map(without).collect());
            LeaveOneOut {
                at,
                canvas,
                only: [Restriction { cells: at.index()..at.index() + 1, tokens: [token].into() }],
            }
        };
        self.rows = self.left.iter().take(count).map(row).collect();
    }

    /// The rows of the next pass. `plain` says what they have in common.
    pub(super) fn rows<'a>(&'a self, plain: &Row<'a>) -> Vec<Row<'a>> {
        let row = |LeaveOneOut { at, canvas, only }: &'a LeaveOneOut| Row {
            canvas,
            window: at.index()..at.index() + 1,
            only,
            ..plain.clone()
        };
        self.rows.iter().map(row).collect()
    }

    /// Takes the readings of [`Self::rows`]: the probability of each token.
    pub(super) fn take(&mut self, readings: &[Reading]) -> Vec<(Position, Probability)> {
        let count = self.rows.len().min(readings.len());
        self.left.drain(..count);
        let measured = self.rows.drain(..).zip(readings);
        measured.filter_map(|(row, reading)| Some((row.at, reading.proposals.first()?.confidence))).collect()
    }
}
