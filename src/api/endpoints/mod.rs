//! The HTTP endpoints.

pub(crate) mod completions;
pub(crate) mod docs;
pub(crate) mod ops;
pub(crate) mod requests;
pub(crate) mod tokenize;
