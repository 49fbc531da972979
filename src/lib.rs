//! Remask: an inference server for masked diffusion language models that notice and fix their own mistakes.
//!
//! `ARCHITECTURE.md` draws the layers; each module's first sentence says its job and what it refuses to know.

#![warn(clippy::unwrap_used)] // not in Cargo.toml: whole test files may

pub mod api;
pub mod cmd;
pub mod diffusion;
pub mod engine;
pub mod model;
pub mod telemetry;
pub mod text;
pub mod train;
