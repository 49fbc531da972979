//! gRPC: what it answers is what HTTP answers, faults included; and what goes beside it: keys, health, reflection.

mod answers;
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod faults;
mod service;

/// The client that the build wrote.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
mod proto {
    tonic::include_proto!("remask.v1");
}
