//! AdamW on a CPU, in one pass over all parameters.

use super::numbers::with;
use super::rows::dot;
use crate::model::backend::training::{ADAM_EPSILON, AdamStep};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, bail};

/// [`crate::model::backend::training::Training::adam`].
pub(super) fn adam(state: &Tensor, gradients: &Tensor, step: &AdamStep) -> Result<Tensor> {
    // in chunks, for a sum of many squares in f32 loses digits
    const CHUNK: usize = 1 << 12;
    let squares = |gradients: &[f32]| gradients.chunks(CHUNK).map(|chunk| f64::from(dot(chunk, chunk))).sum::<f64>();
    let norm = with([gradients], |[gradients]| squares(gradients).sqrt() as f32)?;
    if norm.is_finite() {
        state.inplace_op2(gradients, &Update { step: *step, scale: (step.clip / norm).min(1.0) })?;
    }
    Tensor::new(&[norm], gradients.device())?.to_dtype(DType::F32)
}

/// The state after a step, from gradients that are scaled by `scale`.
struct Update {
    step: AdamStep,
    scale: f32,
}

impl InplaceOp2 for Update {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, state: &mut CpuStorage, of_state: &Layout, gradients: &CpuStorage, of: &Layout) -> Result<()> {
        let (CpuStorage::F32(state), CpuStorage::F32(gradients)) = (state, gradients) else {
            bail!("an optimiser whose numbers are not f32")
        };
        let (Some((from, until)), Some((first, end))) = (of_state.contiguous_offsets(), of.contiguous_offsets()) else {
            bail!("an optimiser whose numbers are not contiguous")
        };
        let (state, gradients) = (&mut state[from..until], &gradients[first..end]);
        let count = gradients.len();
        if state.len() != 4 * count {
            bail!("{count} gradients for a state of {} numbers", state.len());
        }
        let Self { step, scale } = self;
        let AdamStep { rate, betas: [b1, b2], unbias: [unbias1, unbias2], decay, decayed, average, .. } = *step;
        let (parameters, moments) = state.split_at_mut(count);
        let (firsts, moments) = moments.split_at_mut(count);
        let (seconds, averages) = moments.split_at_mut(count);
        let numbers = parameters.iter_mut().zip(firsts).zip(seconds.iter_mut().zip(averages)).zip(gradients);
        for (at, (((parameter, first), (second, mean)), gradient)) in numbers.enumerate() {
            let gradient = gradient * scale;
            *first = *first * b1 + gradient * (1.0 - b1);
            *second = *second * b2 + gradient * gradient * (1.0 - b2);
            let change = *first * (rate / unbias1) / ((*second / unbias2).sqrt() + ADAM_EPSILON);
            *parameter = *parameter * if at < decayed { decay } else { 1.0 } - change;
            *mean = *mean * average + *parameter * (1.0 - average);
        }
        Ok(())
    }
}
