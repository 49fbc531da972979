//! Masked rows, and the denoising loss on them (LLaDA, arXiv 2502.09992, equation 3).

use super::random::{philox, uniform};
use super::{data::Example, net::Net, ops::cross_entropy, progress::Sums};
use crate::diffusion::u32_of;
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

pub(super) struct Denoised {
    /// A scalar, with its graph.
    pub(super) loss: Tensor,
    /// (masked tokens of all rows, `embedding_size`)
    pub(super) logits: Tensor,
    pub(super) sums: Sums,
}

/// The cross-entropies of the masked tokens, given the final states `hidden` (rows x length,
/// `d_model`) of `rows`. `None` when nothing is masked.
pub(super) fn denoise(net: &Net<'_>, hidden: &Tensor, rows: &[&Masked]) -> Result<Option<Denoised>> {
    let length = rows.first().map_or(0, |row| row.ids.len());
    let (mut index, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for (row, Masked { hidden, weight, .. }) in rows.iter().enumerate() {
        for (position, token) in hidden {
            index.push(u32_of(row * length) + position);
            targets.push(*token);
            weights.push(*weight);
        }
    }
    if index.is_empty() {
        return Ok(None);
    }
    let states = hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?; // (masked, d_model)
    let logits = net.logits(&states)?; // (masked, embedding_size)
    let loss = cross_entropy(&logits, &targets, &weights)?;
    let guesses = logits.detach().argmax(1)?.to_vec1::<u32>()?;
    let right = guesses.iter().zip(&targets).filter(|(guess, target)| guess == target).count();
    let plain = cross_entropy(&logits.detach(), &targets, &vec![1.0; targets.len()])?;
    let sums = Sums {
        cross_entropy: f64::from(plain.to_scalar::<f32>()?),
        masked: targets.len() as f64,
        right: right as f64,
        ..Sums::default()
    };
    Ok(Some(Denoised { loss, logits, sums }))
}
