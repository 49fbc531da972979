//! Messages on standard error.

use std::{fmt::Display, io::Write};

/// Writes a line to standard error. Does not panic when that is closed, unlike `eprintln!`.
pub(super) fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
