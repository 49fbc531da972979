//! The numbers of tensors on a CPU as f32.

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
use std::borrow::Cow;

/// What `f` makes of the numbers of contiguous tensors in f32 or bf16, as f32.
pub(super) fn with<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let stored = tensors.map(Tensor::storage_and_layout);
    let mut numbers = [const { Cow::Borrowed([].as_slice()) }; N];
    for (numbers, (storage, layout)) in numbers.iter_mut().zip(&stored) {
        let Some((from, until)) = layout.contiguous_offsets() else {
            bail!("an operation on rows was given a tensor of shape {:?} that is not contiguous", layout.shape())
        };
        *numbers = match &**storage {
            Storage::Cpu(CpuStorage::F32(all)) => Cow::Borrowed(&all[from..until]),
            Storage::Cpu(CpuStorage::BF16(all)) => {
                Cow::Owned(all[from..until].iter().map(|number| number.to_f32()).collect())
            }
            _ => bail!("an operation on the CPU was given a tensor that is not f32 or bf16 there"),
        };
    }
    Ok(f(numbers.each_ref().map(|numbers| &**numbers)))
}

/// A tensor of numbers, rounded to a format.
pub(super) fn made(shape: &Shape, dtype: DType, numbers: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)
}
