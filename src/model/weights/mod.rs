//! Weights: reading, naming, converting and writing their files.

pub(crate) mod catalogue;
pub(crate) mod convert;
pub(crate) mod gguf;
pub(crate) mod lora;
pub(crate) mod registry;
pub(crate) mod save;
pub(crate) mod tensor_file;
