//! The devices that models are computed on, by name, and how many threads there are.

use super::backend::{Backend, cpu::Cpu, cuda::Cuda, training::Training};
use super::error::LoadError;
use candle_core::DType;
use std::{collections::BTreeSet, env, fmt, str::FromStr, sync::Arc};

/// The device of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if there is one that this binary can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// The number format that a model is computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 on a GPU, f32 on a CPU.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, sums in 32; only on a GPU.
    Bf16,
}

/// Whether passes are recorded as CUDA graphs; has no effect on a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudaGraphs {
    /// Never.
    #[default]
    Off,
    /// Passes whose shape comes often, filled up to few shapes, if the GPU can.
    Auto,
}

impl Precision {
    /// The format on a device; an error when the device does not compute in it.
    pub(crate) fn on(self, device: &candle_core::Device) -> Result<DType, LoadError> {
        match self {
            Self::F32 => Ok(DType::F32),
            Self::Auto if device.is_cpu() => Ok(DType::F32),
            Self::Bf16 if device.is_cpu() => Err(LoadError::device(
                "cpu",
                "computes in f32; bf16 needs a GPU. To save memory, store the weights in few bits with \
                 `remask quantize`",
            )),
            Self::Auto | Self::Bf16 => Ok(DType::BF16),
        }
    }
}

impl FromStr for Device {
    type Err = LoadError;

    fn from_str(word: &str) -> Result<Self, LoadError> {
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match word.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
                _ if word.contains(',') => Err(LoadError::device(word, "is a list; give one device")),
                _ => Err(LoadError::device(word, "is none of auto, cpu, cuda and cuda:N")),
            },
        }
    }
}

/// Most devices of a list: more than any machine has.
const DEVICES_MAX: usize = 64;

/// The devices that a server computes on, a copy of the model on each. One device, or several of
/// one kind: GPUs, each named once, or the CPU any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(Vec<Device>);

impl Devices {
    /// All of them; one at least.
    pub fn all(&self) -> &[Device] {
        &self.0
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Device::to_string).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Devices {
    type Err = LoadError;

    /// Devices separated by commas. After a GPU, a number alone is a GPU, too: `cuda:0,1`.
    fn from_str(list: &str) -> Result<Self, LoadError> {
        let refuse = |problem: String| Err(LoadError::device(list, problem));
        let mut devices = Vec::new();
        for word in list.split(',') {
            let number = word.parse().ok().filter(|_| matches!(devices.last(), Some(Device::Cuda(_))));
            devices.push(number.map_or_else(|| word.parse(), |number| Ok(Device::Cuda(number)))?);
        }
        if devices.len() > DEVICES_MAX {
            return refuse(format!("are {} devices; give {DEVICES_MAX} at most", devices.len()));
        }
        let gpus: BTreeSet<usize> = devices.iter().filter_map(|device| device.gpu()).collect();
        match (devices.contains(&Device::Cpu), devices.contains(&Device::Auto)) {
            (_, true) if devices.len() > 1 => refuse("has `auto` in a list; name every device".to_owned()),
            (true, _) if !gpus.is_empty() => {
                refuse("mixes the CPU and GPUs; an answer would depend on which computes it. Give one kind".to_owned())
            }
            (false, false) if gpus.len() < devices.len() => {
                refuse("names a GPU twice; two copies of a model on one GPU are slower than one".to_owned())
            }
            _ => Ok(Self(devices)),
        }
    }
}

impl Device {
    const fn gpu(self) -> Option<usize> {
        match self {
            Self::Cuda(ordinal) => Some(ordinal),
            Self::Auto | Self::Cpu => None,
        }
    }

    /// The device that `auto` stands for, and why it is the CPU although this binary can use a GPU.
    /// Others stand for themselves.
    pub fn choose(self) -> (Self, Option<String>) {
        match self {
            Self::Cpu | Self::Cuda(_) => (self, None),
            Self::Auto => match cuda(0) {
                Ok(_) => (Self::Cuda(0), None),
                Err(why) => (Self::Cpu, cfg!(feature = "cuda").then(|| why.to_string())),
            },
        }
    }

    /// Opens the device; returns its own name too, for `auto`.
    pub(crate) fn open(self) -> Result<(candle_core::Device, Self), LoadError> {
        match self.choose().0 {
            Self::Cuda(ordinal) => Ok((cuda(ordinal)?, Self::Cuda(ordinal))),
            Self::Cpu | Self::Auto => Ok((candle_core::Device::Cpu, Self::Cpu)),
        }
    }
}

/// Bytes of a GPU's memory that nobody uses now; `None` of the CPU.
///
/// # Errors
/// When the device does not exist.
pub(crate) fn free_on_gpu(device: Device) -> Result<Option<u64>, LoadError> {
    let (device, _) = device.open()?;
    Ok((!device.is_cpu()).then(|| backend(device, CudaGraphs::Off).free_bytes()))
}

/// The operations of `device`.
pub(crate) fn backend(device: candle_core::Device, graphs: CudaGraphs) -> Arc<dyn Backend> {
    if device.is_cpu() { Arc::new(Cpu) } else { Arc::new(Cuda::new(device, graphs == CudaGraphs::Auto)) }
}

/// What training computes with on a device. Its tensors must lie where it does: a GPU that is
/// opened twice has two streams, which nothing orders.
///
/// # Errors
/// When the device does not exist.
pub(crate) fn training(device: Device) -> Result<Arc<dyn Training>, LoadError> {
    Ok(training_on(device.open()?.0))
}

/// The operations of training on `device`.
pub(crate) fn training_on(device: candle_core::Device) -> Arc<dyn Training> {
    if device.is_cpu() { Arc::new(Cpu) } else { Arc::new(Cuda::new(device, false)) }
}

/// The operations of training by the kernels: on a GPU where tests have one, else on the CPU in the
/// program that `.ci/kernels` builds.
#[cfg(test)]
pub(crate) fn training_by_kernels() -> Arc<dyn Training> {
    let device = if cfg!(feature = "cuda") { Device::Cuda(0) } else { Device::Cpu };
    Arc::new(Cuda::new(device.open().unwrap().0, false))
}

/// Whether GPUs may multiply matrices of f32 as TF32.
pub(crate) fn allow_tf32(is_allowed: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(is_allowed);
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<candle_core::Device, LoadError> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    use std::panic;

    let open = || {
        let count = CudaContext::device_count().map_err(|cause| format!("the NVIDIA driver fails: {cause}"))?;
        match usize::try_from(count) {
            Ok(count) if ordinal < count => one_stream(ordinal).map_err(|cause| cause.to_string()),
            Ok(_) | Err(_) => Err(format!("the NVIDIA driver knows {count} GPUs; they are numbered from 0")),
        }
    };
    // cudarc panics when a library is missing; here that is an error
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let opened = panic::catch_unwind(open);
    panic::set_hook(hook);
    let missing = "the NVIDIA driver or a CUDA library (libcuda, libcublas, libcublasLt, libcurand) is not to be found; \
                   install them, name their place in LD_LIBRARY_PATH, or use `cpu`";
    opened
        .unwrap_or_else(|_| Err(missing.to_owned()))
        .map_err(|problem| LoadError::device(Device::Cuda(ordinal), problem))
}

/// Opens a GPU whose work is all on one stream, in the order in which it was asked for, whatever
/// thread asks. (The default has a stream for each thread, which nothing orders.) Memory that was
/// freed is kept for the next pass.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
fn one_stream(ordinal: usize) -> candle_core::Result<candle_core::Device> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::sys;

    let device = candle_core::Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events order what is on several streams, and there is one.
    unsafe { cuda.disable_event_tracking() };
    let (mut pool, mut kept) = (std::ptr::null_mut(), u64::MAX);
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: both pointers are valid while the driver reads and writes them.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, cuda.cuda_stream().context().cu_device()).result().w()?;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut kept).cast()).result().w()?;
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<candle_core::Device, LoadError> {
    let problem = "this binary was built without the feature `cuda`; use `cpu`, or build with `--features cuda`";
    Err(LoadError::device(Device::Cuda(ordinal), problem))
}

/// How a program uses its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All threads share each large product: for serving, where one pass must end soon.
    ShareProducts,
    /// Each thread has its own products: for training, where a step has rows for all of them.
    Alone,
}

/// Physical cores (two threads on one are not faster here), but no more than a container may use.
pub fn threads() -> usize {
    static COUNT: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *COUNT.get_or_init(|| {
        let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        threads_of(THREADS).unwrap_or_else(|| candle_core::utils::get_num_threads().min(allowed))
    })
}

const THREADS: &str = "RAYON_NUM_THREADS";

/// Sets the number of candle's threads in environment variables, the only setting it reads. Without
/// them it counts the cores again, from `/proc/cpuinfo`, in every matrix product, which doubles the
/// time of a small model's pass; and its second pool, for additions and the like, admits one thread
/// at a time while the others spin, which slows a large model by a fifth. Variables that are set to
/// a number above 0 stay as they are, except for [`Threads::Alone`].
///
/// # Safety
/// Sets environment variables, so no other thread may run yet: call it first in `main`.
#[allow(unsafe_code)]
pub unsafe fn settle_threads(use_of: Threads) {
    let all = threads(); // keeps the value of the environment as it is now
    let count = if use_of == Threads::Alone { 1 } else { all };
    for (variable, value) in [(THREADS, count), ("CANDLE_NUM_THREADS", 1)] {
        if use_of == Threads::Alone || threads_of(variable).is_none() {
            // SAFETY: no other thread runs, as the caller promises.
            unsafe { env::set_var(variable, value.to_string()) };
        }
    }
}

/// The number of threads that a variable asks for.
fn threads_of(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok().filter(|threads| *threads > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_devices_is_read() {
        for (list, names) in [
            ("auto", "auto"),
            ("cpu", "cpu"),
            ("cuda", "cuda:0"),
            ("cuda:3", "cuda:3"),
            ("cpu,cpu", "cpu,cpu"),
            ("cuda:0,1", "cuda:0,cuda:1"),
            ("cuda,cuda:1", "cuda:0,cuda:1"),
            ("cuda:5,2,cuda:0,7", "cuda:5,cuda:2,cuda:0,cuda:7"),
        ] {
            assert_eq!(list.parse::<Devices>().unwrap().to_string(), names, "{list}");
        }
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        let many = vec!["cpu"; 65].join(",");
        for (list, problem) in [
            ("", "is none of auto, cpu, cuda and cuda:N"),
            ("gpu", "is none of auto, cpu, cuda and cuda:N"),
            ("1", "is none of auto, cpu, cuda and cuda:N"),
            ("cpu,1", "is none of auto, cpu, cuda and cuda:N"),
            ("cpu,", "is none of auto, cpu, cuda and cuda:N"),
            ("cuda:0,", "is none of auto, cpu, cuda and cuda:N"),
            ("cuda:0,-1", "is none of auto, cpu, cuda and cuda:N"),
            ("cpu,cuda", "mixes the CPU and GPUs"),
            ("cuda:0,cpu", "mixes the CPU and GPUs"),
            ("cuda:0,0", "names a GPU twice"),
            ("cuda,1,cuda:1", "names a GPU twice"),
            ("auto,cpu", "has `auto` in a list"),
            ("cuda:0,auto", "has `auto` in a list"),
            ("auto,auto", "has `auto` in a list"),
            (&many, "are 65 devices; give 64 at most"),
        ] {
            let error = list.parse::<Devices>().unwrap_err().to_string();
            assert!(error.contains(problem), "{list}: {error}");
        }
        let error = "cpu,cpu".parse::<Device>().unwrap_err().to_string();
        assert!(error.contains("is a list; give one device"), "{error}");
    }
}
