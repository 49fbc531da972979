//! A transformer block forwards and backwards. Its gradients are written out, so that a step keeps
//! what they need and nothing else, and so that on a GPU it is few launches of kernels.

use super::net::Net;
use super::parameters::Gradients;
use crate::model::{Angles, Attended, PackedRows};
use candle_core::{DType, Result, Tensor};

/// The rows of a pass, as blocks see them.
pub(super) struct Layout {
    pub(super) rows: PackedRows,
    /// The rotary angles of each token; `None` without rotary positions.
    pub(super) angles: Option<Angles>,
}

/// What the gradients of a block need, of `tokens` rows each.
pub(super) struct Kept {
    /// The block's input.
    x: Tensor,
    normed: Tensor,
    /// Rotated, but for the values.
    qkv: [Tensor; 3],
    attended: Attended,
    /// What the feed-forward part reads, before its norm.
    y: Tensor,
    ff_normed: Tensor,
    gate: Tensor,
    up: Tensor,
}

impl Net<'_> {
    /// Block `n`: `x` (tokens, `d_model`), f32, to the same shape, and what its gradients need.
    pub(super) fn block(&self, n: usize, x: &Tensor, layout: &Layout) -> Result<(Tensor, Kept)> {
        let (block, device) = (&format!("blocks.{n}"), &*self.device);
        let normed = self.norm(&format!("{block}.attn_norm"), x)?;
        let [q, k, v] = PROJECTIONS.map(|name| self.linear(&format!("{block}.{name}"), &normed));
        let [q, k] = [q?, k?].map(|part| self.rotated(&part, layout, false));
        let qkv = [q?, k?, v?];
        let attended = device.attended(qkv.each_ref(), self.config.head_dim(), &layout.rows)?;
        let y = device.added(x, &self.linear(&format!("{block}.attn_out"), &attended.mixed)?)?;
        let ff_normed = self.norm(&format!("{block}.ff_norm"), &y)?;
        let gate = self.linear(&format!("{block}.ff_proj"), &ff_normed)?; // (tokens, mlp)
        let up = self.linear(&format!("{block}.up_proj"), &ff_normed)?; // (tokens, mlp)
        let out = self.linear(&format!("{block}.ff_out"), &device.swiglu(&gate, &up)?)?;
        let out = device.added(&y, &out)?;
        Ok((out, Kept { x: x.clone(), normed, qkv, attended, y, ff_normed, gate, up }))
    }

    /// The gradient of the block's input, from that of its output, `grad`: (tokens, `d_model`)
    /// each, f32. Those of its parameters are added to `gradients`.
    pub(super) fn block_gradients(
        &self,
        n: usize,
        kept: &Kept,
        layout: &Layout,
        grad: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let Kept { x, normed, qkv, attended, y, ff_normed, gate, up } = kept;
        let (block, device) = (&format!("blocks.{n}"), &*self.device);

        let of_out = grad.to_dtype(self.dtype)?;
        let inner = device.swiglu(gate, up)?;
        let of_inner = self.linear_gradients(&format!("{block}.ff_out"), &inner, &of_out, gradients)?;
        let [of_gate, of_up] = device.swiglu_gradients(gate, up, &of_inner)?;
        let of_ff_normed = [("ff_proj", of_gate), ("up_proj", of_up)]
            .map(|(name, of_part)| self.linear_gradients(&format!("{block}.{name}"), ff_normed, &of_part, gradients));
        let of_ff_normed = self.sum(of_ff_normed)?;
        let of_y = self.norm_gradients(&format!("{block}.ff_norm"), y, &of_ff_normed, Some(grad), gradients)?;

        let of_out = of_y.to_dtype(self.dtype)?;
        let of_mixed = self.linear_gradients(&format!("{block}.attn_out"), &attended.mixed, &of_out, gradients)?;
        let head_dim = self.config.head_dim();
        let [q, k, v] = device.attended_gradients(qkv.each_ref(), head_dim, &layout.rows, attended, &of_mixed)?;
        let [q, k] = [q, k].map(|part| self.rotated(&part, layout, true));
        let of_qkv = PROJECTIONS.into_iter().zip([q?, k?, v]);
        let of_normed = of_qkv
            .map(|(name, of_part)| self.linear_gradients(&format!("{block}.{name}"), normed, &of_part, gradients));
        let of_normed = self.sum(of_normed)?;
        self.norm_gradients(&format!("{block}.attn_norm"), x, &of_normed, Some(&of_y), gradients)
    }

    fn rotated(&self, x: &Tensor, layout: &Layout, back: bool) -> Result<Tensor> {
        match &layout.angles {
            None => Ok(x.clone()),
            Some(angles) => self.device.rotated(x, self.config.head_dim(), angles, back),
        }
    }

    /// The sum of gradients by several ways, in f32.
    fn sum(&self, parts: impl IntoIterator<Item = Result<Tensor>>) -> Result<Tensor> {
        let mut sum = None;
        for part in parts {
            sum = Some(match sum {
                None => part?.to_dtype(DType::F32)?,
                Some(sum) => self.device.added(&sum, &part?)?,
            });
        }
        sum.ok_or_else(|| candle_core::Error::Msg("a sum of no gradients".to_owned()))
    }
}

const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
