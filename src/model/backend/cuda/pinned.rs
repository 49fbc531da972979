//! Copies between the host and a GPU through memory that the driver has pinned, so that a copy to
//! the GPU does not hold the host up.

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DevicePtr, PinnedHostSlice, result};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Most buffers for copies to a GPU: one for each copy that is asked for before the host waits
/// next. A step of training has a few, and the steps after it may be asked for before it ends.
const BUFFERS_MAX: usize = 64;

/// Pinned memory of one GPU, as large as what was copied so far.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    /// The one used last comes last.
    there: Mutex<VecDeque<Buffer>>,
    back: Mutex<Option<PinnedHostSlice<f32>>>,
    /// Any tensor on the GPU.
    anchor: OnceLock<Tensor>,
}

/// Memory that a copy to the GPU reads, and when it has been read.
#[derive(Debug)]
struct Buffer {
    words: PinnedHostSlice<u32>,
    read: CudaEvent,
}

impl Buffer {
    /// One of at least so many words that no copy reads any more. Waits only where as many copies
    /// as there may be buffers are under way.
    #[allow(unsafe_code)]
    fn idle(buffers: &mut VecDeque<Self>, count: usize, stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread().w()?;
        let is_full = buffers.len() >= BUFFERS_MAX;
        // copies end in the order in which they were asked for
        let is_ready = match buffers.front() {
            Some(oldest) => is_full || oldest.read.try_is_complete().w()?,
            None => false,
        };
        if is_ready && let Some(oldest) = buffers.pop_front() {
            oldest.read.synchronize().w()?;
            if oldest.words.len() >= count {
                return Ok(oldest);
            }
        }
        // SAFETY: as much of it is written as is read.
        let words = unsafe { stream.context().alloc_pinned(count.next_power_of_two()) }.w()?;
        Ok(Self { words, read: stream.context().new_event(None).w()? })
    }
}

/// Makes a tensor of memory on a GPU, which the tensor library grants to operations only.
struct Made(Cell<Option<CudaStorage>>, usize);

impl CustomOp1 for Made {
    fn name(&self) -> &'static str {
        "made"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("memory on a GPU for a tensor on the CPU")
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.0.take() {
            Some(storage) => Ok((storage, self.1.into())),
            None => bail!("the memory belongs to a tensor already"),
        }
    }
}

#[allow(unsafe_code)]
impl Pinned {
    /// Words on the GPU.
    pub(super) fn bring(&self, words: &[u32], device: &CudaDevice) -> Result<Tensor> {
        let stream = device.cuda_stream();
        let mut buffers = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = Buffer::idle(&mut buffers, words.len(), &stream)?;
        let pinned = &mut buffer.words.as_mut_slice().w()?[..words.len()];
        pinned.copy_from_slice(words);
        // SAFETY: the copy below writes all of it before anything reads it.
        let there = unsafe { device.alloc::<u32>(words.len().max(1)) }?;
        let to = there.device_ptr(&stream).0;
        // SAFETY: both have so many words, and the pinned memory stays as it is until it was read.
        unsafe { result::memcpy_htod_async(to, pinned, stream.cu_stream()) }.w()?;
        buffer.read.record(&stream).w()?;
        buffers.push_back(buffer);
        let storage = CudaStorage::wrap_cuda_slice(there, device.clone());
        let anchor = match self.anchor.get() {
            Some(anchor) => anchor,
            None => {
                let anchor = Tensor::zeros(1, DType::U32, &Device::Cuda(device.clone()))?;
                self.anchor.get_or_init(|| anchor)
            }
        };
        anchor.apply_op1_no_bwd(&Made(Cell::new(Some(storage)), words.len()))
    }

    /// Waits for numbers (count) and copies them to the host.
    pub(super) fn back(&self, numbers: &Tensor, device: &CudaDevice) -> Result<Vec<f32>> {
        let stream = device.cuda_stream();
        let (storage, layout) = numbers.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("numbers that do not lie on the GPU") };
        let (CudaStorageSlice::F32(slice), Some((from, until))) = (&storage.slice, layout.contiguous_offsets()) else {
            bail!("numbers that are no f32 in a row")
        };
        let count = until - from;
        let mut pinned = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as much of it is written as is read. Not write-combined, for the host reads it.
        let enough = |count| unsafe { stream.context().alloc_pinned_with_flags::<f32>(count, 0) };
        let pinned = match &mut *pinned {
            Some(pinned) if pinned.len() >= count => pinned,
            pinned => pinned.insert(enough(count.next_power_of_two()).w()?),
        };
        let pinned = &mut pinned.as_mut_slice().w()?[..count];
        let start = slice.device_ptr(&stream).0 + 4 * from as u64;
        // SAFETY: both have so many numbers, and the host waits for the copy before it reads them.
        unsafe { result::memcpy_dtoh_async(pinned, start, stream.cu_stream()) }.w()?;
        stream.synchronize().w()?;
        Ok(pinned.to_vec())
    }
}
