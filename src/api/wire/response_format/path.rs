//! Where in a format something stands, written out only for an error.

use crate::api::error::ApiError;
use crate::text::shown;
use serde_json::Value;
use std::fmt;

/// The field that errors name.
pub(super) const PARAM: Path<'_> = Path::root("response_format");

#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'p> {
    above: Option<&'p Path<'p>>,
    word: &'p str,
}

impl<'p> Path<'p> {
    pub(super) const fn root(field: &'p str) -> Self {
        Self { above: None, word: field }
    }

    pub(super) const fn at(&'p self, word: &'p str) -> Self {
        Self { above: Some(self), word }
    }

    /// The last part.
    pub(super) const fn word(&self) -> &'p str {
        self.word
    }

    /// The error of what stands here.
    pub(super) fn invalid(&self, message: &str) -> ApiError {
        let path = self.to_string();
        let message = format!("{path}: {message}");
        ApiError::invalid(path, message)
    }

    /// The error of a value that stands here.
    pub(super) fn refused(&self, given: &Value, message: &str) -> ApiError {
        self.invalid(&format!("given {}; {message}", shown(&given.to_string())))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.above {
            None => f.write_str(&shown(self.word)),
            Some(above) if self.word.starts_with('[') => write!(f, "{above}{}", shown(self.word)),
            Some(above) => write!(f, "{above}.{}", shown(self.word)),
        }
    }
}
