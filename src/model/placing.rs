//! Which cells of a row a pass computes where the row reuses an earlier pass, and where the keys
//! and values of the other cells come from. Out of scope: networks, and what is asked of states.

use super::kept::{Key, Pages, Read, runs};
use super::network::{Outputs, RowPart, Sight, Source};
use super::row::Row;
use crate::diffusion::{Canvas, Cell, Reuse, TokenId, u32_of};
use std::collections::BTreeSet;
use std::ops::Range;

/// How a row that reuses an earlier pass is computed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placing {
    key: Key,
    /// The cells that are seen, ascending, as a pass over the base reads them.
    cells: Vec<Read>,
    /// How many of these, from the first on, have their keys and values in the store.
    valid: usize,
    /// Those that the row computes: indices of `cells`, ascending.
    run: Vec<usize>,
    /// Of these, cells that are computed only because another cell is read from their state.
    sources: BTreeSet<usize>,
    outputs: Outputs,
    /// Those that are computed beside the row, as the base has them, because the store lost them.
    beside: Range<usize>,
    /// Whether the row's canvas is the base.
    is_full: bool,
    /// Whether the store has room for what is computed of the base.
    is_kept: bool,
}

/// Tokens of a row, or of what is computed beside it, for a pass.
pub(super) struct Placed {
    pub(super) ids: Vec<u32>,
    pub(super) part: RowPart,
}

/// A row as the network reads it.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    pub(super) mask: TokenId,
    /// Whether the fixed tokens are masked, too.
    pub(super) is_unguided: bool,
}

impl Reader {
    pub(super) fn id(self, cell: &Cell) -> u32 {
        match cell {
            Cell::Fixed(_) if self.is_unguided => self.mask.0,
            cell => cell.token().unwrap_or(self.mask).0,
        }
    }

    fn read(self, canvas: &Canvas, at: usize) -> Read {
        Read { at: u32_of(at), id: self.id(&canvas.cells()[at]) }
    }
}

impl Placing {
    /// How `row` is computed in view of what `pages` have; `asked` are the cells whose states are
    /// needed, and `sight` and `outputs` are the network's. `None` where the row reuses nothing.
    pub(super) fn of(
        row: &Row<'_>,
        asked: &BTreeSet<usize>,
        reader: Reader,
        (sight, outputs): (Sight, Outputs),
        pages: &Pages,
    ) -> Option<Self> {
        let (name, Reuse { base, run, seen }) = row.reuse.as_ref().filter(|_| row.shown.is_none())?;
        let prompt = row.canvas.prompt_length();
        let reach = |at: usize| sight.reach(at, prompt, row.canvas.len());
        let end = asked.last().map_or(0, |last| reach(*last));
        let cells: Vec<Read> =
            seen.iter().cloned().flatten().filter(|at| *at < end).map(|at| reader.read(base, at)).collect();
        let key = Key { sequence: name.0, is_unguided: reader.is_unguided };
        let valid = pages.valid(key, &cells, sight, prompt);
        let is_full = *base == row.canvas;
        let mut sources = BTreeSet::new();
        let run: Vec<usize> = if is_full {
            // all that is not kept, and at least the blocks of the cells whose states are read
            let first = asked.first().map_or(usize::MAX, |first| reach(outputs.source(*first)));
            let of_asked = cells.partition_point(|cell| reach(cell.at as usize) < first);
            let is_all = sight == Sight::All;
            (if is_all { 0 } else { valid.min(of_asked) }..cells.len()).collect()
        } else {
            let is_blank = |at: usize| row.canvas.cells()[at] == Cell::Blank && asked.contains(&at);
            let runs = |at: usize| run.iter().any(|range| range.contains(&at)) || is_blank(at);
            sources.extend(asked.iter().filter(|at| runs(**at)).map(|at| outputs.source(*at)));
            sources.retain(|at| !runs(*at));
            let runs = |at: usize| runs(at) || sources.contains(&at);
            (0..cells.len()).filter(|index| runs(cells[*index].at as usize)).collect()
        };
        let needed = (0..cells.len()).rev().find(|index| run.binary_search(index).is_err());
        // where every cell attends to every other, none can be computed without the others
        let until = |last: usize| if sight == Sight::All { cells.len() } else { last + 1 };
        let beside = valid..needed.map_or(valid, |last| until(last).max(valid));
        Some(Self { key, cells, valid, run, sources, outputs, beside, is_full, is_kept: false })
    }

    pub(super) const fn key(&self) -> Key {
        self.key
    }

    /// Tokens of the pass.
    pub(super) fn tokens(&self) -> usize {
        self.run.len() + self.beside.len()
    }

    /// Makes room in the store for what is computed of the base. False if there is none: then the
    /// row has to be placed anew.
    pub(super) fn reserve(&mut self, pages: &mut Pages) -> bool {
        let computed = if self.is_full { self.cells.len() } else { self.beside.end };
        if self.is_full || !self.beside.is_empty() {
            self.is_kept = pages.reserve(self.key, &self.cells[..computed], self.valid);
            return self.is_kept;
        }
        pages.touch(self.key);
        true
    }

    /// Whether the row computes the cell, and the state that is read for it.
    pub(super) fn runs(&self, at: usize) -> bool {
        let is_computed = |at: usize| self.token(at).is_some();
        is_computed(at) && !self.sources.contains(&at) && is_computed(self.outputs.source(at))
    }

    /// The token of the row that a cell is.
    pub(super) fn token(&self, at: usize) -> Option<usize> {
        self.run.binary_search_by_key(&at, |index| self.cells[*index].at as usize).ok()
    }

    /// What is computed beside the row, if anything, as the tokens of the pass from `first` on.
    pub(super) fn beside(&self, pages: &Pages, first: usize) -> Option<Placed> {
        let computed = &self.cells[self.beside.clone()];
        if computed.is_empty() {
            return None;
        }
        let source = |index: usize| match index.checked_sub(self.beside.start) {
            Some(token) => Source::Fresh(first + token),
            None => Source::Kept(pages.slots_of(self.key)(index)),
        };
        let keys = (0..self.beside.end).map(|index| (self.cells[index].at, source(index))).collect();
        let keep = self.keep(pages, self.beside.clone().enumerate());
        let part = RowPart { positions: computed.iter().map(|cell| cell.at).collect(), keys, keep };
        Some(Placed { ids: computed.iter().map(|cell| cell.id).collect(), part })
    }

    /// The row itself, as the tokens of the pass from `first` on; what is computed beside it
    /// begins at `beside`.
    pub(super) fn row(&self, row: &Row<'_>, reader: Reader, pages: &Pages, beside: usize, first: usize) -> Placed {
        let source = |index: usize| match (self.run.binary_search(&index), index.checked_sub(self.beside.start)) {
            (Ok(token), _) => Source::Fresh(first + token),
            (Err(_), Some(token)) => Source::Fresh(beside + token),
            (Err(_), None) => Source::Kept(pages.slots_of(self.key)(index)),
        };
        let keys = (0..self.cells.len()).map(|index| (self.cells[index].at, source(index))).collect();
        let run = self.run.iter().map(|index| reader.read(row.canvas, self.cells[*index].at as usize));
        let (positions, ids) = run.map(|Read { at, id }| (at, id)).unzip();
        let new = self.run.iter().copied().enumerate().filter(|(_, index)| self.is_full && *index >= self.valid);
        Placed { ids, part: RowPart { positions, keys, keep: self.keep(pages, new) } }
    }

    /// Tokens of a row and the indices of their cells, as tokens and slots.
    fn keep(&self, pages: &Pages, cells: impl Iterator<Item = (usize, usize)>) -> Vec<(Range<usize>, usize)> {
        let slot = pages.slots_of(self.key);
        if self.is_kept { runs(cells.map(|(token, index)| (token, slot(index)))) } else { Vec::new() }
    }
}
