//! The messages and the service that `build.rs` generates from `proto/`.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)] // generated code

tonic::include_proto!("remask.v1");

/// The descriptors of `proto/`, for server reflection.
pub(super) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("remask");
/// The methods of the service. Each has a path of its own, and so is an endpoint of the metrics.
pub(super) const METHODS: [&str; 5] = ["Generate", "Infill", "Score", "Repair", "Info"];
