//! The pass that answers a batch: its rows, and which cells' states are needed for what. Out of
//! scope: the network, and what is read from states.

use super::interface::{Batch, Readings};
use super::kept::Pages;
use super::network::{Outputs, Pass, Scope, Sight};
use super::placing::{Placing, Reader};
use super::row::Row;
use crate::diffusion::policy::Scoring;
use crate::diffusion::{Cell, Position, TokenId};
use std::collections::{BTreeMap, BTreeSet};

/// The pass that answers a batch, and what its states are for.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) pass: Pass,
    /// Cells that the output layer runs on.
    pub(super) readouts: Vec<Asked>,
    /// Cells that the quality head runs on.
    pub(super) reviewed: Vec<Asked>,
}

/// A cell to report on; `state` and `unguided` index the states of the pass.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) row: usize,
    pub(super) at: Position,
    pub(super) state: usize,
    pub(super) unguided: Option<usize>,
    pub(super) question: Question,
}

/// What is asked about a cell.
#[derive(Clone, Copy)]
pub(super) enum Question {
    /// A token to write into a blank.
    Proposal,
    /// The probability of the token of a filled cell.
    Present(TokenId),
    /// The same, where the cell was masked in a sequence of its own.
    LeftOut(TokenId),
    /// The most probable token of a filled cell.
    Best,
    /// The quality of a filled cell, or of a blank.
    Quality,
}

/// How a row is computed, and the same row without its prompt; `None` where it reuses nothing.
pub(super) type Placings = [Option<Placing>; 2];

/// The cells of a row whose states are needed, or of the same row without its prompt. Of a row that
/// computes some cells only, those among them.
fn by_row(row: &Row<'_>, is_unguided: bool, placing: Option<&Placing>) -> BTreeSet<usize> {
    let with_filled = match is_unguided {
        true if row.guidance.is_none() => return BTreeSet::new(),
        true => row.best,
        false => (row.review && !row.exact) || row.present || row.best || row.scores.is_some(),
    };
    let filled = if with_filled { row.window.clone() } else { 0..0 };
    let filled = row.seen().filled(filled).map(|(at, _)| at);
    let asked = row.canvas.blanks(row.window.clone()).chain(filled).map(Position::index);
    asked.filter(|at| placing.is_none_or(|placing| placing.runs(*at))).collect()
}

/// What rows are planned with.
pub(super) struct Planner<'a> {
    pub(super) sight: Sight,
    pub(super) outputs: Outputs,
    pub(super) mask: TokenId,
    pub(super) pages: &'a Pages,
}

impl Planner<'_> {
    /// The pass over the rows that `readings` has no error for, placed as `placings` say.
    pub(super) fn plan(&self, batch: &Batch<'_>, readings: &Readings, placings: &[Placings]) -> Plan {
        let Plan { mut pass, mut readouts, mut reviewed } = Plan::default();
        for (index, row) in batch.iter().enumerate().filter(|(index, _)| readings[*index].is_ok()) {
            let exact = if row.exact { row.window.clone() } else { 0..0 };
            for (at, token) in row.seen().filled(exact) {
                let source = self.outputs.source(at.index());
                let ids = self.ids_without(row, at).take(self.reach(row, source));
                let state = pass.push(ids, self.scope(row), vec![source]);
                let question = Question::LeftOut(token);
                readouts.push(Asked { row: index, at, state, unguided: None, question });
            }
            let [placing, unguided_placing] = &placings[index];
            let asked = by_row(row, false, placing.as_ref());
            if asked.is_empty() {
                continue;
            }
            let states = self.push(&mut pass, row, &asked, self.reader(false), placing.as_ref());
            let guided = by_row(row, true, unguided_placing.as_ref());
            let unguided: BTreeMap<usize, usize> = match guided.is_empty() {
                true => BTreeMap::new(),
                false => self.push(&mut pass, row, &guided, self.reader(true), unguided_placing.as_ref()).collect(),
            };
            let is_judged = row.scores == Some(Scoring::Quality);
            for (at, state) in states.map(|(at, state)| (Position::at(at), state)) {
                let cell = |question| Asked { row: index, at, state, unguided: None, question };
                let guided = |question| Asked { unguided: unguided.get(&at.index()).copied(), ..cell(question) };
                if row.canvas.cells()[at.index()] == Cell::Blank {
                    readouts.push(guided(Question::Proposal));
                    reviewed.extend(is_judged.then(|| cell(Question::Quality)));
                }
                if let Cell::Filled(token) = row.seen().cells()[at.index()] {
                    reviewed.extend((row.review && !row.exact || is_judged).then(|| cell(Question::Quality)));
                    let is_present = row.present || row.scores == Some(Scoring::Logit);
                    readouts.extend(is_present.then(|| cell(Question::Present(token))));
                    readouts.extend(row.best.then(|| guided(Question::Best)));
                }
            }
        }
        Plan { pass, readouts, reviewed }
    }

    /// Adds a row to a pass; returns each asked cell with the index of the state that is read for
    /// it.
    fn push(
        &self,
        pass: &mut Pass,
        row: &Row<'_>,
        asked: &BTreeSet<usize>,
        reader: Reader,
        placing: Option<&Placing>,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let mut sources: Vec<usize> = asked.iter().map(|at| self.outputs.source(*at)).collect();
        sources.dedup(); // the first two cells may have the same
        let first = self.push_sources(pass, row, &sources, reader, placing);
        let place = |source: usize| sources.partition_point(|other| *other < source);
        let states: Vec<_> = asked.iter().map(|at| (*at, first + place(self.outputs.source(*at)))).collect();
        states.into_iter()
    }

    /// The same with the cells whose states are read, ascending; returns the index of the first
    /// state.
    fn push_sources(
        &self,
        pass: &mut Pass,
        row: &Row<'_>,
        sources: &[usize],
        reader: Reader,
        placing: Option<&Placing>,
    ) -> usize {
        let scope = self.scope(row);
        let Some(placing) = placing else {
            let cells = sources.last().map_or(0, |last| self.reach(row, *last));
            let ids = row.seen().cells()[..cells].iter().map(|cell| reader.id(cell));
            return pass.push(ids, scope, sources.to_vec());
        };
        let beside = pass.ids.len();
        if let Some(placed) = placing.beside(self.pages, beside) {
            pass.push_part(placed.ids.into_iter(), scope, Vec::new(), placed.part);
        }
        let placed = placing.row(row, reader, self.pages, beside, pass.ids.len());
        let tokens = sources.iter().filter_map(|at| placing.token(*at)).collect();
        pass.push_part(placed.ids.into_iter(), scope, tokens, placed.part)
    }

    const fn reader(&self, is_unguided: bool) -> Reader {
        Reader { mask: self.mask, is_unguided }
    }

    /// How the rows that reuse earlier passes are computed, in view of what is kept now.
    pub(super) fn placings(&self, row: &Row<'_>) -> Placings {
        let place = |is_unguided: bool| {
            let asked = by_row(row, is_unguided, None);
            let reader = self.reader(is_unguided);
            let seen = (self.scope(row).sight, self.outputs);
            if asked.is_empty() { None } else { Placing::of(row, &asked, reader, seen, self.pages) }
        };
        [place(false), place(true)]
    }

    /// How many cells of a row, from the first on, the states of the cells up to `last` depend on.
    fn reach(&self, row: &Row<'_>, last: usize) -> usize {
        let Scope { prompt, sight } = self.scope(row);
        sight.reach(last, prompt, row.seen().len())
    }

    fn scope(&self, row: &Row<'_>) -> Scope {
        Scope { prompt: row.seen().prompt_length(), sight: self.sight.with(row.block_length) }
    }

    /// The row as the network reads it, with one cell masked.
    fn ids_without<'a>(&self, row: &'a Row<'_>, at: Position) -> impl Iterator<Item = u32> + use<'a> {
        let (mask, reader) = (self.mask.0, self.reader(false));
        let ids = row.seen().cells().iter().map(move |cell| reader.id(cell));
        ids.enumerate().map(move |(index, id)| if index == at.index() { mask } else { id })
    }
}
