//! `remask eval`: how good the answers are. Asks the engine like any user and compares with what is right. Refuses to know
//! how answers come about.

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
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Share of Sudoku puzzles solved, by policy and number of forward passes
    Sudoku(Box<sudoku::SudokuArgs>),
    /// Texts with gaps that come out exactly, and how well quality tells right from wrong
    Infill(Box<infill::InfillArgs>),
    /// Distance of the quality head from the exact oracle
    Calibration(Box<calibration::CalibrationArgs>),
}

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Sudoku(args) => sudoku::run(args),
        What::Infill(args) => infill::run(args),
        What::Calibration(args) => calibration::run(args),
    }
}
