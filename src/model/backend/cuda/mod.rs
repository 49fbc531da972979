//! Operations on an NVIDIA GPU.

pub(crate) mod summary;
