//! What goes through a transformer block together: tokens of a pass, and what each of them attends
//! to. Out of scope: the blocks.

use super::rope::Rope;
use crate::diffusion::u32_of;
use crate::model::backend::inputs::{Inputs, part};
use crate::model::backend::{Angles, Backend, Segment, Span, Spans};
use crate::model::network::{Pass, Planned, Sight};
use candle_core::{Result, Tensor};

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

/// Cuts a pass into pieces, and adds what these need to the inputs.
pub(super) fn plan(pass: &Pass, sight: Sight, backend: &dyn Backend, inputs: &mut Inputs) -> Vec<Planned> {
    let lengths: Vec<usize> = pass.rows.iter().map(|row| row.tokens.len()).collect();
    backend.cut(&lengths).iter().map(|segments| plan_piece(pass, sight, segments, backend, inputs)).collect()
}

fn plan_piece(pass: &Pass, sight: Sight, segments: &[Segment], backend: &dyn Backend, inputs: &mut Inputs) -> Planned {
    let (mut ids, mut positions, mut index, mut asked_positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    for Segment { row, positions: range } in segments {
        let row = &pass.rows[*row];
        let first = row.tokens.start;
        ids.extend_from_slice(&pass.ids[first + range.start..first + range.end]);
        for (run, seen) in row.runs(sight, range.clone()) {
            let (keys, first_query, first_asked) = (first..first + seen, positions.len(), index.len());
            for position in row.asked_in(&run) {
                index.push(u32_of(first_query + position - run.start));
                asked_positions.push(u32_of(position));
            }
            positions.extend(run.map(u32_of));
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
