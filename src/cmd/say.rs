//! Messages on standard error.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to standard error. Unlike `eprintln!` it does not panic when standard error is
/// closed.
pub(super) fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
