//! What operators observe: metrics, and the spans of requests.

mod metrics;
pub mod trace;

pub use metrics::{Metrics, Outcome};
