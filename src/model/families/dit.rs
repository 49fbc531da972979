//! The DiT of MDLM (arXiv 2406.07524), PRISM's family for text and Sudoku, top to bottom, weights
//! under the published names. MDLM gives the network no time: it always runs at sigma = 0. What
//! adaLN makes of that is constant, so it is folded into norms and matrices when they are loaded.

use super::rope::Rope;
use crate::diffusion::u32_of;
use crate::model::backend::cost::{Cost, Numbers, Size};
use crate::model::backend::inputs::{Inputs, part};
use crate::model::backend::{Angles, Backend, KeysValues, KvLayers, Matrix, Norm, Span, Spans, Stored};
use crate::model::config::dit::{Config, SINUSOID};
use crate::model::network::{Network, Pass, PassRow, Planned};
use crate::model::states::{States, Wanted};
use crate::model::{error::LoadError, weights::registry::Registry};
use candle_core::{D, DType, Result, Tensor};
use std::sync::Arc;

/// Epsilon of every `LayerNorm`, PyTorch's default.
const EPSILON: f32 = 1e-5;
/// Base of the rotary frequencies.
const ROPE_THETA: f32 = 10_000.0;

type Loaded<T> = std::result::Result<T, LoadError>;

/// The network, with its head.
pub(crate) struct Dit {
    embedding: Stored, // (vocab_size, hidden)
    rope: Rope,
    blocks: Vec<Block>,
    last: Last,
    head: Option<(Vec<Block>, Last)>,
    backend: Arc<dyn Backend>,
}

impl Dit {
    /// The head has weights of its own, with so many blocks and a final layer.
    pub(crate) fn new(
        config: &Config,
        weights: &Registry,
        head: Option<&(Registry, usize)>,
        backend: Arc<dyn Backend>,
    ) -> Loaded<Self> {
        let condition = condition(weights, &*backend)?; // (1, cond_dim)
        let heads = config.n_heads;
        let blocks = |weights: &Registry, count: usize| {
            let parts = |n| Parts { weights, name: format!("blocks.{n}"), condition: &condition, backend: &*backend };
            (0..count).map(|n| Block::new(&parts(n), heads)).collect::<Loaded<Vec<_>>>()
        };
        let last = |weights: &Registry| {
            Last::new(&Parts { weights, name: "output_layer".to_owned(), condition: &condition, backend: &*backend })
        };
        Ok(Self {
            embedding: weights.matrix("vocab_embed.embedding")?,
            rope: Rope::new(config.hidden_dim / heads, ROPE_THETA, config.model_length, &backend.device())?,
            blocks: blocks(weights, config.n_blocks)?,
            last: last(weights)?,
            head: head.map(|(head, count)| Ok::<_, LoadError>((blocks(head, *count)?, last(head)?))).transpose()?,
            backend,
        })
    }

    /// States of some rows before the final norm and after the head's blocks, (asked, hidden) each.
    fn rows(&self, planned: &Planned, inputs: &Tensor) -> Result<[Tensor; 2]> {
        let backend = &*self.backend;
        let angles = self.rope.at(&part(inputs, &planned.positions)?, backend)?;
        let attends = Attends { angles: &angles, spans: &planned.spans, inputs };
        let through = |x, blocks: &[Block]| blocks.iter().try_fold(x, |x, block| block.forward(backend, &x, &attends));
        let x = backend.embed(&self.embedding, &part(inputs, &planned.ids)?)?; // (tokens, hidden)
        let x = through(x, &self.blocks)?; // (tokens, hidden)
        let judged = match &self.head {
            Some((blocks, _)) => through(x.clone(), blocks)?,
            None => x.clone(),
        };
        let index = part(inputs, &planned.asked)?;
        Ok([backend.gather(&x, &index)?, backend.gather(&judged, &index)?])
    }
}

/// What tokens attend to.
struct Attends<'a> {
    angles: &'a Angles,
    spans: &'a Spans,
    inputs: &'a Tensor,
}

impl Network for Dit {
    fn plan(&self, pass: &Pass, inputs: &mut Inputs) -> Vec<Planned> {
        let rows: Vec<&PassRow> = pass.rows.iter().filter(|row| !row.asked.is_empty()).collect();
        let together = if self.backend.is_parallel() { 1 } else { rows.len().max(1) };
        let plan = |rows: &[&PassRow]| {
            let (mut ids, mut positions, mut asked, mut spans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for row in rows {
                let first = ids.len();
                ids.extend_from_slice(&pass.ids[row.tokens.clone()]);
                positions.extend((0..row.tokens.len()).map(u32_of));
                asked.extend(row.asked.iter().map(|at| u32_of(first + at)));
                spans.push(Span::of(first..ids.len(), first..ids.len()));
            }
            Planned {
                ids: inputs.add(ids),
                positions: inputs.add(positions),
                spans: self.backend.lay_out(spans, inputs),
                asked: inputs.add(asked),
                // every state goes through every layer
                asked_positions: 0..0,
                asked_spans: Spans { spans: Vec::new(), tiles: None },
            }
        };
        rows.chunks(together).map(plan).collect()
    }

    fn run(&self, plan: &[Planned], inputs: &Tensor, _: Option<&KvLayers<'_>>, wanted: Wanted<'_>) -> Result<States> {
        let states = self.backend.each(plan, |_, planned| self.rows(planned, inputs))?;
        let cat = |part: usize| Tensor::cat(&states.iter().map(|states| &states[part]).collect::<Vec<_>>(), 0);
        States::of_last(cat(0)?, &cat(1)?, wanted)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.last.forward(&*self.backend, hidden)
    }

    fn cost(&self, pass: &Pass, read_out: usize, judged: usize) -> Cost {
        let tokens = pass.ids.len();
        let through = |block: &Block| {
            let attention = |row: &PassRow| Cost::attention(row.tokens.len(), row.tokens.len(), block.width);
            Cost::products(block.size, tokens) + pass.rows.iter().map(attention).sum()
        };
        let last = |last: &Last, rows: usize| Cost::products(last.size, rows);
        let head = |(blocks, head): &(Vec<Block>, Last)| blocks.iter().map(through).sum::<Cost>() + last(head, judged);
        let backbone: Cost = self.blocks.iter().map(through).sum();
        backbone + last(&self.last, read_out) + self.head.as_ref().map_or_else(Cost::default, head)
    }

    fn numbers(&self) -> Numbers {
        Numbers::Full(DType::F32)
    }

    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>> {
        self.head.as_ref().map(|(_, last)| last.forward(&*self.backend, judged)?.squeeze(D::Minus1)).transpose()
    }
}

/// The embedding of sigma = 0, whose sinusoid is all cosines of 0 and sines of 0: (1, `cond_dim`).
fn condition(weights: &Registry, backend: &dyn Backend) -> Loaded<Tensor> {
    let halves = [1.0f32, 0.0].map(|value| [value; SINUSOID / 2]).concat();
    let x = Tensor::new(halves, &backend.device())?.unsqueeze(0)?; // (1, SINUSOID)
    let x = affine(weights, "sigma_map.mlp.0", &x)?.silu()?;
    Ok(affine(weights, "sigma_map.mlp.2", &x)?.silu()?)
}

/// x W^T + b of a layer that is used once.
fn affine(weights: &Registry, name: &str, x: &Tensor) -> Loaded<Tensor> {
    let get = |part: &str| weights.weight(&format!("{name}.{part}"));
    Ok(x.matmul(&get("weight")?.t()?)?.broadcast_add(&get("bias")?)?)
}

/// What a block or a final layer is made of.
struct Parts<'a> {
    weights: &'a Registry,
    /// Before the names of its tensors.
    name: String,
    condition: &'a Tensor, // (1, cond_dim)
    backend: &'a dyn Backend,
}

impl Parts<'_> {
    fn get(&self, part: &str) -> Loaded<Tensor> {
        self.weights.weight(&format!("{}.{part}", self.name))
    }

    fn matrix(&self, weight: &Tensor) -> Loaded<Box<dyn Matrix>> {
        Ok(self.backend.full(weight)?)
    }

    /// The vectors that adaLN makes of the condition, each (hidden).
    fn modulation<const N: usize>(&self) -> Loaded<[Tensor; N]> {
        let all = affine(self.weights, &format!("{}.adaLN_modulation", self.name), self.condition)?.squeeze(0)?; // (N hidden)
        let width = all.elem_count() / N;
        let parts: Vec<Tensor> = (0..N).map(|n| all.narrow(0, n * width, width)).collect::<Result<_>>()?;
        parts.try_into().map_err(|_| LoadError::Failed("adaLN has other parts".to_owned()))
    }

    /// norm(x) (1 + scale) + shift, as a norm with these weights.
    fn norm(&self, name: &str, shift: &Tensor, scale: &Tensor) -> Loaded<Norm> {
        let weight = (self.get(name)? * scale.affine(1.0, 1.0)?)?;
        Ok(Norm::Layer { weight, bias: shift.contiguous()?, eps: EPSILON })
    }
}

/// One DDiT block.
struct Block {
    norm1: Norm,
    attn_qkv: Box<dyn Matrix>,
    attn_out: Box<dyn Matrix>, // gated
    norm2: Norm,
    mlp_in: Box<dyn Matrix>,
    mlp_in_bias: Tensor,
    mlp_out: Box<dyn Matrix>, // gated
    mlp_out_bias: Tensor,     // gated
    heads: usize,
    width: usize,
    /// Of its matrices.
    size: Size,
}

impl Block {
    fn new(parts: &Parts<'_>, heads: usize) -> Loaded<Self> {
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp] = parts.modulation()?;
        let gated = |weight: &Tensor, gate: &Tensor| parts.matrix(&weight.broadcast_mul(&gate.unsqueeze(1)?)?);
        let (attn_qkv, attn_out) = (parts.get("attn_qkv.weight")?, parts.get("attn_out.weight")?);
        let (mlp_in, mlp_out) = (parts.get("mlp.0.weight")?, parts.get("mlp.2.weight")?);
        Ok(Self {
            width: attn_out.dim(0)?,
            size: Size::full(&attn_qkv) + Size::full(&attn_out) + Size::full(&mlp_in) + Size::full(&mlp_out),
            norm1: parts.norm("norm1.weight", &shift_msa, &scale_msa)?,
            attn_qkv: parts.matrix(&attn_qkv)?,
            attn_out: gated(&attn_out, &gate_msa)?,
            norm2: parts.norm("norm2.weight", &shift_mlp, &scale_mlp)?,
            mlp_in: parts.matrix(&mlp_in)?,
            mlp_in_bias: parts.get("mlp.0.bias")?,
            mlp_out: gated(&mlp_out, &gate_mlp)?,
            mlp_out_bias: (parts.get("mlp.2.bias")? * gate_mlp)?,
            heads,
        })
    }

    /// `x` (tokens, hidden) of whole rows.
    fn forward(&self, backend: &dyn Backend, x: &Tensor, attends: &Attends<'_>) -> Result<Tensor> {
        let (_, hidden) = x.dims2()?;
        let qkv = self.attn_qkv.product(&backend.norm(x, &self.norm1)?)?; // (tokens, 3 hidden)
        let part = |n: usize| qkv.narrow(1, n * hidden, hidden);
        let (q, k, v, d) = (part(0)?, part(1)?, part(2)?, hidden / self.heads); // (tokens, hidden) each
        let Attends { angles, spans, inputs } = attends;
        let rotated = backend.rotate(&[&q, &k], d, angles)?;
        let kv = KeysValues { fresh: [rotated[1].clone(), v], kept: None };
        let mixed = backend.attention(&rotated[0], &kv, d, spans, inputs)?; // (tokens, hidden)
        let (x, normed) = backend.add_norm(x, &self.attn_out.product(&mixed)?, &self.norm2)?;
        let inner = self.mlp_in.product(&normed)?.broadcast_add(&self.mlp_in_bias)?.gelu()?;
        x + self.mlp_out.product(&inner)?.broadcast_add(&self.mlp_out_bias)? // (tokens, hidden)
    }
}

/// The final norm and a linear layer, of a backbone or of a head.
struct Last {
    norm: Norm,
    linear: Box<dyn Matrix>,
    bias: Tensor,
    size: Size,
}

impl Last {
    fn new(parts: &Parts<'_>) -> Loaded<Self> {
        let [shift, scale] = parts.modulation()?;
        let linear = parts.get("linear.weight")?;
        Ok(Self {
            size: Size::full(&linear),
            norm: parts.norm("norm_final.weight", &shift, &scale)?,
            linear: parts.matrix(&linear)?,
            bias: parts.get("linear.bias")?,
        })
    }

    /// (states, hidden) to (states, outputs).
    fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        self.linear.product(&backend.norm(x, &self.norm)?)?.broadcast_add(&self.bias)
    }
}
