//! Rows through the whole network, and the gradients back. Out of scope: what a block computes.

use super::block::{Kept, Layout};
use super::net::{Net, full_name};
use super::parameters::Gradients;
use crate::diffusion::u32_of;
use candle_core::{DType, Result, Tensor};

/// Rows that went through the network, laid end to end.
pub(super) struct Pass {
    ids: Vec<u32>,
    positions: Vec<u32>,
    layout: Layout,
    blocks: Vec<Saved>,
    /// The output of the last block, (tokens, `d_model`), f32.
    last: Tensor,
    /// The states after the final norm, (tokens, `d_model`).
    pub(super) hidden: Tensor,
}

/// What is kept of a block for its gradients.
enum Saved {
    /// Its input, from which it is computed again.
    Input(Tensor),
    All(Box<Kept>),
}

impl Pass {
    pub(super) const fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl Net<'_> {
    /// Rows of these lengths, whose tokens are `ids`, laid end to end.
    pub(super) fn forward(&self, ids: Vec<u32>, lengths: &[usize]) -> Result<Pass> {
        let positions: Vec<u32> = lengths.iter().flat_map(|length| 0..u32_of(*length)).collect();
        let at = self.device.words(&positions)?;
        let angles = self.rope.as_ref().map(|rope| rope.at(&at, &*self.device)).transpose()?;
        let layout = Layout { rows: self.device.lay_out_rows(lengths)?, angles };
        let table = |name: &str, index: &Tensor| self.device.gather(self.weight(name)?, index)?.to_dtype(DType::F32);
        let mut x = table("wte", &self.device.words(&ids)?)?; // (tokens, d_model)
        if !self.config.rope {
            x = (x + table("wpe", &at)?)?;
        }
        let mut blocks = Vec::new();
        for n in 0..self.config.n_layers {
            let (out, kept) = self.block(n, &x, &layout)?;
            blocks.push(if self.recomputes { Saved::Input(x) } else { Saved::All(Box::new(kept)) });
            x = out;
        }
        let hidden = self.norm("ln_f", &x)?;
        Ok(Pass { ids, positions, layout, blocks, last: x, hidden })
    }

    /// Adds the gradients of the trained parameters that a pass has used, from that of its states,
    /// `of_hidden`: (tokens, `d_model`), f32.
    pub(super) fn backward(&self, pass: Pass, of_hidden: &Tensor, gradients: &mut Gradients) -> Result<()> {
        if !self.working.keys().any(|name| self.learns(name)) {
            return Ok(());
        }
        let Pass { ids, positions, layout, blocks, last, .. } = pass;
        let mut grad = self.norm_gradients("ln_f", &last, of_hidden, None, gradients)?;
        for (n, saved) in blocks.into_iter().enumerate().rev() {
            let kept = match saved {
                Saved::All(kept) => *kept,
                Saved::Input(x) => self.block(n, &x, &layout)?.1,
            };
            grad = self.block_gradients(n, &kept, &layout, &grad, gradients)?;
        }
        for (name, index) in [("wte", &ids), ("wpe", &positions)] {
            let full = full_name(name);
            if self.learns(&full) {
                let rows = self.weight(name)?.dim(0)?;
                gradients.add(&full, &self.device.scattered(&grad, index, rows)?)?;
            }
        }
        Ok(())
    }
}
