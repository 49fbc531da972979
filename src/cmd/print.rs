//! What commands print: results on standard output, messages on standard error.

use std::fmt::Display;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;

/// The exit code of a command whose reader has closed its end of the pipe, as a shell reports it of
/// programs that SIGPIPE ends.
const CLOSED_PIPE: u8 = 128 + 13;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// The exit code, where the reader wants no more and nothing is to be said.
    pub(super) fn quiet_exit(&self) -> Option<ExitCode> {
        (self.0.kind() == io::ErrorKind::BrokenPipe).then(|| ExitCode::from(CLOSED_PIPE))
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// When the output is closed or full.
pub(super) fn line(text: impl Display) -> Result<(), OutputError> {
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Writes a message to standard error. Does not fail where that is closed or full, unlike
/// `eprintln!`.
pub(super) fn say(message: impl Display) {
    let _ = writeln!(stderr(), "{message}");
}

/// Prints what clap has to say: help and version on standard output, errors on standard error.
pub(super) fn usage(message: &clap::Error) -> Result<(), OutputError> {
    let printed = message.print().and_then(|()| stdout().flush());
    if message.use_stderr() { Ok(()) } else { Ok(printed?) }
}
