//! What goes through a transformer block together: tokens of a pass, and what each of them attends
//! to. Out of scope: the blocks.

use super::rope::Rope;
use crate::diffusion::u32_of;
use crate::model::backend::inputs::{Inputs, part};
use crate::model::backend::{Angles, Backend, Segment, Span, Spans};
use crate::model::network::{Pass, PassRow, Planned};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// Tokens of a pass that go through a block together.
pub(super) struct Piece<'a> {
    pub(super) ids: Tensor,       // (tokens)
    pub(super) positions: Tensor, // (tokens)
    pub(super) all: Queries<'a>,
    pub(super) asked: Queries<'a>,
    pub(super) index: Tensor, // (asked), into the piece's tokens
}

/// Tokens whose states are computed, and the keys that they attend to.
pub(super) struct Queries<'a> {
    pub(super) spans: &'a Spans,
    pub(super) angles: Option<Angles>,
}

/// Cuts a pass into pieces, and adds what these need to the inputs. A block that attends to no
/// later one is cut by its own length, so that its numbers are the same whatever is computed beside
/// it.
pub(super) fn plan(pass: &Pass, backend: &dyn Backend, inputs: &mut Inputs) -> Vec<Planned> {
    let blocks = |row: &PassRow| row.runs(0..row.tokens.len()).map(|(run, _)| run).collect::<Vec<_>>();
    let blocks: Vec<(&PassRow, Range<usize>)> =
        pass.rows.iter().flat_map(|row| blocks(row).into_iter().map(move |block| (row, block))).collect();
    let lengths: Vec<usize> = blocks.iter().map(|(_, block)| block.len()).collect();
    let run = |Segment { row, positions }: &Segment| {
        let (row, Range { start, .. }) = &blocks[*row];
        (*row, start + positions.start..start + positions.end)
    };
    let cut = backend.cut(&lengths);
    cut.iter().map(|piece| plan_piece(pass, piece.iter().map(run), backend, inputs)).collect()
}

fn plan_piece<'a>(
    pass: &Pass,
    runs: impl Iterator<Item = (&'a PassRow, Range<usize>)>,
    backend: &dyn Backend,
    inputs: &mut Inputs,
) -> Planned {
    let (mut ids, mut positions, mut index, mut asked_positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    for (row, range) in runs {
        let first = row.tokens.start;
        ids.extend_from_slice(&pass.ids[first + range.start..first + range.end]);
        for (run, seen) in row.runs(range.clone()) {
            let (keys, first_query, first_asked) = (row.keys(seen), positions.len(), index.len());
            for token in row.asked_in(&run) {
                index.push(u32_of(first_query + token - run.start));
                asked_positions.push(u32_of(row.position(token)));
            }
            positions.extend(run.map(|token| u32_of(row.position(token))));
            all.push(Span { queries: first_query..positions.len(), keys: keys.clone() });
            asked.push(Span { queries: first_asked..index.len(), keys });
        }
    }
    Planned {
        ids: inputs.add(ids),
        positions: inputs.add(positions),
        asked: inputs.add(index),
        asked_positions: inputs.add(asked_positions),
        spans: backend.lay_out(all, inputs),
        asked_spans: backend.lay_out(asked, inputs),
    }
}

impl<'a> Piece<'a> {
    /// A piece on the device; `inputs` are those of the plan. Tokens are rotated by their
    /// positions where there is a `rope`.
    pub(super) fn of(
        planned: &'a Planned,
        rope: Option<&Rope>,
        backend: &dyn Backend,
        inputs: &Tensor,
    ) -> Result<Self> {
        let (positions, index) = (part(inputs, &planned.positions)?, part(inputs, &planned.asked)?);
        let angles = |positions: &Tensor| {
            let rope = rope.filter(|_| positions.elem_count() > 0);
            rope.map(|rope| rope.at(positions, backend)).transpose()
        };
        let asked_positions = part(inputs, &planned.asked_positions)?;
        Ok(Self {
            ids: part(inputs, &planned.ids)?,
            all: Queries { spans: &planned.spans, angles: angles(&positions)? },
            asked: Queries { spans: &planned.asked_spans, angles: angles(&asked_positions)? },
            positions,
            index,
        })
    }
}
