//! What commands print: results on standard output, messages on standard error.

use std::fmt::Display;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

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

/// Writes a text that ends with a line end, or is empty, to standard output.
///
/// # Errors
/// As [`line()`].
pub(super) fn text(text: &str) -> Result<(), OutputError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a message to standard error. Does not fail where that is closed or full, unlike
/// `eprintln!`.
pub(super) fn say(message: impl Display) {
    let _ = writeln!(stderr(), "{message}");
}

/// As [`say`], but waits for a moment only, so that a program ends although standard error is a
/// full pipe that no other process reads.
pub(super) fn say_in_passing(message: impl Display) {
    const MOMENT: Duration = Duration::from_millis(200);
    let (message, (done, is_done)) = (message.to_string(), mpsc::channel());
    std::thread::spawn(move || {
        say(message);
        let _ = done.send(()); // fails once the wait is over
    });
    let _ = is_done.recv_timeout(MOMENT);
}

/// An error and its causes in one line. A cause that the message before it ends with is left out:
/// many libraries put the cause into the message and name it as the source as well.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.ends_with(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// Prints what clap has to say: help and version on standard output, errors on standard error.
pub(super) fn usage(message: &clap::Error) -> Result<(), OutputError> {
    let printed = message.print().and_then(|()| stdout().flush());
    if message.use_stderr() { Ok(()) } else { Ok(printed?) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn each_cause_is_told_once() {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "No space left on device");
        let output = anyhow::Error::from(OutputError(full()));
        assert_eq!(chain(&output), "cannot write to standard output: No space left on device");
        assert_eq!(
            chain(&output.context("no answer")),
            "no answer: cannot write to standard output: No space left on device"
        );
        let plain: anyhow::Result<()> = Err(full()).context("cannot write a.svg").context("no plot");
        assert_eq!(chain(&plain.unwrap_err()), "no plot: cannot write a.svg: No space left on device");
        // a library that says its cause three times
        let level = "a=b=c".parse::<tracing_subscriber::filter::Directive>().unwrap_err();
        let words = chain(&anyhow::Error::from(level).context("RUST_LOG"));
        assert_eq!(words.matches("expected one of").count(), 1, "{words}");
    }
}
