//! What evaluations are made on: splits of generated grids, and lines of a file.

use crate::files;
use crate::train::sudoku::Split;
use anyhow::Context;
use std::path::Path;

pub(super) const SPLITS: [(&str, Split, &str); 3] =
    [("train", Split::Train, ""), ("validation", Split::Validation, ""), ("test", Split::Test, "")];

/// What `read` makes of each line that is not blank, which it gets with its number from 1.
pub(super) fn read_lines<T>(file: &Path, read: impl Fn(usize, &str) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
    let text = files::read_text(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text); // a byte order mark
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line)| read(number, line).with_context(|| format!("{}, line {number}", file.display()));
    lines.map(read).collect()
}
