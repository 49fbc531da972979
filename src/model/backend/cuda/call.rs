//! One launch of a kernel of ours: its inputs, what it writes, its grid and its numbers. Out of
//! scope: what the kernels compute.

use crate::diffusion::u32_of;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// A launch. The kernel takes pointers to `inputs` and to what it writes, then `numbers`.
#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))] // no kernel runs there
pub(super) struct Call<'a> {
    pub(super) kernel: String,
    /// At least one; `None` is a null pointer.
    pub(super) inputs: &'a [Option<&'a Tensor>],
    pub(super) output: Output<'a>,
    /// Blocks of threads.
    pub(super) grid: [usize; 2],
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of shared memory beyond what the kernel declares.
    pub(super) shared: u32,
    pub(super) numbers: &'a [Number],
}

/// What a kernel writes.
pub(super) enum Output<'a> {
    /// All numbers of a new tensor.
    New(Shape, DType),
    /// Some numbers of these tensors, at least one. None of them is an input, and all others read
    /// or write them on the same stream only.
    Changed(&'a [&'a Tensor]),
}

/// A number that a kernel takes by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Word(u32),
    Float(f32),
}

/// A size or a stride, as kernels take it.
pub(super) fn word(size: usize) -> Number {
    Number::Word(u32_of(size))
}

/// Numbers from one row of `x` (rows, width) to the next, whose own numbers are neighbours.
pub(super) fn stride(x: &Tensor) -> Result<usize> {
    match (x.dims(), x.stride()) {
        ([_, width], [stride, 1]) if stride >= width => Ok(*stride),
        ([_, 1], [stride, _]) => Ok(*stride),
        (dims, strides) => bail!("rows of {dims:?} numbers with strides {strides:?} are no rows"),
    }
}

/// Whether packs of 16 bytes can be read from each row of `x` (rows, width), if a row is cut into
/// `parts`.
pub(super) fn is_wide(x: &Tensor, parts: usize) -> Result<bool> {
    is_packed(x, parts, 16 / x.dtype().size_in_bytes())
}

/// The same of packs of so many numbers.
pub(super) fn is_packed(x: &Tensor, parts: usize, pack: usize) -> Result<bool> {
    let (_, width) = x.dims2()?;
    let places = [width / parts, stride(x)?, x.layout().start_offset()];
    Ok(width % parts == 0 && places.iter().all(|place| place % pack == 0))
}

/// The end of a kernel's name: its number format and width of reads.
pub(super) fn form(dtype: DType, is_wide: bool) -> Result<&'static str> {
    match (dtype, is_wide) {
        (DType::F32, false) => Ok("f32"),
        (DType::F32, true) => Ok("f32_wide"),
        (DType::BF16, false) => Ok("bf16"),
        (DType::BF16, true) => Ok("bf16_wide"),
        (other, _) => bail!("numbers in {other:?}; the kernels take f32 and bf16"),
    }
}

impl Call<'_> {
    /// Launches the kernel on the device of its tensors. Does not wait for it. Returns the new
    /// tensor, or the first of those that are changed.
    pub(super) fn run(&self) -> Result<Tensor> {
        match (&self.output, self.inputs.iter().flatten().next()) {
            (Output::New(shape, dtype), Some(first)) => {
                first.apply_op1_no_bwd(&Making { call: self, shape, dtype: *dtype })
            }
            (Output::Changed(tensors), _) => {
                self.change(tensors)?;
                Ok(tensors[0].clone())
            }
            (Output::New(..), None) => bail!("{} has no input", self.kernel),
        }
    }

    fn change(&self, tensors: &[&Tensor]) -> Result<()> {
        match tensors[0].device() {
            #[cfg(feature = "cuda")]
            candle_core::Device::Cuda(device) => {
                let guards: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
                let pointers = guards.iter().map(|(storage, layout)| self.pointer(storage, layout));
                self.launch(device, &pointers.collect::<Result<Vec<u64>>>()?)
            }
            #[cfg(test)]
            candle_core::Device::Cpu => super::host::change(self, tensors),
            _ => self.not_on_gpu(),
        }
    }

    fn not_on_gpu<T>(&self) -> Result<T> {
        let file = super::modules::source(&self.kernel)?.0;
        bail!("{} of {file} runs on a GPU, and its tensors do not lie there", self.kernel)
    }
}

/// A call that makes a new tensor, as the tensor library runs it.
#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))] // no kernel runs there
struct Making<'a> {
    call: &'a Call<'a>,
    shape: &'a Shape,
    dtype: DType,
}

impl CustomOp1 for Making<'_> {
    fn name(&self) -> &'static str {
        "kernel"
    }

    /// On a machine without a GPU, which only tests do: see `host`.
    #[cfg(test)]
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((super::host::make(self.call, self.shape, self.dtype)?, self.shape.clone()))
    }

    #[cfg(not(test))]
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.call.not_on_gpu()
    }

    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    fn cuda_fwd(&self, storage: &candle_core::CudaStorage, _: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::CudaStorage;

        let (device, count) = (&storage.device, self.shape.elem_count());
        // SAFETY: the kernel writes every number of its output before anything reads it.
        let output = unsafe {
            match self.dtype {
                DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(count)?, device.clone()),
                DType::BF16 => CudaStorage::wrap_cuda_slice(device.alloc::<half::bf16>(count)?, device.clone()),
                other => bail!("an output in {other:?}; the kernels write f32 and bf16"),
            }
        };
        self.call.launch(device, &[address(&output, 0)?])?;
        Ok((output, self.shape.clone()))
    }
}

#[cfg(feature = "cuda")]
impl Call<'_> {
    /// Launches the kernel, which writes to `outputs`.
    #[allow(unsafe_code)]
    fn launch(&self, device: &candle_core::CudaDevice, outputs: &[u64]) -> Result<()> {
        use candle_core::cuda_backend::WrapErr;
        use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg, sys};

        /// What the driver grants every kernel.
        const SHARED_ALWAYS: u32 = 48 * 1024;

        let (module, ptx) = super::modules::source(&self.kernel)?;
        let kernel = device.get_or_load_custom_func(&self.kernel, module, ptx)?;
        if self.shared > SHARED_ALWAYS {
            let limit = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(limit, self.shared as i32).w()?;
        }
        let guards: Vec<_> = self.inputs.iter().map(|input| input.map(Tensor::storage_and_layout)).collect();
        let mut pointers = Vec::with_capacity(guards.len() + outputs.len());
        for guard in &guards {
            pointers.push(match guard {
                None => 0,
                Some((storage, layout)) => self.pointer(storage, layout)?,
            });
        }
        pointers.extend(outputs);
        let numbers = self.numbers.iter().map(|number| match number {
            Number::Word(word) => *word,
            Number::Float(float) => float.to_bits(),
        });
        let numbers: Vec<u32> = numbers.collect();
        let mut launch = kernel.builder();
        pointers.iter().for_each(|pointer| {
            launch.arg(pointer);
        });
        numbers.iter().for_each(|number| {
            launch.arg(number);
        });
        let [x, y] = self.grid.map(u32_of);
        let (grid_dim, block_dim) = ((x, y, 1), (self.threads, 1, 1));
        // SAFETY: each caller gives its kernel what the kernel's comment names; inputs and outputs
        // outlive the launch, for memory is freed in the order of the stream that all work is on.
        // So are reads and writes of what a kernel changes, which nobody on the host looks at.
        unsafe { launch.launch(LaunchConfig { grid_dim, block_dim, shared_mem_bytes: self.shared }) }.w()?;
        Ok(())
    }

    /// Where a tensor begins on the GPU.
    fn pointer(&self, storage: &candle_core::Storage, layout: &Layout) -> Result<u64> {
        match storage {
            candle_core::Storage::Cuda(storage) => address(storage, layout.start_offset()),
            _ => self.not_on_gpu(),
        }
    }
}

/// Where number `at` of a storage lies on the GPU.
#[cfg(feature = "cuda")]
fn address(storage: &candle_core::CudaStorage, at: usize) -> Result<u64> {
    use candle_core::cuda_backend::CudaStorageSlice;
    use candle_core::cuda_backend::cudarc::driver::DevicePtr;

    let stream = storage.device.cuda_stream();
    let (start, size) = match &storage.slice {
        CudaStorageSlice::U32(slice) => (slice.device_ptr(&stream).0, 4),
        CudaStorageSlice::F32(slice) => (slice.device_ptr(&stream).0, 4),
        CudaStorageSlice::BF16(slice) => (slice.device_ptr(&stream).0, 2),
        _ => bail!("numbers that are neither u32 nor f32 nor bf16"),
    };
    Ok(start + at as u64 * size)
}
