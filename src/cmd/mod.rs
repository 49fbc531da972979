//! The command line: what the user typed is turned into what it means, run, and reported. Nobody imports it; refuses
//! to compute anything itself.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a terminal is where a command reports

pub mod bench;
mod convert;
mod eval;
mod generate;
mod health;
mod hub;
mod logging;
mod model;
mod quantise;
mod read;
mod refine;
mod serve;
mod train;
mod watch;

use crate::model::Threads;
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
#[command(after_help = "Without a command, `remask` serves: the embedded Sudoku model on http://127.0.0.1:8080.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over HTTP and gRPC
    Serve(Box<serve::ServeArgs>),
    /// Ask a server whether it is alive
    Health(health::HealthArgs),
    /// Write on from a prompt
    Generate(Box<generate::GenerateArgs>),
    /// Fill the blanks of a text and leave the rest as it is
    Infill(Box<generate::InfillArgs>),
    /// Print every number of one forward pass, for parity checks
    Read(Box<read::ReadArgs>),
    /// Learn weights: a model from nothing, or a quality head for a model
    Train(Box<train::TrainArgs>),
    /// Take a published PRISM checkpoint apart, or make one
    Convert(Box<convert::ConvertArgs>),
    /// Store a model in few bits: a GGUF file of a model directory
    Quantize(quantise::QuantiseArgs),
    /// Measure how good the answers are
    Eval(Box<eval::EvalArgs>),
    /// Measure passes per second, engine overhead and throughput
    Bench(Box<bench::BenchArgs>),
}

/// How the command that was typed uses threads. Has to be known before there are any, so it looks at the first word alone.
#[must_use]
pub fn threads() -> Threads {
    match std::env::args().nth(1).as_deref() {
        Some("train") => Threads::Alone,
        Some(_) | None => Threads::ShareProducts,
    }
}

/// Runs the command line; the exit code is 0, 1 after an error, or 2 when the line itself is wrong.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Health(args)) => health::run(&args),
        Some(Command::Generate(args)) => generate::generate(*args),
        Some(Command::Infill(args)) => generate::infill(*args),
        Some(Command::Read(args)) => read::run(&args),
        Some(Command::Train(args)) => train::run(&args),
        Some(Command::Convert(args)) => convert::run(&args),
        Some(Command::Quantize(args)) => quantise::run(&args),
        Some(Command::Eval(args)) => eval::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("remask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever reads standard error, if anybody does: `eprintln!` would panic where nobody can.
fn say(words: impl Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
