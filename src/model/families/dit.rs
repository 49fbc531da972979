//! The DiT of MDLM (arXiv 2406.07524), PRISM's family for text and Sudoku, top to bottom, weights under the published names.
//! MDLM does not tell the network the time: it is run at sigma = 0, always. What adaLN makes of that is a constant, which is
//! folded into norms and matrices when they are loaded. Refuses to know canvases: ids go in, states come out.

use crate::diffusion::TokenId;
use crate::model::backend::attention::{Span, attention};
use crate::model::backend::linear::Linear;
use crate::model::config::strict::{self, Rule};
use crate::model::denoiser::NetworkDenoiser;
use crate::model::network::{Network, Pass, PassRow, States};
use crate::model::weights::catalogue::Catalogue;
use crate::model::weights::tensor_file::TensorFile;
use crate::model::{Defaults, Denoiser, LoadError, ModelSpec};
use candle_core::{D, Device, Result, Tensor};
use candle_nn::{ops, rotary_emb};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// `model_type` in `config.json`.
const FAMILY: &str = "mdlm";
/// Epsilon of every `LayerNorm`, PyTorch's default.
const EPSILON: f32 = 1e-5;
/// Base of the rotary frequencies.
const ROPE_THETA: f32 = 10_000.0;
/// Width of the sinusoid of sigma.
const SINUSOID: usize = 256;

type Loaded<T> = std::result::Result<T, LoadError>;

/// `config.json`.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    #[serde(alias = "hidden_size")]
    hidden_dim: usize,
    cond_dim: usize,
    n_blocks: usize,
    n_heads: usize,
    vocab_size: usize,
    model_length: usize,
    /// The published configuration has none: the last id is the mask.
    mask_token_id: Option<u32>,
    eos_token_id: Option<u32>,
}

/// Whether the model in `dir` says that it is of this family. What cannot be read is not; reading it again says why.
pub(crate) fn is_in(dir: &Path) -> bool {
    strict::read(&dir.join("config.json")).is_ok_and(|keys| keys.get("model_type") == Some(&json!(FAMILY)))
}

/// Loads a model and, from a file of its own, its quality head.
///
/// # Errors
/// When the configuration asks for something else than this network, or tensors are missing, left over or of other shapes.
pub(crate) fn load(
    dir: &Path,
    files: Vec<TensorFile>,
    head: Option<TensorFile>,
    device: &Device,
    device_name: crate::model::Device,
) -> Loaded<Box<dyn Denoiser>> {
    let config = Config::read(&dir.join("config.json"))?;
    let weights = Catalogue::of(files, config.tensors(), &["backbone."], &["rotary_emb.inv_freq"])?;
    let blocks_in = |file: &TensorFile| (0..).take_while(|n| has_block(file, *n)).count();
    let head = match head {
        None => None,
        Some(file) => {
            let shapes = config.layers(blocks_in(&file), 1);
            Some(Catalogue::of(vec![file], shapes.collect(), &["remasking_head."], &[])?)
        }
    };
    let network = Dit::new(&config, &weights, head.as_ref(), device)?;
    #[allow(clippy::cast_possible_truncation)] // ids are 32 bits wide
    let vocabulary = config.vocab_size as u32;
    let spec = ModelSpec {
        family: FAMILY.to_owned(),
        vocabulary,
        canvas_max: config.model_length,
        mask: TokenId(config.mask_token_id.unwrap_or(vocabulary - 1)),
        ends: config.eos_token_id.map(TokenId).into_iter().collect(),
        has_quality: head.is_some(),
        adapters_folded: false,
        dtype: "f32".to_owned(),
        weights: "f32".to_owned(),
        device: device_name.to_string(),
        parameters: weights.parameters() + head.as_ref().map_or(0, Catalogue::parameters),
        defaults: Defaults::default(),
    };
    Ok(Box::new(NetworkDenoiser::new(Box::new(network), spec)))
}

fn has_block(file: &TensorFile, n: usize) -> bool {
    file.shapes.keys().any(|name| name.trim_start_matches("remasking_head.").starts_with(&format!("blocks.{n}.")))
}

impl Config {
    fn read(path: &Path) -> Loaded<Self> {
        let file = path.display().to_string();
        let keys = strict::read(path)?;
        let rules = [
            ("model_type", vec![json!(FAMILY)], false),
            ("architectures", vec![json!(["MDLM"]), Value::Null], true),
            ("time_conditioning", vec![json!(false)], true),
        ];
        let rules = rules.map(|(key, values, optional)| Rule { key, values, optional });
        let known = [
            "hidden_dim",
            "hidden_size",
            "cond_dim",
            "n_blocks",
            "n_heads",
            "vocab_size",
            "model_length",
            "mask_token_id",
            "eos_token_id",
            "bos_token_id",
            "pad_token_id",
            "_name_or_path",
            "auto_map",
            "dropout",
            "dtype",
            "torch_dtype",
            "transformers_version",
        ];
        strict::check(&keys, &rules, &known, &file)?;
        let config: Self = strict::take(keys, &file)?;
        config.check(&file)?;
        Ok(config)
    }

    fn check(&self, file: &str) -> Loaded<()> {
        let refuse = |problem: String| Err(LoadError::Malformed { file: file.to_owned(), problem });
        let sizes = [
            ("hidden_dim", self.hidden_dim),
            ("cond_dim", self.cond_dim),
            ("n_blocks", self.n_blocks),
            ("n_heads", self.n_heads),
            ("model_length", self.model_length),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return refuse(format!("says `{key}` is 0, it must be at least 1"));
        }
        if self.vocab_size < 2 || u32::try_from(self.vocab_size).is_err() {
            return refuse(format!("says `vocab_size` is {}, it must be 2 to 4294967295", self.vocab_size));
        }
        let (width, heads) = (self.hidden_dim, self.n_heads);
        if !width.is_multiple_of(2 * heads) {
            return refuse(format!(
                "says `hidden_dim` is {width}, which `n_heads` = {heads} does not cut into even widths"
            ));
        }
        let ids = self.mask_token_id.iter().chain(&self.eos_token_id);
        match ids.into_iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => refuse(format!("names token id {id}, but `vocab_size` is {}", self.vocab_size)),
            None => Ok(()),
        }
    }

    /// Name and shape of every tensor of the backbone.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, c) = (self.hidden_dim, self.cond_dim);
        let around = [
            ("vocab_embed.embedding", vec![self.vocab_size, h]),
            ("sigma_map.mlp.0.weight", vec![c, SINUSOID]),
            ("sigma_map.mlp.0.bias", vec![c]),
            ("sigma_map.mlp.2.weight", vec![c, c]),
            ("sigma_map.mlp.2.bias", vec![c]),
        ];
        let around = around.map(|(name, shape)| (name.to_owned(), shape));
        around.into_iter().chain(self.layers(self.n_blocks, self.vocab_size)).collect()
    }

    /// Name and shape of every tensor of some blocks and a final layer with `outputs` outputs: of a backbone, or of a head.
    fn layers(&self, blocks: usize, outputs: usize) -> impl Iterator<Item = (String, Vec<usize>)> + use<> {
        let (h, c) = (self.hidden_dim, self.cond_dim);
        let blocks = (0..blocks).flat_map(move |n| {
            [
                ("norm1.weight", vec![h]),
                ("attn_qkv.weight", vec![3 * h, h]),
                ("attn_out.weight", vec![h, h]),
                ("norm2.weight", vec![h]),
                ("mlp.0.weight", vec![4 * h, h]),
                ("mlp.0.bias", vec![4 * h]),
                ("mlp.2.weight", vec![h, 4 * h]),
                ("mlp.2.bias", vec![h]),
                ("adaLN_modulation.weight", vec![6 * h, c]),
                ("adaLN_modulation.bias", vec![6 * h]),
            ]
            .map(|(name, shape)| (format!("blocks.{n}.{name}"), shape))
        });
        let last = [
            ("norm_final.weight", vec![h]),
            ("linear.weight", vec![outputs, h]),
            ("linear.bias", vec![outputs]),
            ("adaLN_modulation.weight", vec![2 * h, c]),
            ("adaLN_modulation.bias", vec![2 * h]),
        ];
        blocks.chain(last.map(|(name, shape)| (format!("output_layer.{name}"), shape)))
    }
}

/// The network, with its head.
struct Dit {
    embedding: Tensor, // (vocab_size, hidden)
    cos: Tensor,       // (model_length, head dim / 2)
    sin: Tensor,
    blocks: Vec<Block>,
    last: Last,
    head: Option<(Vec<Block>, Last)>,
    device: Device,
}

impl Dit {
    fn new(config: &Config, weights: &Catalogue, head: Option<&Catalogue>, device: &Device) -> Loaded<Self> {
        let condition = condition(weights, device)?; // (1, cond_dim)
        let blocks = |from: &Catalogue| {
            let count = (0..).take_while(|n| from.has(&format!("blocks.{n}.norm1.weight"))).count();
            (0..count).map(|n| Block::new(config, from, n, &condition, device)).collect::<Loaded<Vec<_>>>()
        };
        let last = |from: &Catalogue| Last::new(from, &condition, device);
        let (cos, sin) = rotations(config, device)?;
        Ok(Self {
            embedding: weights.load("vocab_embed.embedding", device)?,
            cos,
            sin,
            blocks: blocks(weights)?,
            last: last(weights)?,
            head: head.map(|head| Ok::<_, LoadError>((blocks(head)?, last(head)?))).transpose()?,
            device: device.clone(),
        })
    }

    /// States of one row before the final norm, and after the head's own blocks: (asked, hidden) each.
    fn row(&self, pass: &Pass, PassRow { tokens, asked }: &PassRow) -> Result<(Tensor, Tensor)> {
        let ids = Tensor::new(&pass.ids[tokens.clone()], &self.device)?;
        let angles = |table: &Tensor| table.narrow(0, 0, tokens.len())?.unsqueeze(1); // (tokens, 1, head dim / 2)
        let (cos, sin) = (angles(&self.cos)?, angles(&self.sin)?);
        let through = |x: Tensor, blocks: &[Block]| blocks.iter().try_fold(x, |x, block| block.forward(&x, &cos, &sin));
        let x = through(self.embedding.index_select(&ids, 0)?, &self.blocks)?; // (tokens, hidden)
        let judged = match &self.head {
            Some((blocks, _)) => through(x.clone(), blocks)?,
            None => x.clone(),
        };
        #[allow(clippy::cast_possible_truncation)] // rows are short
        let asked: Vec<u32> = asked.iter().map(|position| *position as u32).collect();
        let asked = Tensor::new(asked, &self.device)?;
        Ok((x.index_select(&asked, 0)?, judged.index_select(&asked, 0)?))
    }
}

impl Network for Dit {
    /// Each row by itself, so that none can depend on the others.
    fn forward(&self, pass: &Pass) -> Result<States> {
        let rows = pass.rows.par_iter().filter(|row| !row.asked.is_empty()).map(|row| self.row(pass, row));
        let (hidden, judged): (Vec<_>, Vec<_>) = rows.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(States { hidden: Tensor::cat(&hidden, 0)?, judged: Tensor::cat(&judged, 0)? })
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.last.forward(hidden)
    }

    fn qualities(&self, judged: &Tensor) -> Result<Option<Vec<f32>>> {
        self.head.as_ref().map(|(_, last)| last.forward(judged)?.squeeze(D::Minus1)?.to_vec1()).transpose()
    }
}

/// What the network is told of sigma = 0, whose sinusoid is all cosines of 0 and sines of 0: (1, `cond_dim`).
fn condition(weights: &Catalogue, device: &Device) -> Loaded<Tensor> {
    let halves = [1.0f32, 0.0].map(|value| [value; SINUSOID / 2]).concat();
    let x = Tensor::new(halves, device)?.unsqueeze(0)?; // (1, SINUSOID)
    let x = affine(weights, "sigma_map.mlp.0", &x, device)?.silu()?;
    Ok(affine(weights, "sigma_map.mlp.2", &x, device)?.silu()?)
}

/// x W^T + b of a layer that is used once.
fn affine(weights: &Catalogue, name: &str, x: &Tensor, device: &Device) -> Loaded<Tensor> {
    let get = |part: &str| weights.load(&format!("{name}.{part}"), device);
    Ok(x.matmul(&get("weight")?.t()?)?.broadcast_add(&get("bias")?)?)
}

/// The vectors that adaLN makes of the condition, each (hidden).
fn modulation<const N: usize>(
    weights: &Catalogue,
    name: &str,
    condition: &Tensor,
    device: &Device,
) -> Loaded<[Tensor; N]> {
    let all = affine(weights, &format!("{name}.adaLN_modulation"), condition, device)?.squeeze(0)?; // (N hidden)
    let width = all.elem_count() / N;
    let parts: Vec<Tensor> = (0..N).map(|n| all.narrow(0, n * width, width)).collect::<Result<_>>()?;
    parts.try_into().map_err(|_| LoadError::Failed("adaLN has other parts".to_owned()))
}

/// norm(x) (1 + scale) + shift.
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(weight: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Self> {
        Ok(Self { weight: (weight * scale.affine(1.0, 1.0)?)?, bias: shift.contiguous()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, EPSILON)
    }
}

/// One DDiT block.
struct Block {
    norm1: Norm,
    attn_qkv: Linear,
    attn_out: Linear, // gated
    norm2: Norm,
    mlp_in: Linear,
    mlp_in_bias: Tensor,
    mlp_out: Linear,      // gated
    mlp_out_bias: Tensor, // gated
    heads: usize,
}

impl Block {
    fn new(config: &Config, weights: &Catalogue, n: usize, condition: &Tensor, device: &Device) -> Loaded<Self> {
        let get = |name: &str| weights.load(&format!("blocks.{n}.{name}"), device);
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp] =
            modulation(weights, &format!("blocks.{n}"), condition, device)?;
        let gated = |name: &str, gate: &Tensor| Ok::<_, LoadError>(get(name)?.broadcast_mul(&gate.unsqueeze(1)?)?);
        Ok(Self {
            norm1: Norm::new(&get("norm1.weight")?, &shift_msa, &scale_msa)?,
            attn_qkv: Linear::new(&get("attn_qkv.weight")?)?,
            attn_out: Linear::new(&gated("attn_out.weight", &gate_msa)?)?,
            norm2: Norm::new(&get("norm2.weight")?, &shift_mlp, &scale_mlp)?,
            mlp_in: Linear::new(&get("mlp.0.weight")?)?,
            mlp_in_bias: get("mlp.0.bias")?,
            mlp_out: Linear::new(&gated("mlp.2.weight", &gate_mlp)?)?,
            mlp_out_bias: (get("mlp.2.bias")? * gate_mlp)?,
            heads: config.n_heads,
        })
    }

    /// `x` (tokens, hidden) of a whole row, `cos` and `sin` (tokens, 1, head dim / 2).
    fn forward(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        let qkv = self.attn_qkv.forward(&self.norm1.forward(x)?)?; // (tokens, 3 hidden)
        let heads = |n: usize| {
            let part = qkv.narrow(1, n * hidden, hidden)?.contiguous()?;
            part.reshape((tokens, self.heads, hidden / self.heads)) // (tokens, heads, head dim)
        };
        // each token is a batch entry of length one, so that each has angles of its own
        let rotated = |x: Tensor| rotary_emb::rope_thd(&x.unsqueeze(1)?, cos, sin)?.squeeze(1);
        let (q, k, v) = (rotated(heads(0)?)?, rotated(heads(1)?)?, heads(2)?);
        let mixed = attention(&q, &k, &v, &[Span { queries: 0..tokens, keys: 0..tokens }])?; // (tokens, hidden)
        let x = (x + self.attn_out.forward(&mixed)?)?;

        let inner = self.mlp_in.forward(&self.norm2.forward(&x)?)?.broadcast_add(&self.mlp_in_bias)?.gelu()?;
        x + self.mlp_out.forward(&inner)?.broadcast_add(&self.mlp_out_bias)? // (tokens, hidden)
    }
}

/// The final norm and a linear layer, of a backbone or of a head.
struct Last {
    norm: Norm,
    linear: Linear,
    bias: Tensor,
}

impl Last {
    fn new(weights: &Catalogue, condition: &Tensor, device: &Device) -> Loaded<Self> {
        let get = |name: &str| weights.load(&format!("output_layer.{name}"), device);
        let [shift, scale] = modulation(weights, "output_layer", condition, device)?;
        Ok(Self {
            norm: Norm::new(&get("norm_final.weight")?, &shift, &scale)?,
            linear: Linear::new(&get("linear.weight")?)?,
            bias: get("linear.bias")?,
        })
    }

    /// (states, hidden) to (states, outputs).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear.forward(&self.norm.forward(x)?)?.broadcast_add(&self.bias)
    }
}

/// Cosines and sines of every position's angles, the halves of a head being the pairs: (`model_length`, head dim / 2) each.
fn rotations(config: &Config, device: &Device) -> Result<(Tensor, Tensor)> {
    let head_dim = config.hidden_dim / config.n_heads;
    #[allow(clippy::cast_precision_loss)] // head widths and positions are far below 2^24
    let frequency = |i: usize| ROPE_THETA.powf(2.0 * i as f32 / head_dim as f32).recip();
    #[allow(clippy::cast_precision_loss)]
    let angles = (0..config.model_length).flat_map(|t| (0..head_dim / 2).map(move |i| t as f32 * frequency(i)));
    let angles = Tensor::from_iter(angles, &Device::Cpu)?.reshape((config.model_length, head_dim / 2))?;
    Ok((angles.cos()?.to_device(device)?, angles.sin()?.to_device(device)?))
}
