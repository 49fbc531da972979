//! The LLaDA network (arXiv 2502.09992) top to bottom, weights under the checkpoint's own names: a Llama without
//! a causal mask. Refuses to know canvases: ids go in, hidden states come out.

use crate::model::LoadError;
use crate::model::backend::attention::{Span, attention};
use crate::model::backend::linear::{Embedding, Linear};
use crate::model::config::llada::Config;
use crate::model::families::head::Head;
use crate::model::network::{Network, Pass, PassRow, States};
use crate::model::weights::registry::Weights;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{ops, rotary_emb};
use rayon::prelude::*;
use std::ops::Range;

/// Tokens of a pass that one thread takes through a block. They meet the others in the attention only.
///
/// On a CPU a piece is part of one row, cut by that row's length alone: so no number of a row can depend on its
/// neighbours in the pass, and threads meet once a block instead of at every operation. A GPU takes the whole pass
/// as one piece.
struct Piece {
    ids: Tensor,       // (tokens)
    positions: Tensor, // (tokens)
    all: Queries,
    asked: Queries,
}

/// Those tokens of a piece whose states are wanted, and the keys they look at.
struct Queries {
    index: Tensor, // (queries), into the piece's tokens
    spans: Vec<Span>,
    cos_sin: Option<(Tensor, Tensor)>, // each (queries, 1, head dim / 2)
}

/// A piece half way through a block.
struct Look {
    x: Tensor,      // (tokens, d_model)
    normed: Tensor, // (tokens, d_model)
    k: Tensor,      // (tokens, n_kv_heads, head_dim)
    v: Tensor,      // (tokens, n_kv_heads, head_dim)
}

/// Keys and values of the whole pass.
struct KeysValues {
    k: Tensor, // (tokens of all rows, n_kv_heads, head_dim)
    v: Tensor, // (tokens of all rows, n_kv_heads, head_dim)
}

impl KeysValues {
    fn of(looks: &[Look]) -> Result<Self> {
        let cat = |part: fn(&Look) -> &Tensor| Tensor::cat(&looks.iter().map(part).collect::<Vec<_>>(), 0);
        Ok(Self { k: cat(|look| &look.k)?, v: cat(|look| &look.v)? })
    }
}

/// A network with its quality head, which reads states after the final norm.
pub(crate) struct WithHead {
    pub(crate) model: Llada,
    pub(crate) head: Option<Head>,
}

impl Network for WithHead {
    fn forward(&self, pass: &Pass) -> Result<States> {
        let hidden = self.model.forward(pass)?;
        Ok(States { judged: hidden.clone(), hidden })
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.model.logits(hidden)
    }

    fn qualities(&self, judged: &Tensor) -> Result<Option<Vec<f32>>> {
        self.head.as_ref().map(|head| head.forward(judged)).transpose()
    }
}

/// Tokens of a piece at most, on a CPU: enough to use a weight a few times for each time it is fetched.
const PIECE_MAX: usize = 64;

/// The network up to the final norm, and the output layer.
pub(crate) struct Llada {
    wte: Embedding,      // (embedding_size, d_model)
    wpe: Option<Tensor>, // (max_sequence_length, d_model)
    rotary: Option<Rotary>,
    blocks: Vec<Block>,
    ln_f: RmsNorm,
    ff_out: Linear,
    device: Device,
}

impl Llada {
    pub(crate) fn new(config: &Config, weights: &Weights, device: Device) -> std::result::Result<Self, LoadError> {
        let name = |name: &str| format!("model.transformer.{name}.weight");
        let get = |part: &str| weights.backbone(&name(part));
        let wte = weights.embedding(&name("wte"))?;
        let ff_out = if config.weight_tying { wte.linear()? } else { weights.linear(&name("ff_out"))? };
        Ok(Self {
            wte,
            wpe: if config.rope { None } else { Some(get("wpe")?) },
            rotary: if config.rope { Some(Rotary::new(config, &device)?) } else { None },
            blocks: (0..config.n_layers)
                .map(|n| Block::new(config, weights, n))
                .collect::<std::result::Result<_, _>>()?,
            ln_f: RmsNorm::new(get("ln_f")?, config),
            ff_out,
            device,
        })
    }

    /// Hidden states after the final norm of the tokens asked for: (asked, `d_model`).
    pub(crate) fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let pieces = self.cut(pass)?;
        let mut looks = each(&pieces, |_, piece| self.blocks[0].look(self.embed(piece)?, piece))?;
        for blocks in self.blocks.windows(2) {
            let kv = KeysValues::of(&looks)?;
            looks = each(&pieces, |index, piece| {
                let x = blocks[0].forward(&looks[index], &kv, &piece.all)?;
                blocks[1].look(x, piece)
            })?;
        }
        // nobody reads the other tokens' last states: only their keys and values matter there
        let kv = KeysValues::of(&looks)?;
        let last = &self.blocks[self.blocks.len() - 1];
        let xs = each(&pieces, |index, piece| match &piece.asked {
            asked if asked.index.elem_count() == 0 => Ok(None),
            asked => last.forward(&looks[index], &kv, asked).map(Some), // (asked, d_model) per piece
        })?;
        self.ln_f.forward(&Tensor::cat(&xs.into_iter().flatten().collect::<Vec<_>>(), 0)?)
    }

    /// Scores of every row of the embedding: (states, `d_model`) to (states, `embedding_size`).
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.ff_out.forward(hidden)
    }

    fn embed(&self, piece: &Piece) -> Result<Tensor> {
        let x = self.wte.rows(&piece.ids)?; // (tokens, d_model)
        match &self.wpe {
            None => Ok(x),
            Some(wpe) => x + wpe.index_select(&piece.positions, 0)?,
        }
    }

    fn cut(&self, pass: &Pass) -> Result<Vec<Piece>> {
        let rows = pass.rows.iter().enumerate();
        if !self.device.is_cpu() {
            let parts: Vec<_> = rows.map(|(row, PassRow { tokens, .. })| (row, 0..tokens.len())).collect();
            return Ok(vec![self.piece(pass, &parts)?]);
        }
        let parts = rows.flat_map(|(row, PassRow { tokens, .. })| {
            let length = tokens.len();
            // an even number, for two threads have finished sooner with two halves than with three thirds
            let count = length.div_ceil(PIECE_MAX).next_multiple_of(2).min(length);
            (0..count).map(move |n| (row, length * n / count..length * (n + 1) / count))
        });
        parts.map(|part| self.piece(pass, &[part])).collect()
    }

    /// The piece of these parts, each a row and a range of positions in it.
    fn piece(&self, pass: &Pass, parts: &[(usize, Range<usize>)]) -> Result<Piece> {
        let (mut ids, mut positions, mut index) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all, mut asked) = (Vec::new(), Vec::new());
        for (row, range) in parts {
            let PassRow { tokens: keys, asked: wanted } = &pass.rows[*row];
            let first = positions.len();
            ids.extend_from_slice(&pass.ids[keys.start + range.start..keys.start + range.end]);
            positions.extend(range.clone().map(id));
            all.push(Span { queries: first..positions.len(), keys: keys.clone() });
            let first_asked = index.len();
            let wanted = wanted.iter().filter(|position| range.contains(position));
            index.extend(wanted.map(|position| id(first + position - range.start)));
            asked.push(Span { queries: first_asked..index.len(), keys: keys.clone() });
        }
        let everything = (0..positions.len()).map(id).collect();
        let positions = Tensor::new(positions, &self.device)?;
        Ok(Piece {
            ids: Tensor::new(ids, &self.device)?,
            all: self.queries(everything, &positions, all)?,
            asked: self.queries(index, &positions, asked)?,
            positions,
        })
    }

    fn queries(&self, index: Vec<u32>, positions: &Tensor, spans: Vec<Span>) -> Result<Queries> {
        let index = Tensor::new(index, &self.device)?;
        let cos_sin = match &self.rotary {
            Some(rotary) if index.elem_count() > 0 => Some(rotary.at(&positions.index_select(&index, 0)?)?),
            Some(_) | None => None,
        };
        Ok(Queries { index, spans, cos_sin })
    }
}

/// An index as the tensor library wants it.
#[allow(clippy::cast_possible_truncation)] // a pass holds fewer than 2^32 tokens
fn id(index: usize) -> u32 {
    index as u32
}

/// Runs `f` on all pieces side by side.
fn each<T: Send>(pieces: &[Piece], f: impl Fn(usize, &Piece) -> Result<T> + Sync) -> Result<Vec<T>> {
    pieces.par_iter().enumerate().map(|(index, piece)| f(index, piece)).collect()
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
        let name = |part: &str| format!("model.transformer.blocks.{n}.{part}.weight");
        let get = |part: &str| weights.backbone(&name(part));
        let linear = |part: &str| weights.linear(&name(part));
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

    /// The first half of a block, up to where a piece needs the others: `x` (tokens, `d_model`).
    fn look(&self, x: Tensor, piece: &Piece) -> Result<Look> {
        let normed = self.attn_norm.forward(&x)?;
        let k = rotated(self.heads(&self.k_proj.forward(&normed)?)?, &piece.all)?;
        let v = self.heads(&self.v_proj.forward(&normed)?)?;
        Ok(Look { x, normed, k, v })
    }

    /// The second half, for some of the piece's tokens: (queries, `d_model`).
    fn forward(&self, look: &Look, kv: &KeysValues, queries: &Queries) -> Result<Tensor> {
        let x = look.x.index_select(&queries.index, 0)?; // (queries, d_model)
        let q = self.q_proj.forward(&look.normed.index_select(&queries.index, 0)?)?;
        let q = rotated(self.heads(&q)?, queries)?; // (queries, n_heads, head_dim)
        let mixed = attention(&q, &kv.k, &kv.v, &queries.spans)?; // (queries, d_model)
        let x = (x + self.attn_out.forward(&mixed)?)?;

        let normed = self.ff_norm.forward(&x)?;
        let gated = (self.ff_proj.forward(&normed)?.silu()? * self.up_proj.forward(&normed)?)?; // (queries, mlp)
        x + self.ff_out.forward(&gated)?
    }

    /// (tokens, width) to (tokens, width / `head_dim`, `head_dim`).
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        x.reshape((tokens, width / self.head_dim, self.head_dim))
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
fn rotated(x: Tensor, queries: &Queries) -> Result<Tensor> {
    match &queries.cos_sin {
        None => Ok(x),
        // each token is a batch entry of length one, so that each has angles of its own
        Some((cos, sin)) => {
            let rotated = rotary_emb::rope_thd(&x.to_dtype(DType::F32)?.unsqueeze(1)?, cos, sin)?.squeeze(1)?;
            rotated.to_dtype(x.dtype())
        }
    }
}
