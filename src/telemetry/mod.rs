//! What operators observe: metrics, and the spans of requests.

mod alias;
mod device;
mod family;
mod metrics;
mod model;
pub mod trace;

pub use device::DeviceMetrics;
pub use metrics::{Metrics, Outcome};
pub use model::ModelMetrics;
