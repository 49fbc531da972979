//! Server-sent events.

pub(crate) mod log;
pub(crate) mod named_events;
pub(crate) mod sessions;
