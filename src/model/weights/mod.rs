//! A model's weights: their files, names, adapters and fingerprint; reading, converting and saving
//! them. Out of scope: what is computed with them.

pub(crate) mod convert;
pub(crate) mod directory;
pub(crate) mod fingerprint;
pub(crate) mod gguf;
pub(crate) mod layout;
pub(crate) mod lora;
pub(crate) mod registry;
pub(crate) mod save;
pub(crate) mod tensor_file;
