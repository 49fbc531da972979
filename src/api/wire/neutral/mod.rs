//! Fields that other servers have and that are of no use here. A value that asks for nothing is
//! accepted; every other is an error that names the field.

mod screen;
mod tables;
mod value;

pub(crate) use screen::{Screened, Tables};
pub(super) use tables::{CALLED_FUNCTION, CHAT, COMMON, COMPLETION, MESSAGE, STREAM_OPTIONS, TOKENIZE, TOOL_CALL};
pub(crate) use value::Neutral;
