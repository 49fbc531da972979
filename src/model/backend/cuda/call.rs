//! One launch of a kernel of ours: its inputs, what it writes, its grid and its numbers. Out of
//! scope: what the kernels compute.

use crate::diffusion::u32_of;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// A launch. The kernel takes pointers to `inputs` and to the output, then `numbers`.
#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))] // no kernel runs there
pub(super) struct Call<'a> {
    pub(super) kernel: String,
    /// At least one; `None` is a null pointer.
    pub(super) inputs: &'a [Option<&'a Tensor>],
    pub(super) output: (Shape, DType),
    /// Blocks of threads.
    pub(super) grid: [usize; 2],
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of shared memory beyond what the kernel declares.
    pub(super) shared: u32,
    pub(super) numbers: &'a [Number],
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
    let pack = 16 / x.dtype().size_in_bytes();
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
    /// Launches the kernel on the device of the first input. Does not wait for it.
    pub(super) fn run(&self) -> Result<Tensor> {
        match self.inputs.iter().flatten().next() {
            Some(first) => first.apply_op1_no_bwd(self),
            None => bail!("{} has no input", self.kernel),
        }
    }
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        "kernel"
    }

    /// On a machine without a GPU, which only tests do: see `host`.
    #[cfg(test)]
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        super::host::run(self)
    }

    #[cfg(not(test))]
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!(
            "{} of {} runs on a GPU, and its inputs lie on the CPU",
            self.kernel,
            super::modules::source(&self.kernel)?.0
        )
    }

    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    fn cuda_fwd(&self, storage: &candle_core::CudaStorage, _: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::cuda_backend::WrapErr;
        use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg, sys};
        use candle_core::{CudaStorage, Storage};

        /// What the driver grants every kernel.
        const SHARED_ALWAYS: u32 = 48 * 1024;

        let device = &storage.device;
        let (module, ptx) = super::modules::source(&self.kernel)?;
        let kernel = device.get_or_load_custom_func(&self.kernel, module, ptx)?;
        if self.shared > SHARED_ALWAYS {
            let limit = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(limit, self.shared as i32).w()?;
        }
        let guards: Vec<_> = self.inputs.iter().map(|input| input.map(Tensor::storage_and_layout)).collect();
        let mut pointers = Vec::with_capacity(guards.len() + 1);
        for guard in &guards {
            pointers.push(match guard {
                None => 0,
                Some((storage, layout)) => match &**storage {
                    Storage::Cuda(storage) => address(storage, layout.start_offset())?,
                    _ => bail!("an input of {} does not lie on the GPU", self.kernel),
                },
            });
        }
        let (shape, dtype) = &self.output;
        // SAFETY: the kernel writes every number of its output before anything reads it.
        let output = unsafe {
            match dtype {
                DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(shape.elem_count())?, device.clone()),
                DType::BF16 => {
                    CudaStorage::wrap_cuda_slice(device.alloc::<half::bf16>(shape.elem_count())?, device.clone())
                }
                other => bail!("an output in {other:?}; the kernels write f32 and bf16"),
            }
        };
        pointers.push(address(&output, 0)?);
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
        // SAFETY: each caller gives its kernel what the kernel's comment names; inputs and output
        // outlive the launch, for memory is freed in the order of the stream that all work is on.
        unsafe { launch.launch(LaunchConfig { grid_dim, block_dim, shared_mem_bytes: self.shared }) }.w()?;
        Ok((output, shape.clone()))
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
