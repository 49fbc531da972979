//! From canvases to readings: packs rows into one pass, asks the output layer about blanks and the quality head
//! about filled cells, and nobody about anything else. Refuses to know what a block of the network does.

use crate::diffusion::{Cell, Draws, Position, Probability, Proposal, Purpose, Reading, Review, TokenId};
use crate::model::backend::cpu::sampling::Noise;
use crate::model::backend::cpu::summary::{Summary, Vocabulary, biased, summarise_among};
use crate::model::backend::cuda::summary::{self, Ask};
use crate::model::network::{Network, Pass, States};
use crate::model::{Batch, Denoiser, Filter, Inspection, ModelError, ModelSpec, Row};
use candle_core::utils::with_threadpool;
use candle_core::{DType, Storage, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;

/// Cells whose logits a thread holds at once: 32 MB over LLaDA's vocabulary, twice that with guidance. More would
/// gain no speed.
const STATES_MAX: usize = 64;

/// The same on a GPU: 260 MB of bf16 over LLaDA's vocabulary, and seldom more than one chunk a pass, each of which the host
/// waits for.
const STATES_MAX_THERE: usize = 1024;

/// A network of any family, with or without a quality head.
pub(crate) struct NetworkDenoiser {
    network: Box<dyn Network>,
    spec: ModelSpec,
    vocabulary: Vocabulary,
}

/// A blank to be proposed for; `state` and `unguided` index the states of the pass.
struct Blank {
    row: usize,
    at: Position,
    state: usize,
    unguided: Option<usize>,
}

/// A filled cell to be reviewed.
struct Filled {
    row: usize,
    at: Position,
    state: usize,
}

impl NetworkDenoiser {
    pub(crate) fn new(network: Box<dyn Network>, spec: ModelSpec) -> Self {
        let vocabulary = Vocabulary { size: spec.vocabulary as usize, mask: spec.mask.0 as usize };
        Self { network, spec, vocabulary }
    }

    /// The pass that answers `batch`, and what its states are for.
    fn plan(&self, batch: &Batch<'_>) -> (Pass, Vec<Blank>, Vec<Filled>) {
        let (mut pass, mut blanks, mut filled) = (Pass::default(), Vec::new(), Vec::new());
        for (index, row) in batch.iter().enumerate() {
            let unmasked: Vec<usize> = row.canvas.blanks(row.window.clone()).map(Position::index).collect();
            let reviewed = if row.review { row.window.clone() } else { 0..0 };
            let reviewed = row.canvas.filled(reviewed).map(|(at, _)| at.index());
            let mut asked: Vec<usize> = unmasked.iter().copied().chain(reviewed).collect();
            asked.sort_unstable();
            if asked.is_empty() {
                continue;
            }
            let states = pass.push(self.ids(row, |token| token), asked.clone())..;
            let mut twins = match row.guidance {
                Some(_) if !unmasked.is_empty() => {
                    let first = pass.push(self.ids(row, |_| self.spec.mask), unmasked.clone());
                    first..first + unmasked.len()
                }
                Some(_) | None => 0..0,
            };
            for (state, at) in states.zip(asked.into_iter().map(Position::at)) {
                match row.canvas.cells()[at.index()] {
                    Cell::Blank => blanks.push(Blank { row: index, at, state, unguided: twins.next() }),
                    Cell::Filled(_) => filled.push(Filled { row: index, at, state }),
                    Cell::Fixed(_) => {}
                }
            }
        }
        (pass, blanks, filled)
    }

    /// The row as the network sees it, fixed tokens through `fixed`.
    fn ids<'a>(&self, row: &'a Row<'_>, fixed: impl Fn(TokenId) -> TokenId + 'a) -> impl Iterator<Item = u32> + 'a {
        let mask = self.spec.mask;
        row.canvas.cells().iter().map(move |cell| match cell {
            Cell::Blank => mask.0,
            Cell::Filled(token) => token.0,
            Cell::Fixed(token) => fixed(*token).0,
        })
    }

    fn propose(&self, batch: &Batch<'_>, hidden: &Tensor, blanks: &[Blank]) -> Result<Vec<Proposal>, ModelError> {
        let twins = blanks.iter().filter_map(|blank| blank.unguided);
        let states: Vec<usize> = blanks.iter().map(|blank| blank.state).chain(twins).collect();
        let logits = self.network.logits(&select(hidden, &states)?)?; // (states, embedding_size)
        if !logits.device().is_cpu() {
            return self.propose_there(batch, &logits, blanks);
        }
        let width = logits.dim(1)?;
        let logits = logits.to_device(&candle_core::Device::Cpu)?;
        let (storage, _) = logits.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(ModelError::Failed("logits did not arrive on the CPU".to_owned()));
        };
        let mut rows = storage.as_slice::<f32>()?.chunks_exact(width);
        let logits: Vec<&[f32]> = rows.by_ref().take(blanks.len()).collect();
        let twins: Vec<Option<&[f32]>> = blanks.iter().map(|blank| blank.unguided.and_then(|_| rows.next())).collect();

        let proposals = blanks.par_iter().zip(logits).zip(twins).map(|((blank, logits), twin)| {
            let row = &batch[blank.row];
            let logits = match row.guidance.zip(twin) {
                Some((weight, unguided)) => Cow::Owned(guide(logits, unguided, weight)),
                None => Cow::Borrowed(logits),
            };
            let (logits, noise) = (biased(logits, row.biases), noise(row, blank.at));
            let summary = summarise_among(row.allowed(blank.at), &logits, self.vocabulary, noise);
            summary.map(|summary| proposal(blank.at, summary)).ok_or_else(|| self.not_finite("a logit"))
        });
        proposals.collect()
    }

    /// The same for logits on a GPU: what comes to the host is a few words a blank.
    fn propose_there(&self, batch: &Batch<'_>, logits: &Tensor, blanks: &[Blank]) -> Result<Vec<Proposal>, ModelError> {
        let rows = || blanks.iter().map(|blank| (&batch[blank.row], blank));
        let asks: Vec<Ask<'_>> =
            rows().map(|(row, blank)| Ask { noise: noise(row, blank.at), biases: row.biases }).collect();
        let own = logits.narrow(0, 0, blanks.len())?; // (blanks, embedding_size)
        let logits = if rows().any(|(row, blank)| row.guidance.is_some() && blank.unguided.is_some()) {
            let mut twins = blanks.len()..;
            #[allow(clippy::cast_possible_truncation)] // a chunk holds few states
            let twin = |(index, blank): (usize, &Blank)| match blank.unguided {
                Some(_) => twins.next().unwrap_or(index) as u32,
                None => index as u32,
            };
            let twins: Vec<u32> = blanks.iter().enumerate().map(twin).collect();
            let weights: Vec<f32> = rows().map(|(row, _)| 1.0 + row.guidance.unwrap_or(0.0)).collect();
            let unguided = logits.index_select(&Tensor::new(twins, logits.device())?, 0)?.to_dtype(DType::F32)?;
            let weights = Tensor::new(weights, logits.device())?.unsqueeze(1)?; // (blanks, 1)
            let step = (own.to_dtype(DType::F32)? - &unguided)?.broadcast_mul(&weights)?;
            (unguided + step)?
        } else {
            own
        };
        let mut summaries = kernels::summarise(&logits, self.vocabulary, &asks)?;
        // finding the likeliest of a few is for the host: rows that ask for it come over whole
        let is_filtered = |ask: &Ask<'_>| ask.noise.is_some_and(|noise| noise.filter != Filter::ALL);
        for ((index, ask), (row, blank)) in asks.iter().enumerate().zip(rows()) {
            let only = row.allowed(blank.at);
            if only.is_some() || is_filtered(ask) {
                let logits = logits.get(index)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                let logits = biased(logits.into(), ask.biases);
                summaries[index] = summarise_among(only, &logits, self.vocabulary, ask.noise);
            }
        }
        let proposals = blanks.iter().zip(summaries).map(|(blank, summary)| {
            summary.map(|summary| proposal(blank.at, summary)).ok_or_else(|| self.not_finite("a logit"))
        });
        proposals.collect()
    }

    fn review(&self, judged: &Tensor, filled: &[Filled]) -> Result<Vec<Review>, ModelError> {
        let states: Vec<usize> = filled.iter().map(|cell| cell.state).collect();
        let qualities = self.network.qualities(&select(judged, &states)?)?.unwrap_or_default();
        let reviews = filled.iter().zip(qualities).map(|(cell, logit)| {
            let finite = if logit.is_finite() { Probability::rounded(sigmoid(logit)) } else { None };
            let quality = finite.ok_or_else(|| self.not_finite("a quality"))?;
            Ok(Review { at: cell.at, quality })
        });
        reviews.collect()
    }

    fn not_finite(&self, what: &'static str) -> ModelError {
        ModelError::NotFinite { what, dtype: self.spec.dtype.clone() }
    }

    /// What admission should have refused is refused here too: an id without an embedding must not reach the network.
    fn check(&self, row: &Row<'_>) -> Result<(), ModelError> {
        let spec = &self.spec;
        if row.canvas.len() > spec.canvas_max {
            let (given, allowed) = (row.canvas.len(), spec.canvas_max);
            return Err(ModelError::Unsupported(format!(
                "a canvas of {given} cells; this model reads up to {allowed}"
            )));
        }
        let mut tokens = row.canvas.cells().iter().filter_map(|cell| cell.token());
        if let Some(TokenId(id)) = tokens.find(|token| token.0 >= spec.vocabulary) {
            let size = spec.vocabulary;
            return Err(ModelError::Unsupported(format!("token id {id}; this model's ids are below {size}")));
        }
        if let Some((token, bias)) = row
            .biases
            .iter()
            .find(|(token, bias)| token.0 >= spec.vocabulary || bias.is_nan() || *bias == f32::INFINITY)
        {
            let (size, id) = (spec.vocabulary, token.0);
            return Err(ModelError::Unsupported(format!(
                "a bias of {bias} for token {id}; ids are below {size}, and a bias is finite or minus infinity"
            )));
        }
        let is_writable = |token: &TokenId| token.0 < spec.vocabulary && *token != spec.mask;
        if let Some(only) = row.only.iter().find(|only| only.tokens.is_empty() || !only.tokens.iter().all(is_writable))
        {
            let (cells, size, tokens) = (&only.cells, spec.vocabulary, &only.tokens);
            return Err(ModelError::Unsupported(format!(
                "only {tokens:?} in the cells {cells:?}; give at least one id below {size} that is not the mask"
            )));
        }
        if row.review && !self.spec.has_quality {
            return Err(ModelError::Unsupported("reviews need a model with a quality head".to_owned()));
        }
        match row.guidance {
            Some(weight) if !weight.is_finite() => {
                Err(ModelError::Unsupported(format!("a guidance weight of {weight}; it must be finite")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn read_all(&self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError> {
        batch.iter().try_for_each(|row| self.check(row))?;
        let mut readings = vec![Reading::default(); batch.len()];
        let (pass, blanks, filled) = self.plan(batch);
        if pass.asked() == 0 {
            return Ok(readings);
        }
        let States { hidden, judged } = self.network.forward(&pass)?; // (asked, width) each
        let proposals = if hidden.device().is_cpu() {
            let chunks = blanks.par_chunks(STATES_MAX).map(|chunk| self.propose(batch, &hidden, chunk));
            chunks.collect::<Result<Vec<_>, _>>()?
        } else {
            let chunks = blanks.chunks(STATES_MAX_THERE).map(|chunk| self.propose(batch, &hidden, chunk));
            chunks.collect::<Result<Vec<_>, _>>()?
        };
        for (blank, proposal) in blanks.iter().zip(proposals.into_iter().flatten()) {
            readings[blank.row].proposals.push(proposal);
        }
        let chunks = filled.par_chunks(STATES_MAX).map(|chunk| self.review(&judged, chunk));
        let reviews = chunks.collect::<Result<Vec<_>, _>>()?;
        for (cell, review) in filled.iter().zip(reviews.into_iter().flatten()) {
            readings[cell.row].reviews.push(review);
        }
        Ok(readings)
    }

    fn inspect_all(&self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        let cells = ids.iter().map(|id| if *id == self.spec.mask { Cell::Blank } else { Cell::Fixed(*id) });
        let canvas = crate::diffusion::Canvas::new(cells.collect());
        let sampling =
            crate::model::Sampling { temperature: 0.0, seed: crate::diffusion::Seed(0), step: 0, filter: Filter::ALL };
        self.check(&Row {
            canvas: &canvas,
            window: 0..0,
            sampling,
            guidance: None,
            biases: &[],
            only: &[],
            review: false,
        })?;
        if ids.is_empty() {
            let quality_logits = self.spec.has_quality.then(Vec::new);
            return Ok(Inspection { logits: Vec::new(), hidden: Vec::new(), quality_logits });
        }
        let mut pass = Pass::default();
        pass.push(ids.iter().map(|id| id.0), (0..ids.len()).collect());
        let States { hidden, judged } = self.network.forward(&pass)?; // (positions, width) each
        let logits = self.network.logits(&hidden)?.narrow(1, 0, self.vocabulary.size)?; // (positions, vocab_size)
        Ok(Inspection {
            logits: logits.to_dtype(DType::F32)?.to_vec2()?,
            hidden: hidden.to_dtype(DType::F32)?.to_vec2()?,
            quality_logits: self.network.qualities(&judged)?,
        })
    }
}

impl Denoiser for NetworkDenoiser {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError> {
        with_threadpool(|| self.read_all(batch))
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        with_threadpool(|| self.inspect_all(ids))
    }
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        let message = error.to_string();
        match message.to_lowercase().replace('_', " ").contains("out of memory") {
            true => Self::OutOfMemory(message),
            false => Self::Failed(message),
        }
    }
}

/// Rows of `hidden` (states, `d_model`), a lone one twice: products with a vector add up in another order than
/// products with a matrix, and a blank's numbers must not tell whether others were asked about with it.
fn select(hidden: &Tensor, states: &[usize]) -> candle_core::Result<Tensor> {
    let lone = if states.len() == 1 { states.first() } else { None };
    #[allow(clippy::cast_possible_truncation)] // a pass holds fewer than 2^32 tokens
    let states: Vec<u32> = states.iter().chain(lone).map(|&state| state as u32).collect();
    hidden.index_select(&Tensor::new(states, hidden.device())?, 0)
}

fn proposal(at: Position, summary: Summary) -> Proposal {
    let Summary { token, confidence, margin, entropy } = summary;
    Proposal { at, token: TokenId(token), confidence, margin, entropy }
}

fn noise(row: &Row<'_>, at: Position) -> Option<Noise> {
    let sampling = row.sampling;
    (sampling.temperature > 0.0).then(|| Noise {
        filter: sampling.filter,
        temperature: f64::from(sampling.temperature),
        draws: Draws::new(sampling.seed, Purpose::Token, sampling.step, at),
    })
}

/// Classifier-free guidance: l = `l_u` + (1 + w) (l - `l_u`) (LLaDA, arXiv 2502.09992, appendix A.2).
fn guide(logits: &[f32], unguided: &[f32], weight: f32) -> Vec<f32> {
    logits.iter().zip(unguided).map(|(l, u)| u + (1.0 + weight) * (l - u)).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
