//! `remask eval`: evaluates a model's answers, which come from the same engine as in serving.

pub(super) mod calibration;
mod infill;
mod plot;
mod statistics;
mod sudoku;

use clap::{Args, Subcommand};

/// Flags of `remask eval`.
#[derive(Args, Clone, Debug)]
pub(super) struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum EvalCommand {
    /// Measure the share of Sudoku puzzles solved, by policy and number of steps
    Sudoku(Box<sudoku::SudokuArgs>),
    /// Measure exact matches of filled texts, and how well quality separates right from wrong
    Infill(Box<infill::InfillArgs>),
    /// Measure the calibration of the quality head against the exact probability
    Calibration(Box<calibration::CalibrationArgs>),
}

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.command {
        EvalCommand::Sudoku(args) => sudoku::run(args),
        EvalCommand::Infill(args) => infill::run(args),
        EvalCommand::Calibration(args) => calibration::run(args),
    }
}
