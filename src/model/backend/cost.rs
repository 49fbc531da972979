//! What a pass computes and reads at the least, counted from the shapes of its matrices, and what
//! is known of a device's speed. Out of scope: how that is measured.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Tensor};
use std::ops::{Add, AddAssign};

/// The matrix products and the attention of a pass. Not counted: embeddings, norms, biases, rotary
/// angles, activations, and what is made of the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the matrices that the pass multiplies with, each once.
    pub weight_bytes: u64,
    /// Operations: 2 x parameters of each matrix x rows multiplied with it, and 4 x queries x keys
    /// x width of each attention (its two products).
    pub flop: u64,
}

impl Cost {
    /// The product of some rows with matrices of this size; nothing is read for no rows.
    pub(crate) fn products(Size { parameters, bytes }: Size, rows: usize) -> Self {
        let rows = rows as u64;
        Self { weight_bytes: if rows == 0 { 0 } else { bytes }, flop: 2 * parameters * rows }
    }

    /// Attention of all heads together, `width` wide.
    pub(crate) fn attention(queries: usize, keys: usize, width: usize) -> Self {
        Self { weight_bytes: 0, flop: 4 * queries as u64 * keys as u64 * width as u64 }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { weight_bytes: self.weight_bytes + other.weight_bytes, flop: self.flop + other.flop }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

/// The measured speed of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Bytes read and bytes written per second, together, by a copy within the device's memory.
    pub copy_bytes_per_s: f64,
    /// Operations per second in one large matrix product, in the number format of the weights: two
    /// for each multiplication with the addition after it.
    pub flop_per_s: f64,
}

/// The size of a matrix, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) parameters: u64,
    /// As stored, without what a device fills it up with.
    pub(crate) bytes: u64,
}

impl Size {
    /// In floats.
    pub(crate) fn full(matrix: &Tensor) -> Self {
        let count = matrix.elem_count() as u64;
        Self { parameters: count, bytes: count * matrix.dtype().size_in_bytes() as u64 }
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { parameters: self.parameters + other.parameters, bytes: self.bytes + other.bytes }
    }
}

/// The number format of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    Full(DType),
    Quantised(GgmlDType),
}
