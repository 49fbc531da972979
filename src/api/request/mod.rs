//! What every request passes before its endpoint.

pub(crate) mod body;
pub(crate) mod connections;
pub(crate) mod context;
pub(crate) mod idempotency;
