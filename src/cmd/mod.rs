//! The command line: each command parses its flags, runs, and prints its result.

mod ask;
pub mod bench;
mod convert;
mod environment;
mod eval;
mod flag_names;
mod generate;
mod greeting;
mod health;
mod hub;
mod idle;
mod infill;
mod loading;
mod logging;
mod model;
mod output;
mod policy;
mod print;
mod quantise;
mod read;
mod refine;
mod repair;
mod replay;
mod report;
mod sampling;
mod score;
mod serve;
mod signal;
mod text;
mod train;
mod version;
mod watch;
mod words;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use environment::UsageError;
use print::{OutputError, chain, say};
use std::process::ExitCode;
use version::VERSION;

pub use environment::Environment;

#[derive(Debug, Parser)]
#[command(version = VERSION, about, args_conflicts_with_subcommands = true)]
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
    /// Judge each token of a text: the probability that it is right
    Score(Box<score::ScoreArgs>),
    /// Erase the doubtful tokens of a text and fill them again
    Repair(Box<repair::RepairArgs>),
    /// Play a recorded run in the terminal
    Replay(replay::ReplayArgs),
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
    /// Print a script that completes commands and flags in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The command line as clap knows it: for tests, and for programs that add rules of their own.
pub fn command() -> clap::Command {
    // so that a negative number is refused as a value, with the range, and not as an unknown flag
    fn taking_numbers(command: clap::Command) -> clap::Command {
        let takes = |arg: clap::Arg| {
            let has_value = arg.get_action().takes_values();
            arg.allow_negative_numbers(has_value)
        };
        command.mut_args(takes).mut_subcommands(taking_numbers)
    }
    taking_numbers(Cli::command())
}

/// Runs the command line. The exit code is 0, 1 after an error, 2 after a usage error, 141 when the
/// reader of standard output has closed it, and 130 or 143 after a signal.
#[must_use]
pub fn run(environment: &Environment) -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let done = match parsed {
        Ok((cli, matches)) => {
            let checked = environment.check().and_then(|()| idle::check(&matches));
            checked.map_err(Into::into).and_then(|()| start(cli))
        }
        Err(message) if message.use_stderr() => {
            let _ = print::usage(&message); // the exit code says it, too
            return ExitCode::from(2);
        }
        Err(message) => print::usage(&message).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.downcast_ref().and_then(OutputError::quiet_exit).unwrap_or_else(|| {
            say(format_args!("remask: {}", chain(&error)));
            if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }),
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    match &cli.command {
        None | Some(Command::Serve(_)) => {} // which logs as its flags say
        Some(_) => logging::warnings()?,
    }
    match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Health(args)) => health::run(&args),
        Some(Command::Generate(args)) => generate::run(*args),
        Some(Command::Infill(args)) => infill::run(*args),
        Some(Command::Score(args)) => score::run(&args),
        Some(Command::Repair(args)) => repair::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Read(args)) => read::run(&args),
        Some(Command::Train(command)) => train::run(&command),
        Some(Command::Convert(args)) => convert::run(&args),
        Some(Command::Quantize(args)) => quantise::run(&args),
        Some(Command::Eval(command)) => eval::run(&command),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), env!("CARGO_PKG_NAME"), &mut script);
            Ok(print::line(String::from_utf8_lossy(&script).trim_end())?)
        }
    }
}
