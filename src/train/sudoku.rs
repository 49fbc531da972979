//! Sudoku: grids, puzzles with exactly one solution, and the rules. A grid is a function of a seed,
//! a split and a number, so the splits are independent and every grid can be generated again.

use super::random::philox;
use crate::diffusion::u32_of;
use rand_philox::Philox;
use std::{fmt, ops::RangeInclusive, str::FromStr};

/// Cells of a grid.
pub const CELLS: usize = 81;
/// Tokens of a grid on a canvas, newlines between rows included.
pub const CANVAS: usize = 89;
/// The token between rows. 0 is a blank.
pub const NEWLINE: u32 = 10;
/// The tokens of the digits.
pub const DIGITS: RangeInclusive<u32> = 1..=9;
/// The set of all digits, as bits 1 to 9.
const ALL: u16 = 0b11_1111_1110;

/// A grid, row by row: 1 to 9, or 0 for a cell without a digit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid(pub [u8; CELLS]);

/// A set of grids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For training weights.
    Train = 1,
    /// For choosing settings.
    Validation = 2,
    /// For reported results.
    Test = 3,
}

/// Why a text is not a grid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GridError(String);

/// The random numbers of grid number `index` of a split.
fn generator(seed: u64, split: Split, index: u64) -> Philox {
    philox(seed, ((split as u128) << 120) | (u128::from(index) << 56))
}

fn shuffle<T>(items: &mut [T], generator: &mut Philox) {
    for last in (1..items.len()).rev() {
        let other = generator.bounded(u32_of(last + 1)) as usize;
        items.swap(last, other);
    }
}

impl Grid {
    /// A complete grid, found by trying random digits in the most constrained cell first.
    pub fn complete(seed: u64, split: Split, index: u64) -> Self {
        Self(Search::complete(&mut generator(seed, split, index)).grid)
    }

    /// A complete grid without `blanks` random cells, and that grid. There may be other solutions.
    pub fn clued(seed: u64, split: Split, index: u64, blanks: usize) -> (Self, Self) {
        let mut generator = generator(seed, split, index);
        let solution = Self(Search::complete(&mut generator).grid);
        let mut clues = solution;
        let mut order: Vec<usize> = (0..CELLS).collect();
        shuffle(&mut order, &mut generator);
        for &cell in order.iter().take(blanks) {
            clues.0[cell] = 0;
        }
        (clues, solution)
    }

    /// A puzzle with `blanks` blanks and exactly one solution, and that solution. Cells are blanked
    /// in random order where the solution stays unique; a grid that allows fewer is skipped.
    pub fn puzzle(seed: u64, split: Split, index: u64, blanks: usize) -> (Self, Self) {
        let mut generator = generator(seed, split, index);
        loop {
            let mut puzzle = Search::complete(&mut generator);
            let solution = Self(puzzle.grid);
            let mut order: Vec<usize> = (0..CELLS).collect();
            shuffle(&mut order, &mut generator);
            let mut left = blanks;
            for cell in order {
                if left == 0 {
                    break;
                }
                let digit = solution.0[cell];
                puzzle.take(cell);
                if puzzle.allows_another(cell, digit) {
                    puzzle.put(cell, digit);
                } else {
                    left -= 1;
                }
            }
            if left == 0 {
                return (Self(puzzle.grid), solution);
            }
        }
    }

    /// Cells without a digit.
    pub fn blanks(&self) -> usize {
        self.0.iter().filter(|digit| **digit == 0).count()
    }

    /// Whether every row, column and box holds each digit once.
    pub fn is_solved(&self) -> bool {
        let mut seen = [[0u16; 9]; 3];
        for (cell, &digit) in self.0.iter().enumerate() {
            for (kind, unit) in units_of(cell).into_iter().enumerate() {
                seen[kind][unit] |= 1 << digit;
            }
        }
        seen.iter().flatten().all(|digits| *digits == ALL)
    }

    /// Whether every clue of `puzzle` is unchanged.
    pub fn keeps(&self, puzzle: &Self) -> bool {
        self.0.iter().zip(puzzle.0).all(|(digit, clue)| clue == 0 || *digit == clue)
    }

    /// Number of solutions, counted up to `max`.
    pub fn solutions(&self, max: usize) -> usize {
        Search::new(self).map_or(0, |mut search| search.count(max))
    }

    /// The tokens of the canvas: digits, 0 for a blank, newlines between rows.
    pub fn tokens(&self) -> [u32; CANVAS] {
        let mut tokens = [NEWLINE; CANVAS];
        for (cell, &digit) in self.0.iter().enumerate() {
            tokens[cell + cell / 9] = u32::from(digit);
        }
        tokens
    }

    /// The grid on a canvas of [`CANVAS`] tokens. A token that is not a digit becomes 0.
    pub fn of_tokens(tokens: &[u32]) -> Self {
        let digit = |cell: usize| match tokens.get(cell + cell / 9) {
            Some(&digit) if digit <= 9 => digit as u8,
            Some(_) | None => 0,
        };
        Self(std::array::from_fn(digit))
    }
}

/// The row, column and box of a cell, as indices from 0 to 8.
pub(super) const fn units_of(cell: usize) -> [usize; 3] {
    let (row, column) = (cell / 9, cell % 9);
    [row, column, row / 3 * 3 + column / 3]
}

/// A depth-first search that branches on the cell with the fewest possible digits.
struct Search {
    grid: [u8; CELLS],
    used: [[u16; 9]; 3],
}

impl Search {
    const EMPTY: Self = Self { grid: [0; CELLS], used: [[0; 9]; 3] };

    fn complete(generator: &mut Philox) -> Self {
        let mut digits: [u8; 9] = std::array::from_fn(|digit| digit as u8 + 1);
        let mut search = Self::EMPTY;
        // the three boxes on the diagonal are independent of each other
        for corner in [0, 30, 60] {
            shuffle(&mut digits, generator);
            for (index, &digit) in digits.iter().enumerate() {
                search.put(corner + index / 3 * 9 + index % 3, digit);
            }
        }
        search.finish(generator);
        search
    }

    /// `None` when a digit occurs twice in a unit.
    fn new(grid: &Grid) -> Option<Self> {
        let mut search = Self::EMPTY;
        for (cell, &digit) in grid.0.iter().enumerate().filter(|(_, digit)| **digit != 0) {
            if search.possible(cell) & (1 << digit) == 0 {
                return None;
            }
            search.put(cell, digit);
        }
        Some(search)
    }

    /// Whether there is a solution with a digit other than `digit` in this empty cell.
    fn allows_another(&mut self, cell: usize, digit: u8) -> bool {
        let others = self.possible(cell) & !(1 << digit);
        (1..=9).filter(|other| others & (1 << other) != 0).any(|other| {
            self.put(cell, other);
            let found = self.count(1) > 0;
            self.take(cell);
            found
        })
    }

    fn possible(&self, cell: usize) -> u16 {
        let [row, column, square] = units_of(cell);
        ALL & !(self.used[0][row] | self.used[1][column] | self.used[2][square])
    }

    fn put(&mut self, cell: usize, digit: u8) {
        self.grid[cell] = digit;
        self.flip(cell, digit);
    }

    fn take(&mut self, cell: usize) {
        let digit = std::mem::take(&mut self.grid[cell]);
        self.flip(cell, digit);
    }

    fn flip(&mut self, cell: usize, digit: u8) {
        for (kind, unit) in units_of(cell).into_iter().enumerate() {
            self.used[kind][unit] ^= 1 << digit;
        }
    }

    /// The empty cell with the fewest possible digits, and these; `None` when the grid is full.
    fn tightest(&self) -> Option<(usize, u16)> {
        let empty = (0..CELLS).filter(|cell| self.grid[*cell] == 0);
        empty.map(|cell| (cell, self.possible(cell))).min_by_key(|(_, digits)| digits.count_ones())
    }

    fn count(&mut self, max: usize) -> usize {
        let Some((cell, digits)) = self.tightest() else { return 1 };
        let mut found = 0;
        for digit in (1..=9).filter(|digit| digits & (1 << digit) != 0) {
            self.put(cell, digit);
            found += self.count(max - found);
            self.take(cell);
            if found >= max {
                break;
            }
        }
        found
    }

    /// Completes the grid, trying digits in random order; false when there is no solution.
    fn finish(&mut self, generator: &mut Philox) -> bool {
        let Some((cell, possible)) = self.tightest() else { return true };
        let mut digits: Vec<u8> = (1..=9).filter(|digit| possible & (1 << digit) != 0).collect();
        shuffle(&mut digits, generator);
        for digit in digits {
            self.put(cell, digit);
            if self.finish(generator) {
                return true;
            }
            self.take(cell);
        }
        false
    }
}

impl fmt::Display for Grid {
    /// Nine lines, a dot for a blank, no newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (cell, &digit) in self.0.iter().enumerate() {
            let symbol = if digit == 0 { '.' } else { char::from(b'0' + digit) };
            write!(f, "{}{symbol}", if cell > 0 && cell % 9 == 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_string().replace('\n', "/"))
    }
}

impl FromStr for Grid {
    type Err = GridError;

    /// 81 cells: digits, `.` or 0 for a blank. White space is ignored.
    fn from_str(text: &str) -> Result<Self, GridError> {
        let digit = |symbol: char| match symbol {
            '.' => Ok(0),
            '0'..='9' => Ok(symbol as u8 - b'0'),
            other => Err(GridError(format!("{other:?} is no cell of a Sudoku; cells are 1 to 9, and . or 0 for none"))),
        };
        let symbols = text.chars().filter(|symbol| !symbol.is_whitespace());
        let digits: Vec<u8> = symbols.map(digit).collect::<Result<_, _>>()?;
        let given = digits.len();
        let cells = digits.try_into().map_err(|_| GridError(format!("a Sudoku has 81 cells, this has {given}")))?;
        Ok(Self(cells))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const PUZZLE: &str = "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5 ....8..79";
    const SOLUTION: &str = "534678912672195348198342567859761423426853791713924856961537284287419635345286179";

    #[test]
    fn complete_grids_hold_the_rules_and_differ() {
        let grids: HashSet<Grid> = [Split::Train, Split::Validation, Split::Test]
            .into_iter()
            .flat_map(|split| (0..200).map(move |index| Grid::complete(1, split, index)))
            .collect();
        assert_eq!(grids.len(), 600);
        assert!(grids.iter().all(Grid::is_solved));
        assert_eq!(Grid::complete(7, Split::Test, 3), Grid::complete(7, Split::Test, 3));
        assert_ne!(Grid::complete(7, Split::Test, 3), Grid::complete(8, Split::Test, 3));
    }

    #[test]
    fn puzzles_have_exactly_the_blanks_and_one_solution() {
        for index in 0..20 {
            let (puzzle, solution) = Grid::puzzle(5, Split::Test, index, 51);
            assert_eq!((puzzle.blanks(), puzzle.solutions(2)), (51, 1));
            assert!(solution.is_solved() && solution.keeps(&puzzle));
        }
    }

    #[test]
    fn solutions_are_counted() {
        let puzzle: Grid = PUZZLE.parse().unwrap();
        assert_eq!((puzzle.blanks(), puzzle.solutions(9)), (51, 1));
        assert_eq!(Grid([0; CELLS]).solutions(5), 5);
        let mut clash = puzzle;
        clash.0[2] = 5;
        assert_eq!(clash.solutions(2), 0);
    }

    #[test]
    fn a_wrong_digit_is_noticed() {
        let solution: Grid = SOLUTION.parse().unwrap();
        let puzzle: Grid = PUZZLE.parse().unwrap();
        assert!(solution.is_solved() && solution.keeps(&puzzle));
        for cell in 0..CELLS {
            let mut wrong = solution;
            wrong.0[cell] = wrong.0[cell] % 9 + 1;
            assert!(!wrong.is_solved());
            assert_eq!(wrong.keeps(&puzzle), puzzle.0[cell] == 0);
        }
        assert!(!puzzle.is_solved());
    }

    #[test]
    fn texts_and_tokens_are_grids() {
        let puzzle: Grid = PUZZLE.parse().unwrap();
        assert_eq!(puzzle.to_string().parse(), Ok(puzzle));
        assert_eq!(Grid::of_tokens(&puzzle.tokens()), puzzle);
        assert_eq!((puzzle.tokens()[0], puzzle.tokens()[9], puzzle.tokens()[10]), (5, NEWLINE, 6));
        let error = |text: &str| text.parse::<Grid>().unwrap_err().to_string();
        assert!(error("123").contains("this has 3"));
        assert!(error("x").contains("'x' is no cell"));
    }
}
