//! Training data: rows of tokens, some of which may be masked. A row is a function of its number.

mod cutting;
mod example;
mod reading;
mod store;
#[cfg(test)]
mod tests;

use super::error::TrainError;
use super::sudoku::{self, Grid, Split};
use crate::diffusion::{TokenId, TokenSet};
use crate::model::Config;
pub use cutting::{Cutting, Filling};
pub use example::Example;
pub use reading::RowCache;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use store::RowStore;

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum Data {
    /// Complete grids of one split, made on demand. Some cells are clues, which are never masked.
    Sudoku {
        /// Determines the grids.
        seed: u64,
        /// The split they are from.
        split: Split,
        /// Share of grids whose clues are a puzzle with one solution, 0 to 1; else at random.
        puzzles: f64,
    },
    /// Rows that are kept, epoch after epoch, shuffled anew in each.
    Rows(RowSet),
}

/// Rows that are kept, or a part of them.
#[derive(Clone, Debug)]
pub struct RowSet {
    store: Arc<RowStore>,
    selection: Selection,
    /// Determines the order.
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selection {
    All,
    /// Without every [`EVERY`]th.
    Learned,
    /// Every [`EVERY`]th.
    HeldOut,
}

/// Rows of each measurement on held-out data.
pub(super) const HELD_OUT: usize = 64;

/// One row of so many is held out, if there are that many.
const EVERY: u64 = 20;

impl RowSet {
    /// The number of rows.
    pub fn count(&self) -> u64 {
        let all = self.store.count();
        match self.selection {
            Selection::All => all,
            Selection::Learned => all - all / EVERY,
            Selection::HeldOut => all / EVERY,
        }
    }

    /// Row number `index` in the order of the file, below [`Self::count`].
    fn row(&self, index: u64) -> Result<Example, TrainError> {
        let place = match self.selection {
            Selection::All => index,
            Selection::Learned => index + index / (EVERY - 1),
            Selection::HeldOut => index * EVERY + EVERY - 1,
        };
        let row = self.store.row(place);
        row.map_err(|cause| TrainError::Settings(format!("row {place} of the tokenised data cannot be read: {cause}")))
    }

    fn all(&self) -> impl Iterator<Item = Result<Example, TrainError>> {
        (0..self.count()).map(|index| self.row(index))
    }
}

impl Data {
    /// These rows.
    pub fn of(rows: Vec<Example>, seed: u64) -> Self {
        Self::Rows(RowSet { store: Arc::new(RowStore::Memory(rows)), selection: Selection::All, seed })
    }

    /// The rows of a file, or of all files of a folder in the order of their paths; what begins
    /// with a dot is left out. A `.jsonl` file has `prompt` and `response` on each line: the prompt
    /// is never masked, and the row is filled up as `cutting` says. Other files
    /// are text, which is cut into rows. Without `cache`, the rows are in a file without a name.
    ///
    /// # Errors
    /// When a file cannot be read, a line is malformed, there is no complete row, or the rows
    /// cannot be kept.
    pub fn read(path: &Path, cutting: Cutting<'_>, seed: u64, cache: Option<RowCache<'_>>) -> Result<Self, TrainError> {
        Ok(Self::Rows(RowSet {
            store: Arc::new(reading::read(path, cutting, cache)?),
            selection: Selection::All,
            seed,
        }))
    }

    /// Row number `index`.
    ///
    /// # Errors
    /// When a file of rows can no longer be read.
    pub fn row(&self, index: u64) -> Result<Example, TrainError> {
        match self {
            Self::Sudoku { seed, split, puzzles } => {
                let (clues, grid) = clues_and_grid(*seed, *split, *puzzles, index);
                let cells = (0u32..).zip(clues.tokens()).filter(|(_, token)| *token == 0);
                Ok(Example { free: cells.map(|(position, _)| position).collect(), tokens: grid.tokens().to_vec() })
            }
            Self::Rows(rows) => {
                let count = rows.count();
                let key = rows.seed ^ (index / count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                rows.row(shuffled(index % count, count, key))
            }
        }
    }

    /// Training data and held-out data: the validation split, or every 20th of at least 20 rows.
    #[must_use]
    pub fn held_out(self) -> (Self, Self) {
        match self {
            Self::Sudoku { seed, puzzles, .. } => (self, Self::Sudoku { seed, split: Split::Validation, puzzles }),
            Self::Rows(rows) if rows.count() < EVERY => (Self::Rows(rows.clone()), Self::Rows(rows)),
            Self::Rows(rows) => {
                let part = |selection: Selection| Self::Rows(RowSet { selection, ..rows.clone() });
                (part(Selection::Learned), part(Selection::HeldOut))
            }
        }
    }

    /// `most` rows, or as many as there are.
    pub(crate) fn most(&self, most: usize) -> usize {
        match self {
            Self::Sudoku { .. } => most,
            Self::Rows(rows) => usize::try_from(rows.count()).map_or(most, |count| count.min(most)),
        }
    }

    /// Tokens of a row at most.
    pub fn length(&self) -> usize {
        match self {
            Self::Sudoku { .. } => sudoku::CANVAS,
            Self::Rows(rows) => rows.store.length(),
        }
    }

    /// The tokens that may be masked in some row.
    pub(super) fn maskable(&self) -> Result<TokenSet, TrainError> {
        match self {
            Self::Sudoku { .. } => Ok(std::iter::once(sudoku::DIGITS).collect()),
            Self::Rows(rows) => {
                let mut tokens = BTreeSet::new();
                for row in rows.all() {
                    let row = row?;
                    tokens.extend(row.free.iter().map(|at| TokenId(row.tokens[*at as usize])));
                }
                Ok(tokens.into_iter().collect())
            }
        }
    }

    /// The SHA-256 of the rows in their order; of grids, that of the first ones.
    pub(super) fn digest(&self) -> Result<sha2::digest::Output<Sha256>, TrainError> {
        let mut hash = Sha256::new();
        let mut add = |row: &Example| {
            for numbers in [&row.tokens, &row.free] {
                hash.update((numbers.len() as u64).to_le_bytes());
                numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
            }
        };
        match self {
            Self::Sudoku { .. } => (0..GRIDS_IN_DIGEST).try_for_each(|index| self.row(index).map(|row| add(&row)))?,
            Self::Rows(rows) => rows.all().try_for_each(|row| row.map(|row| add(&row)))?,
        }
        Ok(hash.finalize())
    }

    /// Checks that a model can take the rows.
    ///
    /// # Errors
    /// When they are longer than its canvas, or contain ids outside its embeddings.
    pub(super) fn check(&self, config: &Config) -> Result<(), TrainError> {
        let (length, most) = (self.length(), config.max_sequence_length);
        if length > most {
            let problem = format!("rows of {length} tokens do not fit the model, which takes {most}");
            return Err(TrainError::Settings(problem));
        }
        let mut largest = sudoku::NEWLINE;
        if let Self::Rows(rows) = self {
            largest = 0;
            for row in rows.all() {
                largest = row?.tokens.into_iter().fold(largest, u32::max);
            }
        }
        let ids = config.embedding_size;
        if largest as usize >= ids {
            return Err(TrainError::Settings(format!(
                "the rows hold token id {largest}, but the model's vocabulary ends before {ids}; is this its own tokenizer?"
            )));
        }
        Ok(())
    }
}

/// Grids from which one sees that the generator is another.
const GRIDS_IN_DIGEST: u64 = 8;
/// Free cells of a grid with random clues. With fewer clues little of the grid is determined.
const FREE_AT_RANDOM: usize = 57;
const FREE_IN_PUZZLES: std::ops::Range<usize> = 48..56;

/// The clues, as a grid with blanks, and the complete grid.
fn clues_and_grid(seed: u64, split: Split, puzzles: f64, index: u64) -> (Grid, Grid) {
    let drawn = (rand_philox::splitmix64(seed ^ rand_philox::splitmix64(index)) >> 11) as f64 / (1u64 << 53) as f64; // 53 bits are exact
    if drawn < puzzles {
        let span = FREE_IN_PUZZLES.len() as u64;
        Grid::puzzle(seed, split, index, FREE_IN_PUZZLES.start + (index % span) as usize)
    } else {
        Grid::clued(seed, split, index, FREE_AT_RANDOM)
    }
}

/// The place of `index` in a permutation of `0..count` that is a function of `key`: four rounds of
/// a Feistel network on a power of four that holds `count`, repeated until it is below `count`.
fn shuffled(index: u64, count: u64, key: u64) -> u64 {
    let half = (64 - count.max(2).saturating_sub(1).leading_zeros()).div_ceil(2);
    let mask = (1u64 << half) - 1;
    let mut place = index;
    loop {
        let (mut left, mut right) = (place >> half, place & mask);
        for round in 0..4u64 {
            let mixed = rand_philox::splitmix64(right ^ key.wrapping_add(round << 56));
            (left, right) = (right, left ^ (mixed & mask));
        }
        place = left << half | right;
        if place < count {
            return place;
        }
    }
}
