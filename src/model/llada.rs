//! The LLaDA network (arXiv 2502.09992) top to bottom, weights under the checkpoint's own names: a Llama without
//! a causal mask. Refuses to know canvases: ids go in, hidden states come out.

use super::LoadError;
use super::attention::{Span, attention};
use super::config::Config;
use super::weights::Weights;
use candle_core::{Device, Result, Tensor};
use candle_nn::{Embedding, Linear, Module, ops, rotary_emb};

/// What one forward pass reads: rows laid end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pass {
    /// Token ids of all rows.
    pub(super) ids: Vec<u32>,
    /// Each token's position in its row.
    pub(super) positions: Vec<u32>,
    /// Indices into `ids` of the tokens whose hidden states are asked for, row by row.
    pub(super) asked: Vec<u32>,
    /// Per row: its tokens as `keys`, its part of `asked` as `queries`.
    pub(super) spans: Vec<Span>,
}

impl Pass {
    /// Adds a row of tokens; `asked` counts from the row's first. The states asked for will be those from the
    /// returned index on.
    pub(super) fn push(&mut self, ids: impl Iterator<Item = u32>, asked: impl Iterator<Item = u32>) -> usize {
        let (first, first_asked) = (self.ids.len(), self.asked.len());
        self.ids.extend(ids);
        let keys = first..self.ids.len();
        #[allow(clippy::cast_possible_truncation)] // a pass holds fewer than 2^32 tokens
        let offset = first as u32;
        self.positions.extend((0..).take(keys.len()));
        self.asked.extend(asked.map(|position| offset + position));
        self.spans.push(Span { queries: first_asked..self.asked.len(), keys });
        first_asked
    }
}

/// Tokens inside one pass: where they stand, as the attention and the rotation need it.
struct Places {
    spans: Vec<Span>,
    cos_sin: Option<(Tensor, Tensor)>, // each (tokens, 1, head dim / 2)
}

/// The network up to the final norm, and the output layer.
pub(super) struct Llada {
    wte: Embedding,
    wpe: Option<Embedding>,
    rotary: Option<Rotary>,
    blocks: Vec<Block>,
    ln_f: RmsNorm,
    ff_out: Linear,
    pub(super) device: Device,
}

impl Llada {
    pub(super) fn new(config: &Config, weights: &Weights, device: Device) -> std::result::Result<Self, LoadError> {
        let get = |name: &str| weights.backbone(&format!("model.transformer.{name}.weight"));
        let wte = get("wte")?;
        let wpe = if config.rope { None } else { Some(Embedding::new(get("wpe")?, config.d_model)) };
        let rotary = if config.rope { Some(Rotary::new(config, &device)?) } else { None };
        let ff_out = if config.weight_tying { wte.clone() } else { get("ff_out")? };
        Ok(Self {
            wte: Embedding::new(wte, config.d_model),
            wpe,
            rotary,
            blocks: (0..config.n_layers)
                .map(|n| Block::new(config, weights, n))
                .collect::<std::result::Result<_, _>>()?,
            ln_f: RmsNorm::new(get("ln_f")?, config),
            ff_out: Linear::new(ff_out, None),
            device,
        })
    }

    /// Hidden states after the final norm of the tokens asked for: (asked, `d_model`).
    pub(super) fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let ids = Tensor::new(pass.ids.as_slice(), &self.device)?;
        let positions = Tensor::new(pass.positions.as_slice(), &self.device)?;
        let asked = Tensor::new(pass.asked.as_slice(), &self.device)?;

        let every = pass.spans.iter().map(|span| Span { queries: span.keys.clone(), keys: span.keys.clone() });
        let all = Places { spans: every.collect(), cos_sin: self.rotate(&positions)? };
        let some = Places { spans: pass.spans.clone(), cos_sin: self.rotate(&positions.index_select(&asked, 0)?)? };

        let mut x = self.wte.forward(&ids)?; // (tokens, d_model)
        if let Some(wpe) = &self.wpe {
            x = (x + wpe.forward(&positions)?)?;
        }
        let last = self.blocks.len() - 1;
        for block in &self.blocks[..last] {
            x = block.forward(&x, &all)?;
        }
        // nobody reads the other tokens' last states: only their keys and values matter there
        let x = self.blocks[last].forward_asked(&x, &all, &asked, &some)?; // (asked, d_model)
        self.ln_f.forward(&x)
    }

    /// Scores of every row of the embedding: (states, `d_model`) to (states, `embedding_size`).
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.ff_out.forward(hidden)
    }

    fn rotate(&self, positions: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
        self.rotary.as_ref().map(|rotary| rotary.at(positions)).transpose()
    }
}

/// One transformer block.
struct Block {
    attn_norm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    attn_out: Linear,
    ff_norm: RmsNorm,
    ff_proj: Linear,
    up_proj: Linear,
    ff_out: Linear,
    head_dim: usize,
}

impl Block {
    fn new(config: &Config, weights: &Weights, n: usize) -> std::result::Result<Self, LoadError> {
        let get = |name: &str| weights.backbone(&format!("model.transformer.blocks.{n}.{name}.weight"));
        let linear = |name: &str| Ok::<_, LoadError>(Linear::new(get(name)?, None));
        Ok(Self {
            attn_norm: RmsNorm::new(get("attn_norm")?, config),
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            attn_out: linear("attn_out")?,
            ff_norm: RmsNorm::new(get("ff_norm")?, config),
            ff_proj: linear("ff_proj")?,
            up_proj: linear("up_proj")?,
            ff_out: linear("ff_out")?,
            head_dim: config.head_dim(),
        })
    }

    /// (tokens, `d_model`) to the same.
    fn forward(&self, x: &Tensor, all: &Places) -> Result<Tensor> {
        let normed = self.attn_norm.forward(x)?;
        self.rest(x, &normed, &normed, all, all)
    }

    /// (tokens, `d_model`) to (asked, `d_model`): all tokens are seen, those `asked` go on.
    fn forward_asked(&self, x: &Tensor, all: &Places, asked: &Tensor, some: &Places) -> Result<Tensor> {
        let normed = self.attn_norm.forward(x)?;
        self.rest(&x.index_select(asked, 0)?, &normed.index_select(asked, 0)?, &normed, some, all)
    }

    /// `x` and `looking` (queries, `d_model`), `seen` (tokens, `d_model`).
    fn rest(&self, x: &Tensor, looking: &Tensor, seen: &Tensor, from: &Places, at: &Places) -> Result<Tensor> {
        let heads = |x: Tensor| {
            let (tokens, width) = x.dims2()?;
            x.reshape((tokens, width / self.head_dim, self.head_dim))
        };
        let q = rotated(&heads(self.q_proj.forward(looking)?)?, from)?; // (queries, n_heads, head_dim)
        let k = rotated(&heads(self.k_proj.forward(seen)?)?, at)?; // (tokens, n_kv_heads, head_dim)
        let v = heads(self.v_proj.forward(seen)?)?; // (tokens, n_kv_heads, head_dim)
        let mixed = attention(&q, &k, &v, &from.spans)?; // (queries, d_model)
        let x = (x + self.attn_out.forward(&mixed)?)?;

        let normed = self.ff_norm.forward(&x)?;
        let gated = (self.ff_proj.forward(&normed)?.silu()? * self.up_proj.forward(&normed)?)?; // (queries, mlp)
        x + self.ff_out.forward(&gated)?
    }
}

/// x / sqrt(mean(x^2) + eps) * weight, in f32.
struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    fn new(weight: Tensor, config: &Config) -> Self {
        Self { weight, eps: config.rms_norm_eps }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

/// Rotary positions (`RoFormer`, arXiv 2104.09864) with the halves of a head as the pairs, tables in f32 as the
/// published code computes them.
struct Rotary {
    cos: Tensor, // (max_sequence_length, head dim / 2)
    sin: Tensor,
}

impl Rotary {
    fn new(config: &Config, device: &Device) -> Result<Self> {
        let half = config.head_dim() / 2;
        #[allow(clippy::cast_precision_loss)] // head widths and positions are far below 2^24
        let frequency = |i: usize| config.rope_theta.powf(2.0 * i as f32 / config.head_dim() as f32).recip();
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        #[allow(clippy::cast_precision_loss)]
        let angles = (0..config.max_sequence_length).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let angles = Tensor::from_iter(angles, &Device::Cpu)?.reshape((config.max_sequence_length, half))?;
        Ok(Self { cos: angles.cos()?.to_device(device)?, sin: angles.sin()?.to_device(device)? })
    }

    /// The angles of tokens at `positions` (tokens).
    fn at(&self, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        let rows = |table: &Tensor| table.index_select(positions, 0)?.unsqueeze(1); // (tokens, 1, head dim / 2)
        Ok((rows(&self.cos)?, rows(&self.sin)?))
    }
}

/// Rotates `x` (tokens, heads, `head_dim`), where the model has rotary positions.
fn rotated(x: &Tensor, places: &Places) -> Result<Tensor> {
    match &places.cos_sin {
        None => Ok(x.clone()),
        // each token is a batch entry of length one, so that each has angles of its own
        Some((cos, sin)) => rotary_emb::rope_thd(&x.unsqueeze(1)?, cos, sin)?.squeeze(1),
    }
}
