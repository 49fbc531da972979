//! What the kernels of training have in common: which tensors they take, how they are cut into
//! blocks of threads, and sums over rows and columns.

use super::call::{Call, Output, is_packed, is_wide, stride, word};
use super::gpu::{Gpu, THREADS};
use crate::diffusion::u32_of;
use candle_core::{DType, Result, Tensor, bail};

/// Lanes of a warp.
pub(super) const WARP: u32 = 32;
/// Most threads of a block.
pub(super) const THREADS_MAX: u32 = 1024;
/// Numbers of a pack where formats are mixed: 16 bytes of f32.
pub(super) const PACK: usize = 4;

/// Refuses a tensor of another shape or number format, or one whose rows cannot be read: numbers of
/// a row are neighbours, and of what is no matrix all are.
pub(super) fn expect(name: &str, x: &Tensor, dims: &[usize], formats: &[DType]) -> Result<()> {
    if x.dims() != dims || !formats.contains(&x.dtype()) {
        bail!("{name} has the shape {:?} in {:?}; {dims:?} in one of {formats:?} is needed", x.dims(), x.dtype());
    }
    if dims.contains(&0) {
        bail!("{name} has the shape {dims:?}: no numbers");
    }
    match x.rank() {
        2 => stride(x).map(drop),
        _ if x.is_contiguous() => Ok(()),
        _ => bail!("the numbers of {name}, of shape {dims:?}, are no neighbours; make a contiguous copy"),
    }
}

/// Threads of a block where so many have something to do.
pub(super) fn threads(busy: usize, most: u32) -> u32 {
    u32_of(busy.clamp(1, most as usize)).next_multiple_of(WARP)
}

/// Blocks of [`THREADS`] that take a pack of numbers of (rows, width) each.
pub(super) fn blocks(rows: usize, width: usize, pack: usize) -> Result<usize> {
    let packs = rows * (width / pack);
    if packs > i32::MAX as usize {
        bail!("an operation on {rows} rows of {width} numbers; a GPU takes {} packs of {pack} at once", i32::MAX);
    }
    Ok(packs.div_ceil(THREADS as usize))
}

/// Whether packs of 16 bytes can be read from all of these; or of [`PACK`] numbers, where formats
/// are mixed.
pub(super) fn are_wide<'a>(tensors: impl IntoIterator<Item = &'a Tensor>, is_mixed: bool) -> Result<bool> {
    let mut are_wide = true;
    for x in tensors {
        are_wide &= if is_mixed { is_packed(x, 1, PACK)? } else { is_wide(x, 1)? };
    }
    Ok(are_wide)
}

/// Numbers of a pack of one format.
pub(super) fn pack_of(dtype: DType, is_wide: bool) -> usize {
    if is_wide { 16 / dtype.size_in_bytes() } else { 1 }
}

/// The sum of each row of `x` (rows, width), f32, or its square root: (rows).
pub(super) fn row_sums(gpu: &Gpu, x: &Tensor, is_root: bool) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    gpu.launch(&Call {
        kernel: "row_sums".to_owned(),
        inputs: &[Some(x)],
        output: Output::New(rows.into(), DType::F32),
        grid: [rows, 1],
        threads: THREADS_MAX,
        shared: 0,
        numbers: &[word(width), word(is_root.into())],
    })
}

/// The sum of each column of `x` (rows, width), f32: (width).
pub(super) fn column_sums(gpu: &Gpu, x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    gpu.launch(&Call {
        kernel: "column_sums".to_owned(),
        inputs: &[Some(x)],
        output: Output::New(width.into(), DType::F32),
        grid: [width.div_ceil(WARP as usize), 1],
        threads: WARP * WARP,
        shared: 0,
        numbers: &[word(rows), word(width)],
    })
}
