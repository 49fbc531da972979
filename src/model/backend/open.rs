//! The backend of a device.

use super::Backend;
use super::cpu::Cpu;
use super::cuda::Cuda;
use candle_core::Device;
use std::sync::Arc;

/// The operations of `device`.
pub(crate) fn backend(device: Device) -> Arc<dyn Backend> {
    if device.is_cpu() { Arc::new(Cpu) } else { Arc::new(Cuda::new(device)) }
}
