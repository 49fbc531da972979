//! What operators observe: metrics, and the spans of requests.

mod alias;
mod device;
mod metrics;
mod model;
mod registrar;
pub mod trace;

pub use device::DeviceMetrics;
pub use metrics::{Metrics, Outcome};
pub use model::ModelMetrics;
