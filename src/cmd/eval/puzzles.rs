//! Sudoku puzzles, generated or from a file, and how they are solved.

use super::input::{SPLITS, read_lines};
use crate::cmd::words::{count, one_of, whole};
use crate::diffusion::TokenId;
use crate::engine::{Answer, Handle, Start, Task};
use crate::text::Special;
use crate::train::sudoku::{CANVAS, Grid, NEWLINE, Split};
use anyhow::{Context, bail, ensure};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(super) struct PuzzleArgs {
    /// File of puzzles to solve instead of generated ones. Each line is a puzzle: 81 digits (. or 0
    /// for a blank), or the 89 numbers of a canvas separated by commas
    #[arg(long, value_name = "FILE")]
    puzzles: Option<PathBuf>,
    /// Number of puzzles [default: 200, or all of --puzzles]
    #[arg(long, value_name = "N", value_parser = count::<usize>(1 << 32))]
    count: Option<usize>,
    /// Number of blanks in a generated puzzle
    #[arg(long, default_value_t = 51, value_parser = count::<u8>(55))]
    blanks: u8,
    /// Split that generated puzzles are from
    #[arg(long, default_value = "test", value_parser = one_of(SPLITS))]
    split: Split,
    /// Random seed of generated puzzles and of sampling
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>(0, u64::MAX))]
    seed: u64,
}

impl PuzzleArgs {
    /// The puzzles.
    pub(super) fn read(&self) -> anyhow::Result<Vec<Grid>> {
        let mut puzzles = match &self.puzzles {
            Some(file) => {
                read_lines(file, |_, line| if line.contains(',') { canvas(line) } else { Ok(line.parse()?) })?
            }
            None => {
                let puzzle = |number| Grid::puzzle(self.seed, self.split, number, usize::from(self.blanks)).0;
                (0..self.count.unwrap_or(200) as u64).map(puzzle).collect()
            }
        };
        puzzles.truncate(self.count.unwrap_or(usize::MAX));
        if puzzles.is_empty() {
            bail!("there is no puzzle to solve; give a file with at least one, or a --count of at least 1");
        }
        Ok(puzzles)
    }

    /// The number of puzzles, if it was given.
    pub(super) fn count(&self) -> Option<usize> {
        self.count
    }

    /// The seed of the answer to a puzzle.
    pub(super) fn seed_of(&self, number: usize) -> u64 {
        self.seed.wrapping_mul(1 << 32).wrapping_add(number as u64)
    }
}

/// Checks that a model has the tokens of grids, if it says what its tokens are.
pub(super) fn check_model(handle: &Handle) -> anyhow::Result<()> {
    let Some(tokenizer) = handle.tokenizer() else { return Ok(()) };
    let tokens = tokenizer.encode("19\n", Special::AsText)?;
    ensure!(
        tokens == [1, 9, NEWLINE].map(TokenId),
        "this model has no tokens of Sudoku grids; give one that was trained on them, or texts, which are --data of \
         `remask eval compare`"
    );
    Ok(())
}

/// The request to solve a puzzle.
pub(super) fn task(puzzle: &Grid) -> Task {
    let cell = |&token: &u32| (token != 0).then_some(TokenId(token));
    Task::InfillTokens { cells: puzzle.tokens().iter().map(cell).collect() }
}

/// Whether all rules hold and no clue has changed.
pub(super) fn is_solved(puzzle: &Grid, start: &Start, answer: &Answer) -> bool {
    let grid = final_grid(start, answer);
    grid.is_solved() && grid.keeps(puzzle)
}

/// The grid at the end, clues as the engine returns them.
pub(super) fn final_grid(start: &Start, answer: &Answer) -> Grid {
    let mut tokens: Vec<u32> = start.cells.iter().map(|cell| cell.token().map_or(0, |token| token.0)).collect();
    for written in &answer.written {
        tokens[written.at.index() - start.offset] = written.token.0;
    }
    Grid::of_tokens(&tokens)
}

/// Parses the 89 numbers of a canvas: 0 for a blank, 10 between rows.
fn canvas(line: &str) -> anyhow::Result<Grid> {
    let number = |word: &str| word.trim().parse::<u32>().with_context(|| format!("{word:?} is no number"));
    let tokens: Vec<u32> = line.split(',').map(number).collect::<Result<_, _>>()?;
    if tokens.len() != CANVAS {
        bail!("has {} numbers; a canvas has {CANVAS}", tokens.len());
    }
    for (position, &token) in tokens.iter().enumerate() {
        let is_between = position % 10 == 9;
        if is_between != (token == NEWLINE) || token > NEWLINE {
            bail!(
                "has {token} as number {}; rows are 9 numbers from 0 to 9, with {NEWLINE} between them",
                position + 1
            );
        }
    }
    Ok(Grid::of_tokens(&tokens))
}
