//! Masked rows, and the denoising loss on them (LLaDA, arXiv 2502.09992, equation 3).

use super::data::Example;
use super::net::Net;
use super::parameters::Gradients;
use super::pass::Pass;
use super::random::{philox, uniform};
use crate::diffusion::u32_of;
use crate::model::{Targets, Training};
use candle_core::{Result, Tensor};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Masked {
    /// The model's input.
    pub(super) ids: Vec<u32>,
    /// The masked positions, ascending, and the original tokens.
    pub(super) hidden: Vec<(u32, u32)>,
    /// Weight of a masked token in the loss: 1 / (ratio x free tokens of the row x rows).
    pub(super) weight: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Masking {
    pub(super) seed: u64,
    pub(super) batch: usize,
    pub(super) ratio_min: f64,
    pub(super) ratio_max: f64,
    pub(super) mask: u32,
}

impl Masking {
    /// Masks row `index` of a step. The ratios of a step's rows are spread evenly over the interval
    /// (antithetic sampling; Kingma et al., arXiv 2107.00630). Each token is masked independently.
    pub(super) fn apply(&self, example: &Example, step: u32, index: usize) -> Masked {
        let uniform = |row: u64, draw: u32| {
            let counter = (u128::from(step) << 96) | (u128::from(row) << 32) | u128::from(draw);
            uniform(&mut philox(self.seed, counter))
        };
        let place = (uniform(u64::MAX, 0) + index as f64 / self.batch as f64).fract();
        let ratio = self.ratio_min + (self.ratio_max - self.ratio_min) * place;
        let mut ids = example.tokens.clone();
        let is_masked = |position: &u32| uniform(index as u64, *position) < ratio;
        let hidden: Vec<(u32, u32)> =
            example.free.iter().copied().filter(is_masked).map(|at| (at, ids[at as usize])).collect();
        for (at, _) in &hidden {
            ids[*at as usize] = self.mask;
        }
        let weight = (1.0 / (ratio * example.free.len() as f64 * self.batch as f64)) as f32;
        Masked { ids, hidden, weight }
    }
}

/// The masked tokens of some rows, laid end to end, on the device. They are brought there before
/// the rows go through the network, for a copy to a GPU may wait for what it computes.
pub(super) struct MaskedTokens {
    /// Their places among the tokens of the pass.
    index: Vec<u32>,
    places: Tensor,
    targets: Targets,
}

impl MaskedTokens {
    /// `None` when nothing is masked.
    pub(super) fn of(device: &dyn Training, rows: &[&Masked]) -> Result<Option<Self>> {
        let (mut index, mut tokens, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for Masked { ids, hidden, weight } in rows {
            for (position, token) in hidden {
                index.push(first + position);
                tokens.push(*token);
                weights.push(*weight);
            }
            first += u32_of(ids.len());
        }
        if index.is_empty() {
            return Ok(None);
        }
        let targets = Targets { tokens: device.words(&tokens)?, weights: Tensor::new(weights, &device.device())? };
        Ok(Some(Self { places: device.words(&index)?, index, targets }))
    }
}

/// The masked tokens of some rows as the network predicts them.
pub(super) struct Denoised {
    masked: MaskedTokens,
    /// (masked, `d_model`)
    states: Tensor,
    /// (masked, `embedding_size`)
    pub(super) logits: Tensor,
}

impl Denoised {
    /// Of the rows of the pass.
    pub(super) fn of(net: &Net<'_>, pass: &Pass, masked: MaskedTokens) -> Result<Self> {
        let states = net.device.gather(&pass.hidden, &masked.places)?; // (masked, d_model)
        Ok(Self { logits: net.logits(&states)?, masked, states })
    }

    /// The number of masked tokens.
    pub(super) const fn count(&self) -> usize {
        self.masked.index.len()
    }

    /// The weighted sum of cross-entropies, their sum, and how many are predicted right: (3).
    pub(super) fn told(&self, net: &Net<'_>) -> Result<Tensor> {
        net.device.cross_entropy(&self.logits, &self.masked.targets)
    }

    /// The gradient of the pass's states, (tokens, `d_model`), of `factor` x the weighted sum.
    pub(super) fn gradients(
        &self,
        net: &Net<'_>,
        tokens: usize,
        factor: f64,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let of_logits = net.device.cross_entropy_gradient(&self.logits, &self.masked.targets, factor as f32)?;
        let of_states = net.logits_gradients(&self.states, &of_logits, gradients)?;
        net.device.scattered(&of_states, &self.masked.index, tokens)
    }
}
