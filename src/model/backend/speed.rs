//! How fast a device is, measured with its own operations: what a pass is held against.

use super::cost::{Numbers, Speed};
use super::{Backend, Matrix, Normal, Operation, Segment, Stored};
use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result, Tensor};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A size is large enough once an operation takes so long.
const LONG: Duration = Duration::from_millis(20);
/// Measurements end after so long, but for the one that runs then.
const BUDGET: Duration = Duration::from_millis(700);
/// Runs of an operation, one behind the other, that are timed together.
const BURST: u32 = 4;
/// Timed bursts at most; the fastest counts.
const BURSTS: u32 = 5;

/// Bytes that are copied: the first size, and the largest.
const COPIED: (usize, usize) = (1 << 26, 1 << 28);
/// Rows and columns of the two factors of the product. Quantising larger ones takes seconds.
const FULL: (usize, usize) = (1024, 8192);
const QUANTISED: (usize, usize) = (1024, 2048);

/// Measures the copies of a device, and products with matrices in this number format.
///
/// # Errors
/// When an operation fails, also for lack of memory at the smallest size.
pub(crate) fn measure(backend: &dyn Backend, numbers: Numbers) -> Result<Speed> {
    let (bytes, copy) = growing(backend, COPIED, |bytes| backend.copying(bytes))?;
    let sizes = if matches!(numbers, Numbers::Full(_)) { FULL } else { QUANTISED };
    let (size, product) = growing(backend, sizes, |size| {
        let product = Product::new(backend, numbers, size)?;
        Ok(Box::new(move || product.run(backend)))
    })?;
    Ok(Speed {
        copy_bytes_per_s: 2.0 * bytes as f64 / copy.as_secs_f64(),
        flop_per_s: 2.0 * (size as f64).powi(3) / product.as_secs_f64(),
    })
}

/// The size of an operation, doubled from the first until it takes long enough, is the largest, or
/// has no room, and the time that it takes.
fn growing<'a>(
    backend: &dyn Backend,
    (mut size, largest): (usize, usize),
    operation: impl Fn(usize) -> Result<Operation<'a>>,
) -> Result<(usize, Duration)> {
    let begun = Instant::now();
    let mut run = operation(size)?;
    let mut time = timed(backend, &mut run, 1)?;
    while time < LONG && size < largest {
        drop(run); // its memory, before more is taken
        let larger = operation(2 * size).and_then(|mut run| Ok((timed(backend, &mut run, 1)?, run)));
        match larger {
            Ok(larger) => {
                (time, run) = larger;
                size *= 2;
            }
            Err(_) => {
                run = operation(size)?;
                break;
            }
        }
    }
    for _ in 0..BURSTS {
        if begun.elapsed() > BUDGET {
            break;
        }
        time = time.min(timed(backend, &mut run, BURST)?);
    }
    Ok((size, time))
}

/// The mean time of some runs, after one that is not timed.
fn timed(backend: &dyn Backend, run: &mut Operation<'_>, runs: u32) -> Result<Duration> {
    if runs == 1 {
        run()?; // the first one loads kernels and takes memory
    }
    backend.wait()?;
    let begun = Instant::now();
    for _ in 0..runs {
        run()?;
    }
    backend.wait()?;
    Ok((begun.elapsed() / runs).max(Duration::from_nanos(1)))
}

/// A product of two square matrices, cut as a pass of so many tokens is.
struct Product {
    pieces: Vec<Tensor>, // (tokens of the piece, size)
    matrix: Box<dyn Matrix>,
}

impl Product {
    fn new(backend: &dyn Backend, numbers: Numbers, size: usize) -> Result<Self> {
        let random = |stream| {
            let normal = Normal { seed: 0, stream, mean: 0.0, deviation: 0.02 };
            backend.normal(normal, &[size, size])
        };
        let (weight, dtype) = match numbers {
            Numbers::Full(dtype) => (Stored::Full(random(0)?.to_dtype(dtype)?), dtype),
            Numbers::Quantised(format) => {
                let weight = QTensor::quantize_onto(&random(0)?.to_device(&Device::Cpu)?, format, &backend.device())?;
                (Stored::Quantised(Arc::new(weight)), DType::F32)
            }
        };
        let x = random(1)?.to_dtype(dtype)?; // (size, size)
        let cut = backend.cut(&[size]);
        let segments = cut.into_iter().flatten();
        let piece = |Segment { positions, .. }: Segment| x.narrow(0, positions.start, positions.len())?.contiguous();
        Ok(Self { pieces: segments.map(piece).collect::<Result<_>>()?, matrix: backend.matrix(&weight)? })
    }

    fn run(&self, backend: &dyn Backend) -> Result<()> {
        backend.each(&self.pieces, |_, piece| self.matrix.product(piece)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::cpu::Cpu;
    use candle_core::quantized::GgmlDType;
    use std::cell::RefCell;

    #[test]
    fn a_device_is_measured_in_floats_and_in_few_bits() {
        for numbers in [Numbers::Full(DType::F32), Numbers::Quantised(GgmlDType::Q8_0)] {
            let Speed { copy_bytes_per_s, flop_per_s } = measure(&Cpu, numbers).unwrap();
            // no machine is slower than a megabyte and a million operations, or faster than exa
            assert!((1e6..1e18).contains(&copy_bytes_per_s), "{numbers:?}: {copy_bytes_per_s}");
            assert!((1e6..1e18).contains(&flop_per_s), "{numbers:?}: {flop_per_s}");
        }
    }

    #[test]
    fn a_size_grows_while_the_operation_is_short_and_there_is_room() {
        let grown = |largest, room| {
            let made = RefCell::new(Vec::new());
            let size = growing(&Cpu, (4, largest), |size| {
                made.borrow_mut().push(size);
                if size > room {
                    candle_core::bail!("out of memory");
                }
                Ok(Box::new(|| Ok(())))
            });
            (size.map(|(size, _)| size).ok(), made.into_inner())
        };
        assert_eq!(grown(32, 1000), (Some(32), vec![4, 8, 16, 32]));
        assert_eq!(grown(32, 9), (Some(8), vec![4, 8, 16, 8]));
        assert_eq!(grown(32, 3), (None, vec![4]));
    }
}
