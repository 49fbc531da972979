//! Training data: rows of tokens, some of which may be masked. A row is a function of its number.

use super::error::TrainError;
use super::sudoku::{self, Grid, Split};
use crate::diffusion::{TokenId, TokenSet, u32_of};
use crate::files;
use crate::model::Config;
use crate::text::{Special, Tokenizer};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, path::Path};

/// A row of training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens; every row has equally many.
    pub tokens: Vec<u32>,
    /// Positions that may be masked, ascending.
    pub free: Vec<u32>,
}

/// Where rows come from.
#[derive(Debug)]
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
    /// The rows of a file, epoch after epoch, shuffled anew in each.
    Rows {
        /// The rows.
        rows: Vec<Example>,
        /// Determines the order.
        seed: u64,
    },
}

impl Data {
    /// Row number `index`.
    pub fn row(&self, index: u64) -> Example {
        match self {
            Self::Sudoku { seed, split, puzzles } => {
                let (clues, grid) = clues_and_grid(*seed, *split, *puzzles, index);
                let cells = (0u32..).zip(clues.tokens()).filter(|(_, token)| *token == 0);
                Example { free: cells.map(|(position, _)| position).collect(), tokens: grid.tokens().to_vec() }
            }
            Self::Rows { rows, seed } => {
                let count = rows.len() as u64;
                let place = shuffled(index % count, count, seed ^ (index / count).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                rows[place as usize].clone()
            }
        }
    }

    /// Training data and held-out data: the validation split, or every 20th of at least 20 rows.
    #[must_use]
    pub fn held_out(self) -> (Self, Self) {
        match self {
            Self::Sudoku { seed, puzzles, .. } => (self, Self::Sudoku { seed, split: Split::Validation, puzzles }),
            Self::Rows { rows, seed } => {
                let every = if rows.len() < 20 { 1 } else { 20 };
                let held_out = rows.iter().skip(every - 1).step_by(every).cloned().collect();
                let learned = rows.into_iter().enumerate().filter_map(|(index, row)| (index % 20 != 19).then_some(row));
                (Self::Rows { rows: learned.collect(), seed }, Self::Rows { rows: held_out, seed })
            }
        }
    }

    /// Tokens of a row.
    pub fn length(&self) -> usize {
        match self {
            Self::Sudoku { .. } => sudoku::CANVAS,
            Self::Rows { rows, .. } => rows.first().map_or(0, |row| row.tokens.len()),
        }
    }

    /// The tokens that may be masked in some row.
    pub(super) fn maskable(&self) -> TokenSet {
        match self {
            Self::Sudoku { .. } => std::iter::once(sudoku::DIGITS).collect(),
            Self::Rows { rows, .. } => {
                let free = |row: &Example| row.free.iter().map(|at| TokenId(row.tokens[*at as usize])).collect();
                rows.iter().flat_map::<BTreeSet<TokenId>, _>(free).collect()
            }
        }
    }

    /// The SHA-256 of the rows in their order; of grids, that of the first ones.
    pub(super) fn digest(&self) -> sha2::digest::Output<Sha256> {
        let mut hash = Sha256::new();
        let mut add = |row: &Example| {
            for numbers in [&row.tokens, &row.free] {
                hash.update((numbers.len() as u64).to_le_bytes());
                numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
            }
        };
        match self {
            Self::Sudoku { .. } => (0..GRIDS_IN_DIGEST).for_each(|index| add(&self.row(index))),
            Self::Rows { rows, .. } => rows.iter().for_each(add),
        }
        hash.finalize()
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
        let largest = match self {
            Self::Sudoku { .. } => sudoku::NEWLINE,
            Self::Rows { rows, .. } => rows.iter().flat_map(|row| &row.tokens).copied().max().unwrap_or(0),
        };
        let ids = config.embedding_size;
        if largest as usize >= ids {
            return Err(TrainError::Settings(format!(
                "the rows hold token id {largest}, but the model's vocabulary ends before {ids}; is this its own tokenizer?"
            )));
        }
        Ok(())
    }

    /// The rows of a file. A `.jsonl` file has `prompt` and `response` on each line: the prompt is
    /// never masked, and the response is padded with `end`. Other files are text, cut into rows.
    ///
    /// # Errors
    /// When the file cannot be read, a line is malformed, or there is no complete row.
    pub fn read(
        path: &Path,
        tokenizer: &Tokenizer,
        length: usize,
        end: Option<TokenId>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let file = path.display().to_string();
        let wrong = |problem: String| TrainError::Data { file: file.clone(), problem };
        let text = files::read_text(path).map_err(|cause| wrong(format!("cannot be read: {cause}")))?;
        let encode = |what: String, text: &str| {
            tokenizer.encode(text, Special::AsText).map_err(|cause| wrong(format!("{what}: {cause}")))
        };
        let rows: Vec<Example> = if path.extension().is_some_and(|extension| extension == "jsonl") {
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            let row = |(number, line): (usize, &str)| {
                let Dialogue { prompt, response } = serde_json::from_str(line)
                    .map_err(|cause| wrong(format!("line {number} is no object with prompt and response: {cause}")))?;
                let [prompt, response] = [prompt, response].map(|text| encode(format!("line {number}"), &text));
                dialogue(&prompt?, &response?, length, end).map_err(|problem| wrong(format!("line {number} {problem}")))
            };
            lines.map(row).collect::<Result<_, _>>()?
        } else {
            let tokens = encode("the text".to_owned(), &text)?;
            tokens.chunks_exact(length).map(|row| all_free(row.iter().map(|token| token.0).collect())).collect()
        };
        if rows.is_empty() {
            return Err(wrong(format!("holds no row of {length} tokens; give more data or a smaller --length")));
        }
        Ok(Self::Rows { rows, seed })
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

#[derive(Deserialize)]
struct Dialogue {
    prompt: String,
    response: String,
}

fn all_free(tokens: Vec<u32>) -> Example {
    Example { free: (0..u32_of(tokens.len())).collect(), tokens }
}

/// Prompt and response, cut or padded to `length`. Padding belongs to the response, as in LLaDA's
/// training (arXiv 2502.09992, section 2.3).
fn dialogue(prompt: &[TokenId], response: &[TokenId], length: usize, end: Option<TokenId>) -> Result<Example, String> {
    if prompt.len() >= length {
        return Err(format!("has a prompt of {} tokens, which leaves nothing of the {length} of a row", prompt.len()));
    }
    let mut tokens: Vec<u32> = prompt.iter().chain(response).map(|token| token.0).take(length).collect();
    if tokens.len() < length {
        let end = end.ok_or("is shorter than a row, and the model names no end of text to fill it up with")?;
        tokens.resize(length, end.0);
    }
    Ok(Example { tokens, free: (u32_of(prompt.len())..u32_of(length)).collect() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_is_a_permutation_of_its_own() {
        for count in [1u64, 2, 3, 10, 17, 64, 1000] {
            let round = |key| (0..count).map(|index| shuffled(index, count, key)).collect::<Vec<_>>();
            let mut sorted = round(5);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            assert!(count < 10 || round(5) != round(6));
        }
    }

    #[test]
    fn a_prompt_is_never_free_and_what_fills_up_is() {
        let ids = |ids: &[u32]| ids.iter().map(|id| TokenId(*id)).collect::<Vec<_>>();
        let row = dialogue(&ids(&[1, 2]), &ids(&[3, 4]), 6, Some(TokenId(9))).unwrap();
        assert_eq!(row, Example { tokens: vec![1, 2, 3, 4, 9, 9], free: vec![2, 3, 4, 5] });
        assert_eq!(dialogue(&ids(&[1]), &ids(&[3, 4, 5]), 3, None).unwrap().tokens, [1, 3, 4]);
        assert!(dialogue(&ids(&[1, 2, 3]), &ids(&[3]), 3, None).unwrap_err().contains("prompt of 3 tokens"));
        assert!(dialogue(&ids(&[1]), &ids(&[3]), 3, None).unwrap_err().contains("no end of text"));
    }

    #[test]
    fn a_sudoku_row_is_a_grid_with_clues_that_are_never_masked() {
        let data = |puzzles| Data::Sudoku { seed: 1, split: Split::Train, puzzles };
        let clues = |row: &Example| {
            let mut tokens = row.tokens.clone();
            row.free.iter().for_each(|position| tokens[*position as usize] = 0);
            Grid::of_tokens(&tokens)
        };
        let mut free = Vec::new();
        for index in 0..24 {
            let row = data(1.0).row(index);
            assert!(Grid::of_tokens(&row.tokens).is_solved());
            assert_eq!(clues(&row).solutions(2), 1, "a puzzle");
            free.push(row.free.len());
        }
        assert!((48..56).all(|count| free.contains(&count)), "{free:?}");
        let row = data(0.0).row(3);
        assert_eq!((row.tokens.len(), row.free.len()), (89, 57));
        assert!(row.free.iter().all(|position| (1..=9).contains(&row.tokens[*position as usize])));
        assert!(clues(&row).solutions(2) > 1, "random clues");
        assert_eq!(data(0.0).row(3), row);
        assert_ne!(data(0.0).row(4), row);
        let puzzles = (0..400).filter(|index| data(0.25).row(*index).free.len() != 57).count();
        assert!((70..130).contains(&puzzles), "{puzzles} of 400");
    }
}
