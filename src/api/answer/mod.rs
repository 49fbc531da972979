//! What clients read: the objects of answers, made of the engine's events.

pub(crate) mod completion;
pub(crate) mod infill;
pub(crate) mod logprobs;
pub(crate) mod models;
pub(crate) mod objects;
mod policies;
pub(crate) mod repair;
