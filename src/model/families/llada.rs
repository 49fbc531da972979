//! The LLaDA network (arXiv 2502.09992) top to bottom, weights under the checkpoint's own names: a
//! Llama without a causal mask. Out of scope: canvases and devices.

use super::{head::Head, rope::Rope};
use crate::diffusion::u32_of;
use crate::model::backend::{Angles, Backend, Joined, Matrix, Norm, Segment, Span, Stored};
use crate::model::network::{Network, Pass, PassRow, States};
use crate::model::{config::llada::Config, error::LoadError, weights::registry::Registry};
use candle_core::{Result, Tensor};
use std::sync::Arc;

type Loaded<T> = std::result::Result<T, LoadError>;

/// The network, and its quality head, which reads states after the final norm.
pub(crate) struct Llada {
    wte: Stored,         // (embedding_size, d_model)
    wpe: Option<Tensor>, // (max_sequence_length, d_model)
    rope: Option<Rope>,
    blocks: Vec<Block>,
    ln_f: Norm,
    ff_out: Box<dyn Matrix>,
    head: Option<Head>,
    backend: Arc<dyn Backend>,
}

/// Tokens of a pass that go through a block together.
struct Piece {
    ids: Tensor,       // (tokens)
    positions: Tensor, // (tokens)
    all: Queries,
    asked: Queries,
}

/// The tokens of a piece whose states are computed, and the keys that they attend to.
struct Queries {
    index: Tensor, // (queries), into the piece's tokens
    spans: Vec<Span>,
    angles: Option<Angles>,
}

/// A piece half way through a block: its keys and values are projected.
struct Projected {
    x: Tensor,      // (tokens, d_model)
    normed: Tensor, // (tokens, d_model)
    k: Tensor,      // (tokens, n_kv_heads, head_dim)
    v: Tensor,      // (tokens, n_kv_heads, head_dim)
}

/// Keys and values of the whole pass, each (tokens of all rows, `n_kv_heads`, `head_dim`).
fn keys_values(pieces: &[Projected]) -> Result<[Tensor; 2]> {
    let cat = |part: fn(&Projected) -> &Tensor| Tensor::cat(&pieces.iter().map(part).collect::<Vec<_>>(), 0);
    Ok([cat(|piece| &piece.k)?, cat(|piece| &piece.v)?])
}

impl Network for Llada {
    fn forward(&self, pass: &Pass) -> Result<States> {
        let (backend, pieces) = (&*self.backend, self.cut(pass)?);
        let mut projected =
            backend.each(&pieces, |_, piece| self.blocks[0].project(backend, self.embed(piece)?, piece))?;
        for blocks in self.blocks.windows(2) {
            let kv = keys_values(&projected)?;
            projected = backend.each(&pieces, |index, piece| {
                let x = blocks[0].mix(backend, &projected[index], &kv, &piece.all)?;
                blocks[1].project(backend, x, piece)
            })?;
        }
        // of the other tokens only keys and values matter in the last block
        let kv = keys_values(&projected)?;
        let last = &self.blocks[self.blocks.len() - 1];
        let xs = backend.each(&pieces, |index, piece| match &piece.asked {
            asked if asked.index.elem_count() == 0 => Ok(None),
            asked => last.mix(backend, &projected[index], &kv, asked).map(Some), // (asked, d_model) per piece
        })?;
        let x = Tensor::cat(&xs.into_iter().flatten().collect::<Vec<_>>(), 0)?; // (asked, d_model)
        let hidden = backend.norm(&x, &self.ln_f)?;
        Ok(States { judged: hidden.clone(), hidden })
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.ff_out.product(hidden)
    }

    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>> {
        self.head.as_ref().map(|head| head.forward(judged, &*self.backend)).transpose()
    }
}

impl Llada {
    pub(crate) fn new(config: &Config, weights: &Registry, backend: Arc<dyn Backend>) -> Loaded<Self> {
        let name = |name: &str| format!("model.transformer.{name}.weight");
        let wte = weights.matrix(&name("wte"))?;
        let ff_out = if config.weight_tying { wte.clone() } else { weights.matrix(&name("ff_out"))? };
        let rope = || Rope::new(config.head_dim(), config.rope_theta, config.max_sequence_length, &backend.device());
        Ok(Self {
            wpe: if config.rope { None } else { Some(weights.weight(&name("wpe"))?) },
            rope: if config.rope { Some(rope()?) } else { None },
            blocks: (0..config.n_layers).map(|n| Block::new(config, weights, &*backend, n)).collect::<Loaded<_>>()?,
            ln_f: Norm::Rms { weight: weights.weight(&name("ln_f"))?, eps: config.rms_norm_eps },
            ff_out: backend.matrix(&ff_out)?,
            wte,
            head: if weights.has_head() { Some(Head::new(weights, &*backend)?) } else { None },
            backend,
        })
    }

    fn embed(&self, piece: &Piece) -> Result<Tensor> {
        let x = self.backend.embed(&self.wte, &piece.ids)?; // (tokens, d_model)
        match &self.wpe {
            None => Ok(x),
            Some(wpe) => x + wpe.index_select(&piece.positions, 0)?,
        }
    }

    fn cut(&self, pass: &Pass) -> Result<Vec<Piece>> {
        let lengths: Vec<usize> = pass.rows.iter().map(|row| row.tokens.len()).collect();
        self.backend.cut(&lengths).iter().map(|segments| self.piece(pass, segments)).collect()
    }

    fn piece(&self, pass: &Pass, segments: &[Segment]) -> Result<Piece> {
        let (mut ids, mut positions, mut index) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all, mut asked) = (Vec::new(), Vec::new());
        for Segment { row, positions: range } in segments {
            let PassRow { tokens: keys, asked: wanted } = &pass.rows[*row];
            let first = positions.len();
            ids.extend_from_slice(&pass.ids[keys.start + range.start..keys.start + range.end]);
            positions.extend(range.clone().map(u32_of));
            all.push(Span { queries: first..positions.len(), keys: keys.clone() });
            let first_asked = index.len();
            let wanted = wanted.iter().filter(|position| range.contains(position));
            index.extend(wanted.map(|position| u32_of(first + position - range.start)));
            asked.push(Span { queries: first_asked..index.len(), keys: keys.clone() });
        }
        let everything: Vec<u32> = (0..positions.len()).map(u32_of).collect();
        let positions = self.backend.indices(&positions)?;
        Ok(Piece {
            ids: self.backend.indices(&ids)?,
            all: self.queries(&everything, &positions, all)?,
            asked: self.queries(&index, &positions, asked)?,
            positions,
        })
    }

    fn queries(&self, index: &[u32], positions: &Tensor, spans: Vec<Span>) -> Result<Queries> {
        let is_empty = index.is_empty();
        let index = self.backend.indices(index)?;
        let rope = self.rope.as_ref().filter(|_| !is_empty);
        let angles = rope.map(|rope| rope.at(&positions.index_select(&index, 0)?)).transpose()?;
        Ok(Queries { index, spans, angles })
    }
}

/// One transformer block.
struct Block {
    attn_norm: Norm,
    qkv: Joined, // q_proj, k_proj, v_proj
    attn_out: Box<dyn Matrix>,
    ff_norm: Norm,
    gate_up: Joined, // ff_proj, up_proj
    ff_out: Box<dyn Matrix>,
    head_dim: usize,
}

/// Places in [`Block::qkv`].
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;

impl Block {
    fn new(config: &Config, weights: &Registry, backend: &dyn Backend, n: usize) -> Loaded<Self> {
        let name = |part: &str| format!("model.transformer.blocks.{n}.{part}.weight");
        let norm = |part: &str| {
            Ok::<_, LoadError>(Norm::Rms { weight: weights.weight(&name(part))?, eps: config.rms_norm_eps })
        };
        let matrix = |part: &str| weights.matrix(&name(part));
        Ok(Self {
            attn_norm: norm("attn_norm")?,
            qkv: backend.joined(&[matrix("q_proj")?, matrix("k_proj")?, matrix("v_proj")?])?,
            attn_out: backend.matrix(&matrix("attn_out")?)?,
            ff_norm: norm("ff_norm")?,
            gate_up: backend.joined(&[matrix("ff_proj")?, matrix("up_proj")?])?,
            ff_out: backend.matrix(&matrix("ff_out")?)?,
            head_dim: config.head_dim(),
        })
    }

    /// The first half of a block, up to where a piece needs the others: `x` (tokens, `d_model`).
    fn project(&self, backend: &dyn Backend, x: Tensor, piece: &Piece) -> Result<Projected> {
        let normed = backend.norm(&x, &self.attn_norm)?;
        let k = rotated(backend, self.heads(&normed, K)?, &piece.all)?;
        let v = self.heads(&normed, V)?;
        Ok(Projected { x, normed, k, v })
    }

    /// The second half, for some of the piece's tokens: (queries, `d_model`).
    fn mix(&self, backend: &dyn Backend, piece: &Projected, [k, v]: &[Tensor; 2], queries: &Queries) -> Result<Tensor> {
        let x = piece.x.index_select(&queries.index, 0)?; // (queries, d_model)
        let q = self.heads(&piece.normed.index_select(&queries.index, 0)?, Q)?;
        let q = rotated(backend, q, queries)?; // (queries, n_heads, head_dim)
        let mixed = backend.attention(&q, k, v, &queries.spans)?; // (queries, d_model)
        let (x, normed) = backend.add_norm(&x, &self.attn_out.product(&mixed)?, &self.ff_norm)?;
        x + self.ff_out.product(&backend.gated(&normed, &self.gate_up)?)? // (queries, d_model)
    }

    /// Queries, keys or values: (tokens, `d_model`) to (tokens, heads, `head_dim`).
    fn heads(&self, x: &Tensor, part: usize) -> Result<Tensor> {
        let y = self.qkv[part].product(x)?;
        let (tokens, width) = y.dims2()?;
        y.reshape((tokens, width / self.head_dim, self.head_dim))
    }
}

/// Rotates `x` (tokens, heads, `head_dim`), where the model has rotary positions.
fn rotated(backend: &dyn Backend, x: Tensor, queries: &Queries) -> Result<Tensor> {
    match &queries.angles {
        None => Ok(x),
        Some(angles) => backend.rotate(&x, angles),
    }
}
