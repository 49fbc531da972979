//! What operators observe: metrics, and the spans of requests.

mod alias;
mod device;
mod metrics;
pub mod trace;

pub use device::DeviceMetrics;
pub use metrics::{Metrics, Outcome};
