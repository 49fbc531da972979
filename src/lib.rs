//! Remask: an inference server for masked diffusion language models that fix their own mistakes.
//!
//! `ARCHITECTURE.md` describes the layers. The first sentence of each module states its job.

#![warn(clippy::unwrap_used)] // not in Cargo.toml, where it would apply to the files of tests/, too

pub mod api;
pub mod cmd;
pub mod diffusion;
pub mod engine;
mod files;
pub mod model;
pub mod telemetry;
pub mod text;
pub mod train;
