//! `RemeDi` (arXiv 2509.23653) top to bottom, weights under the checkpoint's own names: LLaDA's
//! blocks, and side blocks of the same form that judge every cell and correct the main stream. It
//! is block-causal. Out of scope: canvases and devices.

use super::block::{Block, Projected, keys_values};
use super::llada::Llada;
use super::piece::{self, Piece};
use crate::model::backend::cost::{Cost, Numbers, Size};
use crate::model::backend::inputs::Inputs;
use crate::model::backend::{Backend, KvLayers, Matrix, Norm};
use crate::model::config::{llada::Config, remedi};
use crate::model::network::{KvSize, Network, Pass, Planned, Sight};
use crate::model::states::{States, Wanted};
use crate::model::{error::LoadError, weights::registry::Registry};
use candle_core::{Result, Tensor};
use std::num::NonZeroUsize;
use std::sync::Arc;

type Loaded<T> = std::result::Result<T, LoadError>;

/// The network, its quality included.
pub(crate) struct Remedi {
    base: Llada,
    sides: Vec<Side>,
    stages: Vec<Stage>,
    ln_f_upm: Norm,
    confidence: Box<dyn Matrix>, // (1, d_model), in f32
    confidence_size: Size,
    confidence_bias: Tensor, // (1)
}

/// A side block, and its way back to the main stream.
struct Side {
    block: Block,
    norm: Norm,
    linear: Box<dyn Matrix>, // (d_model, d_model)
    linear_size: Size,
    bias: Tensor, // (d_model)
}

/// The blocks in the order in which they run, by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Layer(usize),
    Side(usize),
}

/// A piece half way through a stage.
struct Flow {
    projected: Projected,
    /// The main stream, while a side block runs: (queries, `d_model`).
    main: Option<Tensor>,
    /// What the side block before this stage gave: (queries, `d_model`).
    side: Option<Tensor>,
}

/// A piece between two stages, (queries, `d_model`) each.
struct Streams {
    /// What the next stage runs on, and its norm.
    x: Tensor,
    normed: Tensor,
    main: Option<Tensor>,
    side: Option<Tensor>,
}

impl Network for Remedi {
    fn sight(&self) -> Sight {
        const LENGTH: NonZeroUsize = NonZeroUsize::new(remedi::BLOCK).unwrap();
        Sight::Blocks { length: LENGTH }
    }

    fn plan(&self, pass: &Pass, inputs: &mut Inputs) -> Vec<Planned> {
        piece::plan(pass, self.backend(), inputs)
    }

    fn run(
        &self,
        plan: &[Planned],
        inputs: &Tensor,
        kv_layers: Option<&KvLayers<'_>>,
        wanted: Wanted<'_>,
    ) -> Result<States> {
        let backend = self.backend();
        let pieces = plan.iter().map(|planned| self.base.piece(planned, inputs)).collect::<Result<Vec<_>>>()?;
        let last = self.stages.len() - 1;
        let mut flows = backend.each(&pieces, |_, piece| {
            let x = self.base.embed(piece)?;
            let normed = backend.norm(&x, &self.block(self.stages[0]).attn_norm)?;
            self.enter(0, Streams { x, normed, main: None, side: None }, piece)
        })?;
        for n in 0..last {
            let projected = flows.iter().map(|flow| &flow.projected);
            let kv = keys_values(projected, n, kv_layers, backend, inputs)?;
            flows = backend.each(&pieces, |index, piece| {
                let flow = &flows[index];
                let mixed = self.block(self.stages[n]).mix(backend, &flow.projected, &kv, &piece.all, inputs)?;
                self.enter(n + 1, self.between(n, flow, mixed)?, piece)
            })?;
        }
        let kv = keys_values(flows.iter().map(|flow| &flow.projected), last, kv_layers, backend, inputs)?;
        let states = backend.each(&pieces, |index, piece| {
            if piece.index.elem_count() == 0 {
                return Ok(None);
            }
            let flow = &flows[index];
            let mixed = self.block(self.stages[last]).mix(backend, &flow.projected, &kv, &piece.asked, inputs)?;
            let Streams { normed, side, .. } = self.between(last, flow, mixed)?; // (asked, d_model)
            let judged = side.map(|side| backend.norm(&side, &self.ln_f_upm)).transpose()?;
            Ok::<_, candle_core::Error>(judged.map(|judged| (normed, judged)))
        })?;
        let (hidden, judged): (Vec<_>, Vec<_>) = states.into_iter().flatten().unzip();
        States::of_last(Tensor::cat(&hidden, 0)?, &Tensor::cat(&judged, 0)?, wanted) // (asked of all, d_model)
    }

    /// Side blocks have keys and values of their own.
    fn keeps(&self) -> Option<KvSize> {
        self.base.keeps().map(|size| KvSize { layers: self.stages.len(), ..size })
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.base.logits(hidden)
    }

    fn cost(&self, pass: &Pass, read_out: usize, judged: usize) -> Cost {
        let tokens = pass.ids.len();
        let stage = |(n, stage): (usize, &Stage)| {
            let is_last = n + 1 == self.stages.len();
            let back = match stage {
                Stage::Layer(_) => Cost::default(),
                Stage::Side(side) => {
                    Cost::products(self.sides[*side].linear_size, if is_last { pass.asked } else { tokens })
                }
            };
            self.block(*stage).cost(pass, is_last) + back
        };
        let last = Cost::products(self.base.ff_out_size, read_out) + Cost::products(self.confidence_size, judged);
        self.stages.iter().enumerate().map(stage).sum::<Cost>() + last
    }

    fn numbers(&self) -> Numbers {
        self.base.numbers()
    }

    /// One logit a cell, blank or filled.
    fn qualities(&self, judged: &Tensor) -> Result<Option<Tensor>> {
        let logits = self.confidence.product(judged)?.broadcast_add(&self.confidence_bias)?; // (states, 1)
        logits.squeeze(1).map(Some)
    }
}

impl Remedi {
    pub(crate) fn new(config: &Config, weights: &Registry, backend: Arc<dyn Backend>) -> Loaded<Self> {
        let confidence = weights.full("model.linear_confidence.weight")?;
        let stages = (0..config.n_layers).flat_map(|layer| {
            let side = remedi::SIDES.iter().position(|place| *place == layer);
            [Some(Stage::Layer(layer)), side.map(Stage::Side)].into_iter().flatten()
        });
        let sides = 0..remedi::SIDES.len();
        Ok(Self {
            stages: stages.collect(),
            sides: sides.map(|side| Side::new(config, weights, &*backend, side)).collect::<Loaded<_>>()?,
            ln_f_upm: Norm::Rms { weight: weights.full("model.ln_f_upm.weight")?, eps: config.rms_norm_eps },
            confidence_size: Size::full(&confidence),
            confidence: backend.full(&confidence)?,
            confidence_bias: weights.full("model.linear_confidence.bias")?,
            base: Llada::new(config, weights, backend)?,
        })
    }

    fn backend(&self) -> &dyn Backend {
        &*self.base.backend
    }

    fn block(&self, stage: Stage) -> &Block {
        match stage {
            Stage::Layer(layer) => &self.base.blocks[layer],
            Stage::Side(side) => &self.sides[side].block,
        }
    }

    /// The first half of stage `n`. In the last one only the asked tokens go on.
    fn enter(&self, n: usize, streams: Streams, piece: &Piece<'_>) -> Result<Flow> {
        let is_last = n + 1 == self.stages.len();
        let Streams { x, normed, main, side } = streams;
        let kept = |stream: Option<Tensor>| match stream {
            Some(stream) if is_last => self.backend().gather(&stream, &piece.index).map(Some),
            stream => Ok(stream),
        };
        let projected = self.block(self.stages[n]).project(self.backend(), x, &normed, piece, is_last)?;
        Ok(Flow { projected, main: kept(main)?, side: kept(side)? })
    }

    /// From the two parts that stage `n` ends with to what the next one runs on; after the last one
    /// `normed` is the input of the output layer.
    fn between(&self, n: usize, flow: &Flow, (x, update): (Tensor, Tensor)) -> Result<Streams> {
        let (backend, next) = (self.backend(), self.stages.get(n + 1));
        let next_norm = next.map_or(&self.base.ln_f, |stage| &self.block(*stage).attn_norm);
        match (self.stages[n], next) {
            (Stage::Layer(_), Some(Stage::Side(_))) => {
                let main = (x + update)?;
                // the first side block runs on the main stream alone
                let (x, normed) = match &flow.side {
                    None => (main.clone(), backend.norm(&main, next_norm)?),
                    Some(side) => backend.add_norm(&main, side, next_norm)?,
                };
                Ok(Streams { x, normed, main: Some(main), side: None })
            }
            (Stage::Layer(_), _) => {
                let (x, normed) = backend.add_norm(&x, &update, next_norm)?;
                Ok(Streams { x, normed, main: None, side: flow.side.clone() })
            }
            (Stage::Side(side), _) => {
                let Side { norm, linear, bias, .. } = &self.sides[side];
                let (side, normed) = backend.add_norm(&x, &update, norm)?;
                let back = linear.product(&normed)?.broadcast_add(bias)?;
                let main = flow.main.as_ref().unwrap_or(&x);
                let (x, normed) = backend.add_norm(main, &back, next_norm)?;
                Ok(Streams { x, normed, main: None, side: Some(side) })
            }
        }
    }
}

impl Side {
    fn new(config: &Config, weights: &Registry, backend: &dyn Backend, n: usize) -> Loaded<Self> {
        let linear = weights.matrix(&format!("model.backprop_linears.{n}.weight"))?;
        let norm = weights.weight(&format!("model.backprop_norms.{n}.weight"))?;
        Ok(Self {
            block: Block::new(config, weights, backend, &format!("{}{n}", remedi::SIDE_BLOCKS))?,
            norm: Norm::Rms { weight: norm, eps: config.rms_norm_eps },
            linear: backend.matrix(&linear)?,
            linear_size: linear.size(),
            bias: weights.weight(&format!("model.backprop_linears.{n}.bias"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backend::cpu::Cpu;
    use crate::model::network::Scope;
    use crate::model::states::Layer;
    use crate::model::weights::{layout::Layout, lora::LoraConfig, tensor_file::TensorFile};
    use candle_core::{Device, safetensors::load};
    use std::path::Path;

    /// The only numbers of the published code that a reading does not show.
    #[test]
    fn the_states_that_judge_are_those_of_the_published_code() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/remedi-tiny");
        let config = Config::read(&dir).unwrap();
        let files = vec![TensorFile::open(&dir.join("model.safetensors")).unwrap()];
        let weights = Registry::of(&Layout::llada(&config), files, LoraConfig::PUBLISHED, Arc::new(Cpu)).unwrap();
        let network = Remedi::new(&config, &weights, Arc::new(Cpu)).unwrap();
        let golden = load(dir.join("io.safetensors"), &Device::Cpu).unwrap();
        for row in 0..3 {
            let numbers = |name: &str| golden[&format!("{row}.{name}")].to_vec1::<i64>().unwrap();
            let (ids, prompt) = (numbers("input_ids"), numbers("prompt_len")[0]);
            let mut pass = Pass::default();
            let asked = (0..ids.len()).collect();
            let scope = Scope { prompt: usize::try_from(prompt).unwrap(), sight: network.sight() };
            pass.push(ids.iter().map(|id| u32::try_from(*id).unwrap()), scope, asked);
            let mut inputs = Inputs::default();
            let (plan, wanted) = (network.plan(&pass, &mut inputs), Wanted { hidden: true, layers: &[Layer::Last] });
            let states = network.run(&plan, &Cpu.bring(&inputs).unwrap(), None, wanted).unwrap();
            let expected = &golden[&format!("{row}.side")];
            let worst = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let difference = worst(&(&states.judged[0] - expected).unwrap());
            assert!(difference < 1e-5 * worst(expected), "{row}: {difference}");
        }
    }
}
