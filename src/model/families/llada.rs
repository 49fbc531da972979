//! The LLaDA network (arXiv 2502.09992) top to bottom, weights under the checkpoint's own names: a
//! Llama without a causal mask. Dream's (arXiv 2508.15487) is the same with biases and with shifted
//! outputs, as its configuration says. Out of scope: canvases and devices.

use super::block::{Block, keys_values};
use super::piece::{self, Piece};
use super::{head::Head, rope::Rope};
use crate::model::backend::cost::{Cost, Numbers, Size};
use crate::model::backend::inputs::Inputs;
use crate::model::backend::{Backend, KvLayers, Matrix, Norm, Stored};
use crate::model::network::{KvSize, Network, Outputs, Pass, Planned};
use crate::model::states::{Layer, States, Wanted};
use crate::model::{config::llada::Config, error::LoadError, weights::registry::Registry};
use candle_core::{DType, Error, Result, Tensor};
use std::sync::Arc;

type Loaded<T> = std::result::Result<T, LoadError>;

/// The network, and its quality head, which reads states after the final norm or after a block.
pub(crate) struct Llada {
    wte: Stored,         // (embedding_size, d_model)
    wpe: Option<Tensor>, // (max_sequence_length, d_model)
    rope: Option<Rope>,
    pub(super) blocks: Vec<Block>,
    pub(super) ln_f: Norm,
    ff_out: Box<dyn Matrix>,
    pub(super) ff_out_size: Size,
    head: Option<Head>,
    /// Numbers of a key.
    pub(super) kv_width: usize,
    pub(super) dtype: DType,
    outputs: Outputs,
    pub(super) backend: Arc<dyn Backend>,
}

impl Network for Llada {
    fn outputs(&self) -> Outputs {
        self.outputs
    }

    fn plan(&self, pass: &Pass, inputs: &mut Inputs) -> Vec<Planned> {
        piece::plan(pass, &*self.backend, inputs)
    }

    fn run(
        &self,
        plan: &[Planned],
        inputs: &Tensor,
        kv_layers: Option<&KvLayers<'_>>,
        wanted: Wanted<'_>,
    ) -> Result<States> {
        let backend = &*self.backend;
        // what is kept is of every block
        let depth = if kv_layers.is_some() { self.blocks.len() } else { wanted.depth(self.blocks.len()) };
        let pieces = plan.iter().map(|planned| self.piece(planned, inputs)).collect::<Result<Vec<_>>>()?;
        let last = self.blocks.len() - 1;
        let mut projected = backend.each(&pieces, |_, piece| {
            let x = self.embed(piece)?;
            let normed = backend.norm(&x, &self.blocks[0].attn_norm)?;
            self.blocks[0].project(backend, x, &normed, piece, 0 == last)
        })?;
        let mut after: Vec<(usize, Tensor)> = Vec::new(); // blocks, (asked of all, d_model)
        for n in 0..last {
            let kv = keys_values(projected.iter(), n, kv_layers, backend, inputs)?;
            let is_read = wanted.layers.iter().any(|layer| layer.number(self.blocks.len()) == n + 1);
            let is_end = n + 1 == depth;
            let next = backend.each(&pieces, |index, piece| {
                let (x, update) = self.blocks[n].mix(backend, &projected[index], &kv, &piece.all, inputs)?;
                let (x, normed) = backend.add_norm(&x, &update, &self.blocks[n + 1].attn_norm)?;
                let is_read = is_read && piece.index.elem_count() > 0;
                let read = is_read.then(|| backend.gather(&x, &piece.index)).transpose()?; // (asked, d_model)
                let next = || self.blocks[n + 1].project(backend, x, &normed, piece, n + 1 == last);
                Ok::<_, Error>(((!is_end).then(next).transpose()?, read))
            })?;
            let (next, read): (Vec<_>, Vec<_>) = next.into_iter().unzip();
            if is_read {
                after.push((n + 1, Tensor::cat(&read.into_iter().flatten().collect::<Vec<_>>(), 0)?));
            }
            if is_end {
                return Ok(States { judged: self.judged(wanted, &after)?, hidden: None });
            }
            projected = next.into_iter().flatten().collect();
        }
        let kv = keys_values(projected.iter(), last, kv_layers, backend, inputs)?;
        let hidden = backend.each(&pieces, |index, piece| match &piece.asked {
            _ if piece.index.elem_count() == 0 => Ok(None),
            asked => {
                let (x, update) = self.blocks[last].mix(backend, &projected[index], &kv, asked, inputs)?;
                backend.add_norm(&x, &update, &self.ln_f).map(|(_, normed)| Some(normed)) // (asked, d_model)
            }
        })?;
        let hidden = Tensor::cat(&hidden.into_iter().flatten().collect::<Vec<_>>(), 0)?; // (asked of all, d_model)
        after.push((self.blocks.len(), hidden.clone()));
        Ok(States { judged: self.judged(wanted, &after)?, hidden: Some(hidden) })
    }

    fn keeps(&self) -> Option<KvSize> {
        Some(KvSize { layers: self.blocks.len(), width: self.kv_width, dtype: self.dtype })
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.ff_out.product(hidden)
    }

    fn cost(&self, pass: &Pass, read_out: usize, judged: usize) -> Cost {
        let wanted = Wanted { hidden: read_out > 0, layers: &[self.judges()] };
        let depth = if pass.is_reusing() { self.blocks.len() } else { wanted.depth(self.blocks.len()) };
        let block = |(n, block): (usize, &Block)| block.cost(pass, n + 1 == self.blocks.len());
        let head = self.head.as_ref().map_or_else(Cost::default, |head| Cost::products(head.size, judged));
        self.blocks[..depth].iter().enumerate().map(block).sum::<Cost>()
            + Cost::products(self.ff_out_size, read_out)
            + head
    }

    fn numbers(&self) -> Numbers {
        self.blocks[0].numbers
    }

    fn judges(&self) -> Layer {
        self.head.as_ref().map_or(Layer::Last, |head| head.layer)
    }

    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>> {
        self.head.as_ref().map(|head| head.forward(judged, &*self.backend)).transpose()
    }
}

impl Llada {
    pub(crate) fn new(config: &Config, weights: &Registry, backend: Arc<dyn Backend>) -> Loaded<Self> {
        let names = config.names();
        let name = |part: &str| format!("{}.weight", names.outside(part));
        let wte = weights.matrix(&name("wte"))?;
        let ff_out = if config.weight_tying { wte.clone() } else { weights.matrix(&name("ff_out"))? };
        let rope = || Rope::new(config.head_dim(), config.rope_theta, config.max_sequence_length, &backend.device());
        let block = |n| Block::new(config, weights, &*backend, &format!("{}{n}", names.blocks));
        Ok(Self {
            wpe: if config.rope { None } else { Some(weights.weight(&name("wpe"))?) },
            rope: if config.rope { Some(rope()?) } else { None },
            blocks: (0..config.n_layers).map(block).collect::<Loaded<_>>()?,
            ln_f: Norm::Rms { weight: weights.weight(&name("ln_f"))?, eps: config.rms_norm_eps },
            ff_out: backend.matrix(&ff_out)?,
            ff_out_size: ff_out.size(),
            wte,
            kv_width: config.n_kv_heads * config.head_dim(),
            dtype: weights.dtype(),
            outputs: config.family.features().outputs,
            head: if weights.has_head() { Some(Head::new(weights, &*backend)?) } else { None },
            backend,
        })
    }

    /// What quality heads read, of the states after some blocks.
    fn judged(&self, wanted: Wanted<'_>, after: &[(usize, Tensor)]) -> Result<Vec<Tensor>> {
        let states = |layer: &Layer| {
            let number = layer.number(self.blocks.len());
            let found = after.iter().find(|(after, _)| *after == number);
            found.map(|(_, states)| states.clone()).ok_or_else(|| Error::Msg(format!("no states after block {number}")))
        };
        wanted.layers.iter().map(states).collect()
    }

    /// States before the first block: (tokens, `d_model`).
    pub(super) fn embed(&self, piece: &Piece<'_>) -> Result<Tensor> {
        let x = self.backend.embed(&self.wte, &piece.ids)?; // (tokens, d_model)
        match &self.wpe {
            Some(wpe) => x + self.backend.gather(wpe, &piece.positions)?,
            None => Ok(x),
        }
    }

    pub(super) fn piece<'a>(&self, planned: &'a Planned, inputs: &Tensor) -> Result<Piece<'a>> {
        Piece::of(planned, self.rope.as_ref(), &*self.backend, inputs)
    }
}
