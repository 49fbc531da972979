//! What the server tells of itself: metrics, and the spans of requests.

mod aliases;
mod metrics;
pub mod trace;

pub use metrics::{Metrics, Outcome};
