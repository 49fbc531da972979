//! What every request passes before its endpoint. Out of scope: what a request asks for.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod connections;
pub(crate) mod context;
mod digest;
pub(crate) mod idempotency;
pub(crate) mod room;
mod values;
