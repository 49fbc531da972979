//! From canvases to readings: packs rows into one pass, asks the output layer about blanks and the quality head
//! about filled cells, and nobody about anything else. Refuses to know what a block of the network does.

use super::config::Config;
use super::head::Head;
use super::llada::{Llada, Pass};
use super::summary::{Noise, Summary, Vocabulary, summarise};
use super::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Row};
use crate::diffusion::{Cell, Draws, Position, Probability, Proposal, Purpose, Reading, Review, TokenId};
use candle_core::Tensor;
use candle_core::utils::with_threadpool;
use rayon::prelude::*;

/// States that go through the output layer or the head at once: logits of 256 positions over LLaDA's vocabulary
/// are 130 MB, more would gain nothing.
const STATES_MAX: usize = 256;

/// A LLaDA network with or without a quality head.
pub(super) struct LladaDenoiser {
    model: Llada,
    head: Option<Head>,
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

impl LladaDenoiser {
    pub(super) fn new(config: &Config, model: Llada, head: Option<Head>, spec: ModelSpec) -> Self {
        let vocabulary = Vocabulary { size: config.vocab_size, mask: config.mask.0 as usize };
        Self { model, head, spec, vocabulary }
    }

    /// The pass that answers `batch`, and what its states are for.
    fn plan(&self, batch: &Batch<'_>) -> (Pass, Vec<Blank>, Vec<Filled>) {
        let (mut pass, mut blanks, mut filled) = (Pass::default(), Vec::new(), Vec::new());
        for (index, row) in batch.iter().enumerate() {
            let asked_blanks: Vec<Position> = row.canvas.blanks(row.window.clone()).collect();
            let reviewed = if row.review { row.window.clone() } else { 0..0 };
            let asked_filled: Vec<Position> = row.canvas.filled(reviewed).map(|(at, _)| at).collect();
            if asked_blanks.is_empty() && asked_filled.is_empty() {
                continue;
            }
            let asked = asked_blanks.iter().chain(&asked_filled).map(|at| at.0);
            let first = pass.push(self.ids(row, |token| token), asked);
            let unguided = match row.guidance {
                Some(_) if !asked_blanks.is_empty() => {
                    Some(pass.push(self.ids(row, |_| self.spec.mask), asked_blanks.iter().map(|at| at.0)))
                }
                Some(_) | None => None,
            };
            let states = (0..).zip(&asked_blanks);
            blanks.extend(states.map(|(offset, &at)| Blank {
                row: index,
                at,
                state: first + offset,
                unguided: unguided.map(|first| first + offset),
            }));
            let states = (first + asked_blanks.len()..).zip(asked_filled);
            filled.extend(states.map(|(state, at)| Filled { row: index, at, state }));
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
        let guided = blanks.iter().filter_map(|blank| blank.unguided);
        let states: Vec<usize> = blanks.iter().map(|blank| blank.state).chain(guided).collect();
        let logits = self.model.logits(&select(hidden, &states)?)?; // (states, embedding_size)
        let width = logits.dim(1)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let of = |index: usize| &logits[index * width..(index + 1) * width];

        // the unguided states follow the others, in the order of their blanks
        let mut next = blanks.len()..;
        let sources: Vec<_> = blanks.iter().map(|blank| blank.unguided.and_then(|_| next.next())).collect();
        let proposals = blanks.par_iter().enumerate().map(|(index, blank)| {
            let row = &batch[blank.row];
            let noise = noise(row, blank.at);
            let summary = match (row.guidance, sources[index]) {
                (Some(weight), Some(source)) => {
                    summarise(&guide(of(index), of(source), weight), self.vocabulary, noise)
                }
                (Some(_) | None, None) | (None, Some(_)) => summarise(of(index), self.vocabulary, noise),
            };
            let Summary { token, confidence, margin, entropy } = summary.ok_or_else(|| self.not_finite("a logit"))?;
            Ok(Proposal { at: blank.at, token: TokenId(token), confidence, margin, entropy })
        });
        proposals.collect()
    }

    fn review(&self, head: &Head, hidden: &Tensor, filled: &[Filled]) -> Result<Vec<Review>, ModelError> {
        let states: Vec<usize> = filled.iter().map(|cell| cell.state).collect();
        let qualities = head.forward(&select(hidden, &states)?)?;
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
        if row.review && self.head.is_none() {
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
        if pass.asked.is_empty() {
            return Ok(readings);
        }
        let hidden = self.model.forward(&pass)?; // (asked, d_model)
        for blanks in blanks.chunks(STATES_MAX) {
            for (blank, proposal) in blanks.iter().zip(self.propose(batch, &hidden, blanks)?) {
                readings[blank.row].proposals.push(proposal);
            }
        }
        for (head, filled) in self.head.iter().flat_map(|head| filled.chunks(STATES_MAX).map(move |c| (head, c))) {
            for (cell, review) in filled.iter().zip(self.review(head, &hidden, filled)?) {
                readings[cell.row].reviews.push(review);
            }
        }
        Ok(readings)
    }

    fn inspect_all(&self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        let cells = ids.iter().map(|id| if *id == self.spec.mask { Cell::Blank } else { Cell::Fixed(*id) });
        let canvas = crate::diffusion::Canvas::new(cells.collect());
        let sampling = super::Sampling { temperature: 0.0, seed: crate::diffusion::Seed(0), step: 0 };
        self.check(&Row { canvas: &canvas, window: 0..0, sampling, guidance: None, review: false })?;
        if ids.is_empty() {
            let quality_logits = self.head.as_ref().map(|_| Vec::new());
            return Ok(Inspection { logits: Vec::new(), hidden: Vec::new(), quality_logits });
        }
        let mut pass = Pass::default();
        pass.push(ids.iter().map(|id| id.0), (0..).take(ids.len()));
        let hidden = self.model.forward(&pass)?; // (positions, d_model)
        let logits = self.model.logits(&hidden)?.narrow(1, 0, self.vocabulary.size)?; // (positions, vocab_size)
        Ok(Inspection {
            logits: logits.to_vec2()?,
            hidden: hidden.to_vec2()?,
            quality_logits: self.head.as_ref().map(|head| head.forward(&hidden)).transpose()?,
        })
    }
}

impl Denoiser for LladaDenoiser {
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
        Self::Failed(error.to_string())
    }
}

/// Rows of `hidden` (states, `d_model`).
fn select(hidden: &Tensor, states: &[usize]) -> candle_core::Result<Tensor> {
    #[allow(clippy::cast_possible_truncation)] // a pass holds fewer than 2^32 tokens
    let states: Vec<u32> = states.iter().map(|&state| state as u32).collect();
    hidden.index_select(&Tensor::new(states, hidden.device())?, 0)
}

fn noise(row: &Row<'_>, at: Position) -> Option<Noise> {
    let sampling = row.sampling;
    (sampling.temperature > 0.0).then(|| Noise {
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
