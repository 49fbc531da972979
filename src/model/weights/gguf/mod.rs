//! GGUF files.

pub(crate) mod read;
pub(crate) mod vocabulary;
pub(crate) mod write;
