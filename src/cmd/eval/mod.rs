//! `remask eval`: evaluates a model's answers, which come from the same engine as in serving.

pub(super) mod calibration;
mod compare;
mod infill;
mod input;
mod plot;
mod puzzles;
mod statistics;
mod sudoku;

use clap::Subcommand;

#[derive(Clone, Debug, Subcommand)]
pub(super) enum EvalCommand {
    /// Measure the share of Sudoku puzzles solved, by policy and number of steps
    Sudoku(Box<sudoku::SudokuArgs>),
    /// Measure exact matches of filled texts, and how well quality separates right from wrong
    Infill(Box<infill::InfillArgs>),
    /// Compare policies on Sudoku puzzles, on texts, or on answers that a command judges
    Compare(Box<compare::CompareArgs>),
    /// Measure the calibration of the quality head against the exact probability
    Calibration(Box<calibration::CalibrationArgs>),
}

pub(super) fn run(command: &EvalCommand) -> anyhow::Result<()> {
    match command {
        EvalCommand::Sudoku(args) => sudoku::run(args),
        EvalCommand::Infill(args) => infill::run(args),
        EvalCommand::Compare(args) => compare::run(args),
        EvalCommand::Calibration(args) => calibration::run(args),
    }
}
