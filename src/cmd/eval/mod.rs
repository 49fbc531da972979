//! `remask eval`: evaluates a model's answers, which come from the same engine as in serving.

pub(super) mod calibration;
mod infill;
mod plot;
mod statistics;
mod sudoku;

use anyhow::Context;
use clap::Subcommand;
use std::path::Path;

#[derive(Clone, Debug, Subcommand)]
pub(super) enum EvalCommand {
    /// Measure the share of Sudoku puzzles solved, by policy and number of steps
    Sudoku(Box<sudoku::SudokuArgs>),
    /// Measure exact matches of filled texts, and how well quality separates right from wrong
    Infill(Box<infill::InfillArgs>),
    /// Measure the calibration of the quality head against the exact probability
    Calibration(Box<calibration::CalibrationArgs>),
}

pub(super) fn run(command: &EvalCommand) -> anyhow::Result<()> {
    match command {
        EvalCommand::Sudoku(args) => sudoku::run(args),
        EvalCommand::Infill(args) => infill::run(args),
        EvalCommand::Calibration(args) => calibration::run(args),
    }
}

/// What `read` makes of each line that is not blank, which it gets with its number from 1.
fn read_lines<T>(file: &Path, read: impl Fn(usize, &str) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line)| read(number, line).with_context(|| format!("{}, line {number}", file.display()));
    lines.map(read).collect()
}
