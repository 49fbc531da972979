//! The number formats that training computes in.

use super::error::TrainError;
use crate::model::{Training, allow_tf32};
use candle_core::DType;

/// The number format of products of matrices and of what they read. Parameters, the residual
/// stream, norms, sums and everything of the optimiser are f32 in each: mixed precision
/// (Micikevicius et al., arXiv 1710.03740). bf16 has the range of f32, so that losses need no
/// scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// bf16 on a GPU, f32 on a CPU.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 32 bits, of which a GPU multiplies the upper 19.
    Tf32,
    /// 16 bits. On a CPU slow, to compare with.
    Bf16,
}

impl Products {
    /// Its name, where the products are in `dtype`.
    pub(super) const fn name(self, dtype: DType) -> &'static str {
        match (self, dtype) {
            (Self::Tf32, _) => "tf32",
            (_, DType::BF16) => "bf16",
            (_, _) => "f32",
        }
    }

    /// The format on a device, whose products are set to it.
    ///
    /// # Errors
    /// When the device has no such products.
    pub(super) fn on(self, device: &dyn Training) -> Result<DType, TrainError> {
        let is_host = device.is_parallel();
        if self == Self::Tf32 && is_host {
            let problem = "TF32 is a number format of GPUs; on a CPU give --precision f32 or bf16";
            return Err(TrainError::Settings(problem.to_owned()));
        }
        let dtype = match self {
            Self::Auto if is_host => DType::F32,
            Self::F32 | Self::Tf32 => DType::F32,
            Self::Auto | Self::Bf16 => DType::BF16,
        };
        // beside bf16, the head's products need no more than TF32 either
        allow_tf32(self != Self::F32);
        Ok(dtype)
    }
}
