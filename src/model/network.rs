//! Networks: rows of ids laid end to end go in, states of the requested tokens come out. Out of
//! scope: canvases, and the layers in between.

use super::backend::cost::{Cost, Numbers};
use super::backend::{KvLayers, Part, Spans, inputs::Inputs};
use super::states::{Layer, States, Wanted};
use candle_core::{DType, Result, Tensor};
use std::num::NonZeroUsize;
use std::ops::Range;

/// The input of one forward pass: rows laid end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Vec<PassRow>,
    /// Number of states that the pass returns.
    pub(crate) asked: usize,
}

/// One row of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PassRow {
    /// Its place among the tokens of the pass.
    pub(crate) tokens: Range<usize>,
    /// Tokens of the row whose states are requested, ascending.
    pub(crate) asked: Vec<usize>,
    /// Cells at its start that are the prompt.
    pub(crate) prompt: usize,
    /// Which of its cells attend to which.
    pub(crate) sight: Sight,
    /// Which cells the tokens are, if they are not the first ones of the row, and what they attend
    /// to.
    pub(crate) part: Option<RowPart>,
}

/// A row of which a pass computes some cells only.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowPart {
    /// The positions of its tokens, ascending.
    pub(crate) positions: Vec<u32>,
    /// Where the keys and values of all cells lie that are seen, ascending by position.
    pub(crate) keys: Vec<(u32, Source)>,
    /// Tokens whose keys and values are kept, and the slots for them.
    pub(crate) keep: Vec<(Range<usize>, usize)>,
}

/// Where a key and a value lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Those of a token of the pass.
    Fresh(usize),
    /// In a slot of the store.
    Kept(usize),
}

impl PassRow {
    /// The requested tokens in a range of its tokens.
    pub(crate) fn asked_in(&self, range: &Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let place = |at: usize| self.asked.partition_point(|asked| *asked < at);
        self.asked[place(range.start)..place(range.end.max(range.start))].iter().copied()
    }

    /// The position of a token.
    pub(crate) fn position(&self, token: usize) -> usize {
        self.part.as_ref().map_or(token, |part| part.positions[token] as usize)
    }

    /// A range of tokens, cut into runs that attend to the same cells of the row: each with the
    /// position behind the last of these.
    pub(crate) fn runs(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> + use<'_> {
        let cells = if self.part.is_some() { usize::MAX } else { self.tokens.len() };
        let mut next = range.start;
        std::iter::from_fn(move || {
            let first = (next < range.end).then_some(next)?;
            let seen = self.sight.reach(self.position(first), self.prompt, cells);
            next = match &self.part {
                None => seen.min(range.end),
                Some(part) => first + part.positions[first..range.end].partition_point(|at| (*at as usize) < seen),
            };
            Some((first..next, seen))
        })
    }

    /// The keys of the cells before a position.
    pub(crate) fn keys(&self, seen: usize) -> Vec<Part> {
        let Some(part) = &self.part else {
            return vec![Part::Fresh(self.tokens.start..self.tokens.start + seen)];
        };
        let mut parts: Vec<Part> = Vec::new();
        for (_, source) in part.keys.iter().take_while(|(at, _)| (*at as usize) < seen) {
            match (parts.last_mut(), *source) {
                (Some(Part::Fresh(last)), Source::Fresh(token)) if last.end == token => last.end += 1,
                (Some(Part::Kept(last)), Source::Kept(slot)) if last.end == slot => last.end += 1,
                (_, Source::Fresh(token)) => parts.push(Part::Fresh(token..token + 1)),
                (_, Source::Kept(slot)) => parts.push(Part::Kept(slot..slot + 1)),
            }
        }
        parts
    }

    /// How many keys there are before a position.
    pub(crate) fn key_count(&self, seen: usize) -> usize {
        self.part.as_ref().map_or(seen, |part| part.keys.partition_point(|(at, _)| (*at as usize) < seen))
    }
}

/// Which cells of a row attend to which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Every cell to every cell.
    #[default]
    All,
    /// The prompt is one block, and blocks of `length` cells follow, counted from its end. A cell
    /// attends to its own block and to those before it.
    Blocks { length: NonZeroUsize },
}

/// What the cells of a row attend to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Cells at its start that are the prompt.
    pub(crate) prompt: usize,
    pub(crate) sight: Sight,
}

impl Sight {
    /// The same with blocks of another length, where there are blocks.
    pub(crate) fn with(self, length: Option<NonZeroUsize>) -> Self {
        match (self, length) {
            (Self::Blocks { .. }, Some(length)) => Self::Blocks { length },
            (sight, _) => sight,
        }
    }

    /// How many of a row's `cells` the cell `at` attends to, from the first on. The first `prompt`
    /// are the prompt.
    pub(crate) fn reach(self, at: usize, prompt: usize, cells: usize) -> usize {
        match self {
            Self::All => cells,
            Self::Blocks { .. } if at < prompt => prompt.min(cells),
            Self::Blocks { length } => (prompt + ((at - prompt) / length + 1) * length.get()).min(cells),
        }
    }
}

/// Which state the output layer and the quality head read for a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// Its own.
    #[default]
    InPlace,
    /// That of the cell before, as in the autoregressive model that the network was made from; for
    /// the first cell its own.
    Shifted,
}

impl Outputs {
    /// The cell whose state is read for the cell `at`.
    pub(crate) const fn source(self, at: usize) -> usize {
        match self {
            Self::InPlace => at,
            Self::Shifted => at.saturating_sub(1),
        }
    }
}

impl Pass {
    /// Adds a row of tokens. The states at `asked`, ascending positions in the row, follow those of
    /// the earlier rows; returns the index of the first.
    pub(crate) fn push(&mut self, ids: impl Iterator<Item = u32>, scope: Scope, asked: Vec<usize>) -> usize {
        self.push_row(ids, scope, asked, None)
    }

    /// The same for a row of which only some cells are computed; `asked` are indices of its tokens.
    pub(crate) fn push_part(
        &mut self,
        ids: impl Iterator<Item = u32>,
        scope: Scope,
        asked: Vec<usize>,
        part: RowPart,
    ) -> usize {
        self.push_row(ids, scope, asked, Some(part))
    }

    fn push_row(
        &mut self,
        ids: impl Iterator<Item = u32>,
        Scope { prompt, sight }: Scope,
        asked: Vec<usize>,
        part: Option<RowPart>,
    ) -> usize {
        let (first, first_asked) = (self.ids.len(), self.asked);
        self.ids.extend(ids);
        self.asked += asked.len();
        self.rows.push(PassRow { tokens: first..self.ids.len(), asked, prompt, sight, part });
        first_asked
    }

    /// Whether it reads keys and values of other passes, or keeps its own.
    pub(crate) fn is_reusing(&self) -> bool {
        self.rows.iter().any(|row| row.part.is_some())
    }

    /// What is kept of this pass: tokens of the pass, and the slots for their keys and values.
    pub(crate) fn kept(&self) -> Vec<(Range<usize>, usize)> {
        let of_row = |row: &PassRow| {
            let first = row.tokens.start;
            let keep = row.part.iter().flat_map(|part| part.keep.clone());
            keep.map(move |(tokens, slot)| (first + tokens.start..first + tokens.end, slot)).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).collect()
    }
}

/// Rows of a pass, or a part of one, that go through the layers together: the places of their words
/// among the inputs.
pub(crate) struct Planned {
    pub(crate) ids: Range<usize>,
    pub(crate) positions: Range<usize>,
    pub(crate) spans: Spans,
    /// Indices of the asked tokens among these.
    pub(crate) asked: Range<usize>,
    pub(crate) asked_positions: Range<usize>,
    pub(crate) asked_spans: Spans,
}

/// The keys and values of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvSize {
    /// Layers with keys and values.
    pub(crate) layers: usize,
    /// Numbers of a key, and of a value.
    pub(crate) width: usize,
    pub(crate) dtype: DType,
}

impl KvSize {
    /// Bytes of a cell.
    pub(crate) fn bytes(self) -> usize {
        2 * self.layers * self.width * self.dtype.size_in_bytes()
    }
}

/// A network of some family, weights included.
pub(crate) trait Network: Send + Sync {
    /// Which cells of a row attend to which, where the row does not set the length of blocks.
    fn sight(&self) -> Sight {
        Sight::All
    }

    /// Which states cells are read from.
    fn outputs(&self) -> Outputs {
        Outputs::InPlace
    }

    /// The host's part of a pass: cuts it into what goes through the layers together, and adds what
    /// these need to the inputs.
    fn plan(&self, pass: &Pass, inputs: &mut Inputs) -> Vec<Planned>;

    /// The device's part of a pass: `inputs` are those of the plan. A row's states do not depend on
    /// the other rows. Keys and values are taken from the store, and put there, as the plan says.
    fn run(
        &self,
        plan: &[Planned],
        inputs: &Tensor,
        kv_layers: Option<&KvLayers<'_>>,
        wanted: Wanted<'_>,
    ) -> Result<States>;

    /// The size of the keys and values of a cell; `None` of a network that cannot keep them.
    fn keeps(&self) -> Option<KvSize> {
        None
    }

    /// Scores before the softmax: (states, width) to (states, at least the size of the vocabulary).
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;

    /// What a pass computes, with the output layer over so many states, and the quality head.
    fn cost(&self, pass: &Pass, read_out: usize, judged: usize) -> Cost;

    /// The number format of most matrices.
    fn numbers(&self) -> Numbers;

    /// Which states its quality head reads.
    fn judges(&self) -> Layer {
        Layer::Last
    }

    /// Qualities before the sigmoid: (states, width) to (states); `None` without a quality head.
    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_from_the_end_of_the_prompt_and_the_last_may_be_shorter() {
        let blocks = Sight::Blocks { length: NonZeroUsize::new(4).unwrap() };
        let row =
            |prompt| PassRow { tokens: 5..16, asked: vec![0, 2, 3, 6, 10], prompt, sight: Sight::All, part: None };
        let runs = |row: &PassRow, sight, range| PassRow { sight, ..row.clone() }.runs(range).collect::<Vec<_>>();
        assert_eq!(runs(&row(3), blocks, 0..11), [(0..3, 3), (3..7, 7), (7..11, 11)]);
        assert_eq!(runs(&row(0), blocks, 0..11), [(0..4, 4), (4..8, 8), (8..11, 11)]);
        assert_eq!(runs(&row(2), blocks, 1..8), [(1..2, 2), (2..6, 6), (6..8, 10)], "a piece of a row");
        assert_eq!(runs(&row(20), blocks, 0..11), [(0..11, 11)], "all is prompt");
        assert_eq!(runs(&row(3), Sight::All, 2..9), [(2..9, 11)]);
        assert_eq!(runs(&row(3), blocks, 4..4), []);
        assert_eq!(row(3).asked_in(&(2..6)).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(row(3).asked_in(&(7..10)).count(), 0);
        assert_eq!([2, 3, 6, 7, 10].map(|at| blocks.reach(at, 3, 11)), [3, 7, 7, 11, 11]);
    }

    #[test]
    fn tokens_of_a_part_attend_to_the_cells_of_their_block_wherever_these_lie() {
        let blocks = Sight::Blocks { length: NonZeroUsize::new(4).unwrap() };
        let keys = [(0, Source::Kept(32)), (1, Source::Kept(33)), (3, Source::Fresh(5)), (4, Source::Fresh(6))];
        let keys =
            keys.into_iter().chain([(7, Source::Kept(7)), (8, Source::Fresh(7)), (9, Source::Kept(8))]).collect();
        let part = Some(RowPart { positions: vec![3, 4, 8], keys, keep: vec![(1..3, 60)] });
        let row = PassRow { tokens: 5..8, asked: vec![1], prompt: 2, sight: blocks, part };
        assert_eq!(row.runs(0..3).collect::<Vec<_>>(), [(0..2, 6), (2..3, 10)]);
        let seeing_all = PassRow { sight: Sight::All, ..row.clone() };
        assert_eq!(seeing_all.runs(1..3).collect::<Vec<_>>(), [(1..3, usize::MAX)]);
        let before = [Part::Kept(32..34), Part::Fresh(5..7)];
        assert_eq!(row.keys(6), before);
        let all = [Part::Kept(7..8), Part::Fresh(7..8), Part::Kept(8..9)];
        assert_eq!(row.keys(10), [&before[..], &all].concat());
        assert_eq!([6, 10].map(|seen| row.key_count(seen)), [4, 7]);
        let pass = Pass { ids: vec![0; 8], rows: vec![row], asked: 1 };
        assert_eq!(pass.kept(), [(6..8, 60)]);
    }
}
