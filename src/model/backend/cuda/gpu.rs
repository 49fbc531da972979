//! A GPU, and what is counted of the work that is sent to it.

use super::call::Call;
use crate::model::backend::counts::Counters;
use candle_core::{Device, Result, Tensor};
use std::sync::Arc;

/// Threads of a block of the kernels in `layers.cu` and `summary.cu`.
pub(super) const THREADS: u32 = 256;

/// One GPU.
#[derive(Clone, Debug)]
pub(super) struct Gpu {
    pub(super) device: Device,
    /// Whether the GPU multiplies bf16 matrices in one instruction, as those from sm_80 on do.
    pub(super) has_tensor_cores: bool,
    pub(super) counters: Arc<Counters>,
    #[cfg(feature = "cuda")]
    pinned: Arc<super::pinned::Pinned>,
}

impl Gpu {
    pub(super) fn new(device: Device) -> Self {
        let has_tensor_cores = has_tensor_cores(&device);
        Self {
            device,
            has_tensor_cores,
            counters: Arc::default(),
            #[cfg(feature = "cuda")]
            pinned: Arc::default(),
        }
    }

    /// Launches a kernel and does not wait for it.
    pub(super) fn launch(&self, call: &Call<'_>) -> Result<Tensor> {
        self.counters.launched(1);
        call.run()
    }

    /// Brings words to the device.
    pub(super) fn bring(&self, words: &[u32]) -> Result<Tensor> {
        self.counters.copied();
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            return self.pinned.bring(words, device);
        }
        Tensor::new(words, &self.device)
    }

    /// Brings numbers to the host, once the device has computed them.
    pub(super) fn numbers(&self, x: &Tensor) -> Result<Vec<f32>> {
        self.counters.copied();
        self.counters.waited();
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            return self.pinned.back(x, device);
        }
        x.to_vec1()
    }
}

#[cfg(feature = "cuda")]
fn has_tensor_cores(device: &Device) -> bool {
    const FIRST: (i32, i32) = (8, 0);
    let capability = |device: &candle_core::CudaDevice| device.cuda_stream().context().compute_capability().ok();
    device.as_cuda_device().ok().and_then(capability).is_some_and(|capability| capability >= FIRST)
}

/// Without the feature no GPU can be opened; on the CPU the kernels run in a program for tests.
#[cfg(not(feature = "cuda"))]
fn has_tensor_cores(device: &Device) -> bool {
    device.is_cpu()
}
