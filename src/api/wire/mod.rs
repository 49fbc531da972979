//! JSON in: bodies as requests to the engine. Unknown fields are errors that list the known ones.
//! Out of scope: values, which `engine::admission` checks for all protocols.

pub(crate) mod chat;
mod common;
pub(crate) mod completion;
mod conversation;
pub(crate) mod diffusion;
mod field;
mod forms;
mod guided;
pub(crate) mod infill;
mod message;
pub(crate) mod neutral;
pub(crate) mod params;
mod policy;
pub(crate) mod presets;
mod prompt;
pub(crate) mod refinement;
pub(crate) mod repair;
pub(crate) mod response_format;
pub(crate) mod score;
pub(crate) mod tokenize;
pub(crate) mod tools;
