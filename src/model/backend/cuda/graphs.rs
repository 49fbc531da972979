//! CUDA graphs: the work of a pass, recorded once and sent again as a whole for passes of the same
//! shape. A GPU gets the next kernel at once, where the host needs some microseconds for each.
//!
//! Inputs are filled up to few sizes, so that shapes repeat. Where recording fails, passes go on
//! without. What else a pass reads or writes, weights and the store of keys and values, must stay
//! where it is; which slots of the store it uses is among its inputs.

use super::gpu::Gpu;
use crate::model::backend::inputs::Inputs;
use candle_core::{Result, Tensor};

/// Rows up to which additions are filled up; larger passes are worth more than their launches.
const FILLED_UP_MAX: usize = 1024;
/// Additions are filled up to a multiple of this, small ones to a power of two.
const STEP: usize = 64;

/// So many rows are filled up to how many.
pub(super) fn filled_up(rows: usize) -> usize {
    match rows {
        0 => rows,
        1..STEP => rows.next_power_of_two(),
        STEP..FILLED_UP_MAX => rows.next_multiple_of(STEP),
        _ => rows,
    }
}

/// What a pass computed, one number after the other.
pub(super) struct Numbers {
    pub(super) numbers: Option<Tensor>,
    /// How many of them are summaries.
    pub(super) answered: usize,
}

/// Lays what a pass computed end to end.
pub(super) type Lay<'a> = &'a dyn Fn(&Tensor) -> Result<Numbers>;

#[cfg(feature = "cuda")]
pub(super) use recorded::Graphs;

#[cfg(feature = "cuda")]
mod recorded {
    use super::{Gpu, Inputs, Lay, Numbers, Result, Tensor};
    use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, result, sys};
    use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
    use candle_core::{DType, Storage, bail};
    use std::collections::HashMap;
    use std::fmt;
    use std::sync::{Arc, Mutex, PoisonError};

    /// Recorded passes at most; the one that was not used for the longest time goes.
    const GRAPHS_MAX: usize = 32;
    /// A shape is recorded when it comes for this time.
    const WORTH: u32 = 3;
    /// Shapes whose times are counted.
    const SEEN_MAX: usize = 4096;
    /// Words of the inputs of a pass that is recorded.
    const WORDS_MAX: usize = 1 << 15;

    /// The recorded passes of one GPU.
    #[derive(Default)]
    pub(crate) struct Graphs {
        passes: Mutex<Passes>,
    }

    #[derive(Default)]
    struct Passes {
        seen: HashMap<Vec<usize>, u32>,
        /// The one used last comes last.
        recorded: Vec<(Vec<usize>, Recorded)>,
        is_off: bool,
    }

    struct Recorded {
        graph: CudaGraph,
        /// Where the graph reads its inputs and writes its numbers.
        inputs: Tensor,
        numbers: Tensor,
        answered: usize,
    }

    // SAFETY: a graph must not be used by two threads at once, and a mutex holds it.
    #[allow(unsafe_code)]
    unsafe impl Send for Recorded {}

    impl fmt::Debug for Graphs {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Graphs").finish_non_exhaustive()
        }
    }

    impl Graphs {
        /// The numbers of a pass, and how many of them are summaries; `None` where the pass is to
        /// be run without a graph.
        pub(crate) fn run(&self, gpu: &Gpu, inputs: &Inputs, lay: Lay<'_>) -> Result<Option<(Vec<f32>, usize)>> {
            let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
            if passes.is_off || inputs.brings_rows || inputs.words.len() > WORDS_MAX {
                return Ok(None);
            }
            if let Some(at) = passes.recorded.iter().position(|(shape, _)| *shape == inputs.shape) {
                let pass = passes.recorded.remove(at);
                let found = pass.1.replay(gpu, inputs);
                passes.recorded.push(pass);
                return found.map(Some);
            }
            if passes.seen.len() >= SEEN_MAX {
                passes.seen.clear();
            }
            let times = passes.seen.entry(inputs.shape.clone()).or_default();
            *times += 1;
            if *times < WORTH {
                return Ok(None);
            }
            match record(gpu, inputs, lay) {
                Ok((recorded, numbers)) => {
                    if passes.recorded.len() >= GRAPHS_MAX {
                        passes.recorded.remove(0);
                    }
                    let answered = recorded.answered;
                    passes.recorded.push((inputs.shape.clone(), recorded));
                    Ok(Some((numbers, answered)))
                }
                Err(error) => {
                    tracing::warn!(%error, "a pass could not be recorded as a CUDA graph; passes run without");
                    passes.is_off = true;
                    passes.recorded.clear();
                    Ok(None)
                }
            }
        }
    }

    /// Runs a pass once as usual, which gives its numbers and loads all that it needs, and once
    /// more to record it.
    fn record(gpu: &Gpu, inputs: &Inputs, lay: Lay<'_>) -> Result<(Recorded, Vec<f32>)> {
        let device = gpu.device.as_cuda_device()?;
        let stream = device.cuda_stream();
        // the tensor library sends some shapes to the device; recording, it takes them from here
        let cache = device.enable_cuda_graph_htod_cache();
        let inputs = gpu.bring(&inputs.words)?;
        let Numbers { numbers: Some(numbers), answered } = lay(&inputs)? else { bail!("a pass without an answer") };
        let found = gpu.numbers(&numbers)?;
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let copied = lay(&inputs).and_then(|again| match again.numbers {
            Some(again) => copy(&again, &numbers, &stream),
            None => bail!("a pass without an answer"),
        });
        let flag = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flag).w(); // also where the work failed
        drop(cache);
        copied?;
        let Some(graph) = graph? else { bail!("nothing was recorded") };
        Ok((Recorded { graph, inputs, numbers, answered }, found))
    }

    impl Recorded {
        fn replay(&self, gpu: &Gpu, inputs: &Inputs) -> Result<(Vec<f32>, usize)> {
            let stream = gpu.device.as_cuda_device()?.cuda_stream();
            let to = address(&self.inputs, &stream)?;
            gpu.counters.copied();
            // SAFETY: the tensor has as many words, for a shape tells their number.
            #[allow(unsafe_code)]
            unsafe { result::memcpy_htod_async(to, &inputs.words, stream.cu_stream()) }.w()?;
            gpu.counters.launched(1);
            self.graph.launch().w()?;
            Ok((gpu.numbers(&self.numbers)?, self.answered))
        }
    }

    /// Copies numbers from one tensor to another of the same size.
    fn copy(from: &Tensor, to: &Tensor, stream: &Arc<CudaStream>) -> Result<()> {
        if from.elem_count() != to.elem_count() || from.dtype() != DType::F32 || to.dtype() != DType::F32 {
            bail!("a pass gave {:?} numbers and then {:?}", to.shape(), from.shape());
        }
        let (from, to, bytes) = (address(from, stream)?, address(to, stream)?, 4 * to.elem_count());
        // SAFETY: both are on this device and have so many bytes.
        #[allow(unsafe_code)]
        unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) }.w()
    }

    /// Where a tensor begins.
    fn address(tensor: &Tensor, stream: &CudaStream) -> Result<sys::CUdeviceptr> {
        use candle_core::cuda_backend::cudarc::driver::DevicePtr;

        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("a tensor that does not lie on the GPU") };
        let start = match &storage.slice {
            CudaStorageSlice::U32(slice) => slice.device_ptr(stream).0,
            CudaStorageSlice::F32(slice) => slice.device_ptr(stream).0,
            _ => bail!("numbers that are neither u32 nor f32"),
        };
        Ok(start + 4 * layout.start_offset() as u64)
    }
}

/// Without the feature there is nothing to record.
#[cfg(not(feature = "cuda"))]
#[derive(Debug, Default)]
pub(super) struct Graphs;

#[cfg(not(feature = "cuda"))]
impl Graphs {
    pub(super) fn run(&self, gpu: &Gpu, inputs: &Inputs, _: Lay<'_>) -> Result<Option<(Vec<f32>, usize)>> {
        let _ = (gpu, inputs, self);
        Ok(None)
    }
}
