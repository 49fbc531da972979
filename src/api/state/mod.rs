//! What all requests share.

pub(crate) mod keys;
