//! What a format may cost, references followed: values, bytes of text, options, sizes of patterns.

use super::path::Path;
use crate::api::error::ApiResult;
use serde_json::Value;
use std::io;

/// Limit on the bytes of a format, written as JSON.
const BYTES_MAX: usize = 128 << 10;
/// Limit on the bytes of names, constants and options.
const TEXT_MAX: usize = 64 << 10;
/// Limit on the bytes of one name.
const NAME_MAX: usize = 1024;
/// Limit on the options of all choices together.
const OPTIONS_MAX: usize = 1000;
/// Limit on nesting.
const DEPTH_MAX: usize = 32;
/// Limit on the values; a canvas would not hold more.
pub(super) const VALUES_MAX: usize = 4096;
/// Limit on the bytes that are copied to combine schemas.
const COMBINED_MAX: usize = 1 << 20;
/// Limit on the patterns, each of which is compiled.
const PATTERNS_MAX: usize = 256;
/// Limit on the checks of listed values; one by a pattern counts as several.
const CHECKS_MAX: usize = 1 << 16;
const CHECKS_OF_PATTERN: usize = 16;
/// Limit on the comparisons of the alternatives of `oneOf`; one of two patterns counts as several.
const PROOFS_MAX: usize = 1 << 17;
const PROOFS_OF_PATTERN: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Budget {
    values: usize,
    text: usize,
    options: usize,
    combined: usize,
    patterns: usize,
    checks: usize,
    proofs: usize,
}

/// Checks the bytes of a whole format, which stands at `path`.
pub(super) fn check_size(format: &Value, path: &Path<'_>) -> ApiResult<()> {
    match size(format) {
        bytes if bytes > BYTES_MAX => Err(path.invalid(&format!("it takes {bytes} bytes; give at most {BYTES_MAX}"))),
        _ => Ok(()),
    }
}

/// The bytes of a value, written as JSON.
fn size(value: &Value) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}

impl Budget {
    pub(super) fn value(&mut self, path: &Path<'_>, depth: usize) -> ApiResult<()> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            let limits = format!("nested deeper than {DEPTH_MAX}, or more than {VALUES_MAX} values");
            return Err(path.invalid(&format!("{limits}; a canvas is finite")));
        }
        Ok(())
    }

    pub(super) fn name(&mut self, path: &Path<'_>, name: &str) -> ApiResult<()> {
        if name.len() > NAME_MAX {
            let bytes = name.len();
            return Err(path.invalid(&format!("a name of {bytes} bytes; give at most {NAME_MAX}")));
        }
        self.text(path, name)
    }

    /// A name, a constant or an option.
    pub(super) fn text(&mut self, path: &Path<'_>, text: &str) -> ApiResult<()> {
        self.text += text.len();
        if self.text > TEXT_MAX {
            let bytes = self.text;
            return Err(path.invalid(&format!(
                "names, constants and options take at least {bytes} bytes, references followed; give at most {TEXT_MAX}"
            )));
        }
        Ok(())
    }

    pub(super) fn options(&mut self, path: &Path<'_>, options: &[String]) -> ApiResult<()> {
        self.options += options.len();
        if self.options > OPTIONS_MAX {
            let given = self.options;
            let up_to_here = if given == options.len() { "" } else { ", with those of the choices before it" };
            return Err(path.invalid(&format!("it has {given} options{up_to_here}; give at most {OPTIONS_MAX}")));
        }
        options.iter().try_for_each(|option| self.text(path, option))
    }

    pub(super) fn combined(&mut self, path: &Path<'_>, value: &Value) -> ApiResult<()> {
        self.combined += size(value);
        if self.combined > COMBINED_MAX {
            let bytes = self.combined;
            return Err(path.invalid(&format!(
                "combined schemas take at least {bytes} bytes, references followed; give at most {COMBINED_MAX}"
            )));
        }
        Ok(())
    }

    pub(super) fn pattern(&mut self, path: &Path<'_>) -> ApiResult<()> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            let message = format!("more than {PATTERNS_MAX} patterns, formats and ranges, references followed");
            return Err(path.invalid(&message));
        }
        Ok(())
    }

    /// Each of `values` is checked by one keyword, or by its patterns.
    pub(super) fn checks(&mut self, path: &Path<'_>, values: usize, patterns: usize) -> ApiResult<()> {
        (0..patterns).try_for_each(|_| self.pattern(path))?;
        self.checks += values * (patterns * CHECKS_OF_PATTERN).max(1);
        if self.checks > CHECKS_MAX {
            return Err(path.invalid("too many listed values with keywords beside them; leave those keywords out"));
        }
        Ok(())
    }

    /// So many comparisons of an alternative of `oneOf` with another.
    pub(super) fn proofs(&mut self, path: &Path<'_>, count: usize) -> ApiResult<()> {
        self.proofs += count;
        if self.proofs > PROOFS_MAX {
            return Err(path.invalid("too many alternatives to compare each with each; give fewer, or use anyOf"));
        }
        Ok(())
    }

    /// A comparison of two patterns.
    pub(super) fn pattern_proof(&mut self, path: &Path<'_>) -> ApiResult<()> {
        self.proofs(path, PROOFS_OF_PATTERN)
    }
}
