//! The command line: each command parses its flags, runs, and prints its result.
#![allow(clippy::print_stdout, clippy::print_stderr)] // commands print their results

mod ask;
pub mod bench;
mod convert;
mod eval;
mod generate;
mod health;
mod hub;
mod infill;
mod logging;
mod model;
mod output;
mod policy;
mod quantise;
mod read;
mod refine;
mod serve;
mod signal;
mod train;
mod watch;
mod words;

use crate::model::Threads;
use clap::{CommandFactory, Parser, Subcommand};
use logging::say;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Without a command, `remask` is `remask serve`: it serves the built-in Sudoku model on http://127.0.0.1:8080."
)]
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
    /// Check the health of a running server
    Health(health::HealthArgs),
    /// Continue a prompt
    Generate(Box<generate::GenerateArgs>),
    /// Fill the blanks of a text
    Infill(Box<infill::InfillArgs>),
    /// Print all outputs of one forward pass, for parity checks
    Read(Box<read::ReadArgs>),
    /// Pretrain a model, or train a quality head for a model
    #[command(subcommand)]
    Train(train::TrainCommand),
    /// Split a published PRISM checkpoint into a model directory, or make one
    Convert(Box<convert::ConvertArgs>),
    /// Quantize a model directory into a GGUF file
    Quantize(quantise::QuantiseArgs),
    /// Evaluate the quality of a model's answers
    #[command(subcommand)]
    Eval(eval::EvalCommand),
    /// Measure forward passes per second, throughput and engine overhead
    Bench(Box<bench::BenchArgs>),
}

/// How the command uses threads, by its name alone: this must be known before any thread starts.
pub fn threads() -> Threads {
    match std::env::args().nth(1).as_deref() {
        Some("train") => Threads::Alone,
        Some(_) | None => Threads::ShareProducts,
    }
}

/// The command line as clap knows it: for tests, and for programs that add rules of their own.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line. The exit code is 0, 1 after an error, or 2 after a usage error.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Health(args)) => health::run(&args),
        Some(Command::Generate(args)) => generate::run(*args),
        Some(Command::Infill(args)) => infill::run(*args),
        Some(Command::Read(args)) => read::run(&args),
        Some(Command::Train(command)) => train::run(&command),
        Some(Command::Convert(args)) => convert::run(&args),
        Some(Command::Quantize(args)) => quantise::run(&args),
        Some(Command::Eval(command)) => eval::run(&command),
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
