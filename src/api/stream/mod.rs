//! Server-sent events: frames, named events, and the log from which a broken stream is resumed.

pub(crate) mod chunks;
pub(crate) mod log;
pub(crate) mod named_events;
pub(crate) mod sessions;
mod sse;
mod tool_calls;
