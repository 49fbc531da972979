//! GGUF files of LLaDA models: their names, reading, the vocabulary in them, writing.

pub(crate) mod names;
pub(crate) mod read;
pub(crate) mod vocabulary;
pub(crate) mod write;
