//! Operations on a CPU.

pub(crate) mod sampling;
pub(crate) mod summary;
