//! gRPC: the same answers and errors as HTTP; and keys, health and reflection.

mod answers;
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod faults;
mod policies;
mod service;

/// The generated client.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
mod proto {
    tonic::include_proto!("remask.v1");
}
