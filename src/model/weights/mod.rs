//! A model's weights: files, names, adapters and fingerprints; reading, converting and saving.

pub(crate) mod base;
pub(crate) mod companions;
pub(crate) mod convert;
pub(crate) mod directory;
pub(crate) mod fingerprint;
pub(crate) mod gguf;
pub(crate) mod head_facts;
pub(crate) mod layout;
pub(crate) mod lora;
pub(crate) mod made_for;
pub(crate) mod registry;
pub(crate) mod save;
pub(crate) mod tensor_file;
