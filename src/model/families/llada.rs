//! The LLaDA network (arXiv 2502.09992) top to bottom, weights under the checkpoint's own names: a
//! Llama without a causal mask. Out of scope: canvases and devices.

use super::{head::Head, rope::Rope};
use crate::diffusion::u32_of;
use crate::model::backend::cost::{Cost, Numbers, Size};
use crate::model::backend::inputs::{Inputs, part};
use crate::model::backend::{Angles, Backend, Joined, Matrix, Norm, Segment, Span, Spans, Stored};
use crate::model::network::{Network, Pass, PassRow, Planned, States};
use crate::model::{config::llada::Config, error::LoadError, weights::registry::Registry};
use candle_core::{Result, Tensor, bail};
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
    ff_out_size: Size,
    head: Option<Head>,
    backend: Arc<dyn Backend>,
}

/// Tokens of a pass that go through a block together.
struct Piece<'a> {
    ids: Tensor,               // (tokens)
    positions: Option<Tensor>, // (tokens), where they are embedded
    all: Queries<'a>,
    asked: Queries<'a>,
    index: Tensor, // (asked), into the piece's tokens
}

/// Tokens whose states are computed, and the keys that they attend to.
struct Queries<'a> {
    spans: &'a Spans,
    angles: Option<Angles>,
}

/// A piece half way through a block: what it needs of the other pieces is projected.
struct Projected {
    x: Tensor, // (queries, d_model)
    q: Tensor, // (queries, n_heads * head_dim)
    k: Tensor, // (tokens, n_kv_heads * head_dim)
    v: Tensor, // (tokens, n_kv_heads * head_dim)
}

/// Keys and values of the whole pass, each (tokens of all rows, `n_kv_heads * head_dim`).
fn keys_values(pieces: &[Projected]) -> Result<[Tensor; 2]> {
    let cat = |part: fn(&Projected) -> &Tensor| Tensor::cat(&pieces.iter().map(part).collect::<Vec<_>>(), 0);
    Ok([cat(|piece| &piece.k)?, cat(|piece| &piece.v)?])
}

impl Network for Llada {
    fn plan(&self, pass: &Pass, inputs: &mut Inputs) -> Vec<Planned> {
        let lengths: Vec<usize> = pass.rows.iter().map(|row| row.tokens.len()).collect();
        self.backend.cut(&lengths).iter().map(|segments| self.plan_piece(pass, segments, inputs)).collect()
    }

    fn run(&self, plan: &[Planned], inputs: &Tensor) -> Result<States> {
        let backend = &*self.backend;
        let pieces = plan.iter().map(|planned| self.piece(planned, inputs)).collect::<Result<Vec<_>>>()?;
        let last = self.blocks.len() - 1;
        let mut projected = backend.each(&pieces, |_, piece| {
            let x = self.embed(piece)?;
            let normed = backend.norm(&x, &self.blocks[0].attn_norm)?;
            self.blocks[0].project(backend, x, &normed, piece, 0 == last)
        })?;
        for n in 0..last {
            let kv = keys_values(&projected)?;
            projected = backend.each(&pieces, |index, piece| {
                let (x, update) = self.blocks[n].mix(backend, &projected[index], &kv, &piece.all, inputs)?;
                let (x, normed) = backend.add_norm(&x, &update, &self.blocks[n + 1].attn_norm)?;
                self.blocks[n + 1].project(backend, x, &normed, piece, n + 1 == last)
            })?;
        }
        let kv = keys_values(&projected)?;
        let hidden = backend.each(&pieces, |index, piece| match &piece.asked {
            _ if piece.index.elem_count() == 0 => Ok(None),
            asked => {
                let (x, update) = self.blocks[last].mix(backend, &projected[index], &kv, asked, inputs)?;
                backend.add_norm(&x, &update, &self.ln_f).map(|(_, normed)| Some(normed)) // (asked, d_model)
            }
        })?;
        let hidden = Tensor::cat(&hidden.into_iter().flatten().collect::<Vec<_>>(), 0)?; // (asked of all, d_model)
        Ok(States { judged: hidden.clone(), hidden })
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.ff_out.product(hidden)
    }

    /// In the last block, queries and all that follows are computed of the asked tokens only.
    fn cost(&self, pass: &Pass, read_out: usize, judged: usize) -> Cost {
        let tokens = pass.ids.len();
        let block = |(n, block): (usize, &Block)| {
            let is_last = n + 1 == self.blocks.len();
            let queries = |row: &PassRow| if is_last { row.asked.len() } else { row.tokens.len() };
            let attention = |row: &PassRow| Cost::attention(queries(row), row.tokens.len(), block.width);
            let mixed = if is_last { pass.asked } else { tokens };
            let products = Cost::products(block.keys_values, tokens) + Cost::products(block.rest, mixed);
            products + pass.rows.iter().map(attention).sum()
        };
        let head = self.head.as_ref().map_or_else(Cost::default, |head| Cost::products(head.size, judged));
        self.blocks.iter().enumerate().map(block).sum::<Cost>() + Cost::products(self.ff_out_size, read_out) + head
    }

    fn numbers(&self) -> Numbers {
        self.blocks[0].numbers
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
            ff_out_size: ff_out.size(),
            wte,
            head: if weights.has_head() { Some(Head::new(weights, &*backend)?) } else { None },
            backend,
        })
    }

    fn embed(&self, piece: &Piece<'_>) -> Result<Tensor> {
        let x = self.backend.embed(&self.wte, &piece.ids)?; // (tokens, d_model)
        match (&self.wpe, &piece.positions) {
            (Some(wpe), Some(positions)) => x + self.backend.gather(wpe, positions)?,
            _ => Ok(x),
        }
    }

    fn plan_piece(&self, pass: &Pass, segments: &[Segment], inputs: &mut Inputs) -> Planned {
        let (mut ids, mut positions, mut index, mut asked_positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut all, mut asked) = (Vec::new(), Vec::new());
        for Segment { row, positions: range } in segments {
            let PassRow { tokens: keys, asked: wanted } = &pass.rows[*row];
            let first = positions.len();
            ids.extend_from_slice(&pass.ids[keys.start + range.start..keys.start + range.end]);
            positions.extend(range.clone().map(u32_of));
            all.push(Span { queries: first..positions.len(), keys: keys.clone() });
            let first_asked = index.len();
            for position in wanted.iter().filter(|position| range.contains(position)) {
                index.push(u32_of(first + position - range.start));
                asked_positions.push(u32_of(*position));
            }
            asked.push(Span { queries: first_asked..index.len(), keys: keys.clone() });
        }
        Planned {
            ids: inputs.add(ids),
            positions: inputs.add(positions),
            asked: inputs.add(index),
            asked_positions: inputs.add(asked_positions),
            spans: self.backend.lay_out(all, inputs),
            asked_spans: self.backend.lay_out(asked, inputs),
        }
    }

    fn piece<'a>(&self, planned: &'a Planned, inputs: &Tensor) -> Result<Piece<'a>> {
        let (positions, index) = (part(inputs, &planned.positions)?, part(inputs, &planned.asked)?);
        let angles = |positions: &Tensor| {
            let rope = self.rope.as_ref().filter(|_| positions.elem_count() > 0);
            rope.map(|rope| rope.at(positions, &*self.backend)).transpose()
        };
        let asked_positions = part(inputs, &planned.asked_positions)?;
        Ok(Piece {
            ids: part(inputs, &planned.ids)?,
            all: Queries { spans: &planned.spans, angles: angles(&positions)? },
            asked: Queries { spans: &planned.asked_spans, angles: angles(&asked_positions)? },
            positions: self.wpe.is_some().then_some(positions),
            index,
        })
    }
}

/// One transformer block.
struct Block {
    attn_norm: Norm,
    qkv: Box<dyn Joined>, // q_proj, k_proj, v_proj
    attn_out: Box<dyn Matrix>,
    ff_norm: Norm,
    gate_up: Box<dyn Joined>, // ff_proj, up_proj
    ff_out: Box<dyn Matrix>,
    head_dim: usize,
    /// Width of the queries.
    width: usize,
    /// Size of `k_proj` and `v_proj`, and of the other matrices.
    keys_values: Size,
    rest: Size,
    numbers: Numbers,
}

impl Block {
    fn new(config: &Config, weights: &Registry, backend: &dyn Backend, n: usize) -> Loaded<Self> {
        let name = |part: &str| format!("model.transformer.blocks.{n}.{part}.weight");
        let norm = |part: &str| {
            Ok::<_, LoadError>(Norm::Rms { weight: weights.weight(&name(part))?, eps: config.rms_norm_eps })
        };
        let matrix = |part: &str| weights.matrix(&name(part));
        let one = |part: &str| {
            let stored = matrix(part)?;
            Ok::<_, LoadError>((backend.matrix(&stored)?, stored.size(), stored.numbers()))
        };
        let joined = |parts: &[&str]| {
            let stored = parts.iter().map(|part| matrix(part)).collect::<Loaded<Vec<Stored>>>()?;
            Ok::<_, LoadError>((backend.joined(&stored)?, stored.iter().map(Stored::size).collect::<Vec<_>>()))
        };
        let (qkv, sizes) = joined(&["q_proj", "k_proj", "v_proj"])?;
        let (attn_out, out, _) = one("attn_out")?;
        let (gate_up, gated) = joined(&["ff_proj", "up_proj"])?;
        let (ff_out, down, numbers) = one("ff_out")?;
        Ok(Self {
            attn_norm: norm("attn_norm")?,
            qkv,
            attn_out,
            ff_norm: norm("ff_norm")?,
            gate_up,
            ff_out,
            head_dim: config.head_dim(),
            width: config.d_model,
            keys_values: sizes[1] + sizes[2],
            rest: sizes[0] + out + gated[0] + gated[1] + down,
            numbers,
        })
    }

    /// The first half of a block, up to where a piece needs the others: `x` and its norm (tokens,
    /// `d_model`). In the last block queries are needed of the asked tokens only.
    fn project(
        &self,
        backend: &dyn Backend,
        x: Tensor,
        normed: &Tensor,
        piece: &Piece<'_>,
        is_last: bool,
    ) -> Result<Projected> {
        let rotated = |parts: &[&Tensor], queries: &Queries<'_>| match &queries.angles {
            None => Ok(parts.iter().map(|part| (*part).clone()).collect()),
            Some(angles) => backend.rotate(parts, self.head_dim, angles),
        };
        if !is_last {
            let [q, k, v] = parts(self.qkv.products(normed, 0..3)?)?;
            let [q, k] = parts(rotated(&[&q, &k], &piece.all)?)?;
            return Ok(Projected { x, q, k, v });
        }
        let [k, v] = parts(self.qkv.products(normed, 1..3)?)?;
        let [k] = parts(rotated(&[&k], &piece.all)?)?;
        let [q] = parts(self.qkv.products(&backend.gather(normed, &piece.index)?, 0..1)?)?;
        let [q] = parts(rotated(&[&q], &piece.asked)?)?;
        Ok(Projected { x: backend.gather(&x, &piece.index)?, q, k, v })
    }

    /// The second half: the residual stream (queries, `d_model`), and what is to be added to it.
    fn mix(
        &self,
        backend: &dyn Backend,
        Projected { x, q, .. }: &Projected,
        [k, v]: &[Tensor; 2],
        queries: &Queries<'_>,
        inputs: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let mixed = backend.attention([q, k, v], self.head_dim, queries.spans, inputs)?; // (queries, d_model)
        let (x, normed) = backend.add_norm(x, &self.attn_out.product(&mixed)?, &self.ff_norm)?;
        let update = self.ff_out.product(&backend.gated(&normed, &*self.gate_up)?)?;
        Ok((x, update))
    }
}

/// As many tensors as there must be.
fn parts<const N: usize>(tensors: Vec<Tensor>) -> Result<[Tensor; N]> {
    tensors.try_into().or_else(|tensors: Vec<Tensor>| bail!("{} tensors where there must be {N}", tensors.len()))
}
