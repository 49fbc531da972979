//! From canvases to readings: packs rows into one pass, runs the output layer on the blanks and the
//! quality head on the filled cells. Out of scope: the network's layers, and devices.

use super::backend::cost::{Cost, Speed};
use super::backend::counts::Counts;
use super::backend::inputs::{Inputs, part};
use super::backend::speed::measure;
use super::backend::summary::{Answers, Asks, Guidance, SummaryOptions, Vocabulary, log_probabilities, sigmoid};
use super::backend::{Backend, Computed};
use super::error::{ModelError, RowError};
use super::interface::{Batch, Denoiser, Inspection, KeptStates, Readings};
use super::kv_store::KvStore;
use super::network::{Network, Pass, Scope};
use super::placing::Placing;
use super::plan::{Asked, Placings, Plan, Planner, Question};
use super::row::{Row, SequenceName};
use super::spec::ModelSpec;
use super::states::Wanted;
use crate::diffusion::policy::Scoring;
use crate::diffusion::{Canvas, Cell, Distribution, Present, Probability, Reading, Review, Score, TokenId, u32_of};
use candle_core::{DType, Tensor, utils::with_threadpool};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// A network of any family, with or without a quality head.
pub(crate) struct NetworkDenoiser {
    pub(super) network: Box<dyn Network>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) spec: ModelSpec,
    vocabulary: Vocabulary,
    kv_store: KvStore,
}

/// A chunk of cells that the output layer runs on.
struct Readout<'a> {
    /// The place of the indices of their states among the inputs.
    index: Range<usize>,
    asks: Asks<'a>,
    /// The place of the indices of the logits that come to the host as they are, if there are any.
    whole_rows: Option<Range<usize>>,
}

/// Indices of states that are multiplied with matrices.
///
/// A lone one comes twice: products with a vector add up in another order than products with a
/// matrix, and the numbers of a state must not depend on whether others are read with it.
fn whole(states: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut states: Vec<u32> = states.map(u32_of).collect();
    if let [lone] = states[..] {
        states.push(lone);
    }
    states
}

/// Whether all logits of a cell come to the host.
fn is_whole(batch: &Batch<'_>, cell: &Asked) -> bool {
    let Row { distributions, scores, .. } = &batch[cell.row];
    let is_scored = *scores == Some(Scoring::Logit);
    match cell.question {
        Question::Proposal => *distributions || is_scored,
        Question::Present(_) => is_scored,
        Question::LeftOut(_) | Question::Best | Question::Quality => false,
    }
}

/// The numbers of chunks (of `lengths`, laid end to end), of each the first few (`counts`).
fn unfilled<T>(numbers: Vec<T>, lengths: impl Iterator<Item = usize>, counts: impl Iterator<Item = usize>) -> Vec<T> {
    let mut numbers = numbers.into_iter();
    let mut kept = Vec::new();
    for (length, count) in lengths.zip(counts) {
        let chunk = numbers.by_ref().take(length);
        kept.extend(chunk.enumerate().filter(|(at, _)| *at < count).map(|(_, number)| number));
    }
    kept
}

impl NetworkDenoiser {
    /// `cache_bytes`: most bytes of keys and values that are kept; `None` is a share of the memory
    /// that is free.
    pub(crate) fn new(
        network: Box<dyn Network>,
        backend: Arc<dyn Backend>,
        spec: ModelSpec,
        cache_bytes: Option<u64>,
    ) -> Self {
        let vocabulary = Vocabulary { size: spec.vocabulary as usize, mask: spec.mask.0 as usize };
        let kv_store = KvStore::new(network.keeps(), cache_bytes, &*backend);
        Self { network, backend, spec, vocabulary, kv_store }
    }

    /// Adds what a chunk of cells needs of the output layer to the inputs.
    fn ask<'a>(&self, batch: &'a Batch<'_>, cells: &'a [Asked], inputs: &mut Inputs) -> Readout<'a> {
        // the cells' own states, then their unguided ones
        let unguided = cells.iter().filter_map(|cell| cell.unguided);
        let index = inputs.add(whole(cells.iter().map(|cell| cell.state).chain(unguided)));
        let mut next_unguided = cells.len()..;
        let options = cells.iter().map(|cell| {
            let row = &batch[cell.row];
            let unguided = cell.unguided.and_then(|_| next_unguided.next());
            let guidance = row.guidance.zip(unguided).map(|(weight, unguided)| Guidance { weight, unguided });
            let (biases, only) = (row.biases, row.allowed(cell.at));
            let plain = SummaryOptions { biases, only, guidance, ..SummaryOptions::default() };
            match &cell.question {
                Question::Proposal => {
                    let biases = row.blank_biases.unwrap_or(row.biases);
                    let credit = row.credit.map(|credits| credits.at(cell.at));
                    SummaryOptions { noise: row.sampling.noise(cell.at), biases, credit, ..plain }
                }
                Question::Present(token) | Question::LeftOut(token) => {
                    SummaryOptions { only: Some(std::slice::from_ref(token)), ..plain }
                }
                Question::Best | Question::Quality => plain,
            }
        });
        let asks = self.backend.ask(options.collect(), inputs);
        let asked: Vec<u32> =
            cells.iter().zip(0..).filter(|(cell, _)| is_whole(batch, cell)).map(|(_, row)| row).collect();
        let whole_rows = (!asked.is_empty()).then(|| inputs.add(asked));
        Readout { index, asks, whole_rows }
    }

    /// What the output layer says about cells, and the logits that come to the host as they are:
    /// (rows * vocabulary).
    fn read_out(
        &self,
        hidden: &Tensor,
        readout: &Readout<'_>,
        inputs: &Tensor,
    ) -> candle_core::Result<(Answers, Option<Tensor>)> {
        let states = self.backend.gather(hidden, &part(inputs, &readout.index)?)?;
        let logits = self.network.logits(&states)?; // (states, embedding_size)
        let rows = |place: &Range<usize>| {
            let rows = self.backend.gather(&logits, &part(inputs, place)?)?; // (rows, embedding_size)
            rows.narrow(1, 0, self.vocabulary.size)?.to_dtype(DType::F32)?.flatten_all()
        };
        let rows = readout.whole_rows.as_ref().map(rows).transpose()?;
        Ok((self.backend.summaries(&logits, self.vocabulary, &readout.asks, inputs)?, rows))
    }

    /// What the quality head says of states, before the sigmoid: (states); `None` without a head.
    fn review(&self, judged: &Tensor, index: &Range<usize>, inputs: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.network.qualities(&self.backend.gather(judged, &part(inputs, index)?)?)
    }

    fn planner(&self) -> Planner<'_> {
        let (sight, outputs) = (self.network.sight(), self.network.outputs());
        Planner { sight, outputs, mask: self.spec.mask, pages: &self.kv_store.pages }
    }

    /// How the rows of a pass are computed, with room for what they keep.
    fn place(&mut self, batch: &Batch<'_>, readings: &Readings) -> Vec<Placings> {
        self.kv_store.begin();
        let of_row = |(row, reading): (&Row<'_>, &Result<Reading, RowError>)| match reading {
            Ok(_) => self.planner().placings(row),
            Err(_) => [None, None],
        };
        let mut placings: Vec<Placings> = batch.iter().zip(readings).map(of_row).collect();
        // what a row uses is not to make room for what another one keeps
        placings.iter().flatten().flatten().for_each(|placing| self.kv_store.pages.touch(placing.key()));
        for (row, placings) in batch.iter().zip(&mut placings) {
            for (which, placing) in placings.iter_mut().enumerate() {
                let has_room = placing.as_mut().is_none_or(|placing| placing.reserve(&mut self.kv_store.pages));
                if !has_room {
                    *placing = self.planner().placings(row)[which].take();
                }
            }
        }
        placings
    }

    fn read_all(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        let read = |row: &Row<'_>| row.check(&self.spec).map(|()| Reading::default());
        let readings: Readings = batch.iter().map(read).collect();
        if batch.iter().any(|row| row.reuse.is_some()) {
            self.kv_store.set_up(&*self.backend)?;
        }
        let placings = self.place(batch, &readings);
        let plan = self.planner().plan(batch, &readings, &placings);
        let is_reusing = placings.iter().flatten().any(Option::is_some);
        let readings = match plan.pass.asked {
            0 => readings,
            _ => self.read_planned(batch, readings, &plan, is_reusing)?,
        };
        self.kv_store.end();
        Ok(readings)
    }

    fn read_planned(
        &self,
        batch: &Batch<'_>,
        mut readings: Readings,
        Plan { pass, readouts, reviewed }: &Plan,
        is_reusing: bool,
    ) -> Result<Readings, ModelError> {
        let (mut inputs, most) = (self.backend.inputs(), self.backend.states_max());
        let keeping = self.backend.lay_out_kept(pass.kept(), &mut inputs);
        let kv_layers = is_reusing.then(|| self.kv_store.kv_layers(keeping));
        let plan = self.network.plan(pass, &mut inputs);
        let asked: Vec<Readout<'_>> = readouts.chunks(most).map(|cells| self.ask(batch, cells, &mut inputs)).collect();
        let index = |cells: &[Asked]| inputs.add(whole(cells.iter().map(|cell| cell.state)));
        let judged: Vec<Range<usize>> = reviewed.chunks(most).map(index).collect();
        let whole_rows: Vec<usize> =
            asked.iter().map(|readout| readout.whole_rows.as_ref().map_or(0, Range::len)).collect();
        inputs.shape.extend([asked.len(), judged.len()]);
        let layers = &[self.network.judges()][..usize::from(!judged.is_empty())];
        let wanted = Wanted { hidden: !asked.is_empty(), layers };
        inputs.brings_rows = whole_rows.iter().any(|rows| *rows > 0);
        let (summaries, mut numbers) = self.backend.pass(&inputs, &|inputs| {
            let states = self.network.run(&plan, inputs, kv_layers.as_ref(), wanted)?;
            let answers = self.backend.each(&asked, |_, readout| self.read_out(states.hidden()?, readout, inputs))?;
            let review = |states: &Tensor| self.backend.each(&judged, |_, index| self.review(states, index, inputs));
            let qualities = states.judged.first().map(review).transpose()?.unwrap_or_default();
            let (answers, rows): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
            // the logits follow the qualities, in the same copy
            Ok(Computed { answers, qualities: qualities.into_iter().chain(rows).flatten().collect() })
        })?;
        let logits =
            numbers.split_off(numbers.len().saturating_sub(whole_rows.iter().sum::<usize>() * self.vocabulary.size));
        let qualities = numbers;
        // what fills up a chunk is passed over
        let chunks = asked.iter().map(|readout| readout.asks.rows());
        let summaries = unfilled(summaries, chunks, readouts.chunks(most).map(<[Asked]>::len));
        let chunks = judged.iter().map(Range::len);
        let qualities = unfilled(qualities, chunks, reviewed.chunks(most).map(<[Asked]>::len));
        for (&Asked { row, at, question, .. }, summary) in readouts.iter().zip(summaries) {
            self.record(&mut readings[row], "a logit", summary, |reading, summary| match question {
                Question::Proposal => {
                    reading.proposals.push(summary.proposal(at));
                    reading.favourites.extend(summary.favourite(at));
                }
                Question::Present(_) if !batch[row].present => {} // its logit is asked for
                Question::Present(_) => reading.present.push(Present { at, confidence: summary.confidence }),
                Question::LeftOut(_) => reading.reviews.push(Review { at, quality: summary.confidence }),
                Question::Best => reading.best.push(summary.best(at)),
                Question::Quality => {} // not of the output layer
            });
        }
        self.record_distributions(batch, readouts.chunks(most).zip(whole_rows), &logits, &mut readings);
        for (&Asked { row, at, .. }, logit) in reviewed.iter().zip(qualities) {
            let quality = if logit.is_finite() { Probability::rounded(sigmoid(logit)) } else { None };
            let asked = &batch[row];
            let is_review = asked.review && !asked.exact && asked.seen().cells()[at.index()] != Cell::Blank;
            self.record(&mut readings[row], "a quality", quality, |reading, quality| {
                reading.reviews.extend(is_review.then_some(Review { at, quality }));
                let is_score = asked.scores == Some(Scoring::Quality);
                reading.scores.extend(is_score.then_some(Score { at, score: logit }));
            });
        }
        Ok(readings)
    }

    /// Adds distributions and scores from the logits of chunks of cells: of each chunk so many
    /// rows, those that fill it up included.
    fn record_distributions<'a>(
        &self,
        batch: &Batch<'_>,
        chunks: impl Iterator<Item = (&'a [Asked], usize)>,
        mut logits: &[f32],
        readings: &mut Readings,
    ) {
        for (cells, rows) in chunks {
            let (own, rest) = logits.split_at(logits.len().min(rows * self.vocabulary.size));
            logits = rest;
            let asked: Vec<&Asked> = cells.iter().filter(|cell| is_whole(batch, cell)).collect();
            let rows: Vec<(&Asked, &[f32])> = asked.into_iter().zip(own.chunks(self.vocabulary.size)).collect();
            for (cell, logits) in &rows {
                // a row with a logit that is not finite has ended
                if let (Some(Scoring::Logit), Ok(reading)) = (batch[cell.row].scores, &mut readings[cell.row]) {
                    let place = reading.proposals.binary_search_by_key(&cell.at, |proposal| proposal.at);
                    let token = match cell.question {
                        Question::Present(token) => Some(token),
                        _ => place.ok().map(|place| reading.proposals[place].token),
                    };
                    let score = token.and_then(|token| logits.get(token.0 as usize));
                    reading.scores.extend(score.map(|score| Score { at: cell.at, score: *score }));
                }
            }
            let has_distribution = |(cell, _): &&(&Asked, &[f32])| {
                batch[cell.row].distributions && matches!(cell.question, Question::Proposal)
            };
            let distribution = |(cell, logits): &(&Asked, &[f32])| {
                (cell.row, Distribution { at: cell.at, log_probabilities: log_probabilities(logits, self.vocabulary) })
            };
            for (row, distribution) in rows.par_iter().filter(has_distribution).map(distribution).collect::<Vec<_>>() {
                if let Ok(reading) = &mut readings[row] {
                    reading.distributions.push(distribution);
                }
            }
        }
    }

    /// Adds a number to a row's reading. A number that is not finite ends that row's reading.
    fn record<T>(
        &self,
        reading: &mut Result<Reading, RowError>,
        what: &'static str,
        number: Option<T>,
        add: impl FnOnce(&mut Reading, T),
    ) {
        match (reading.as_mut(), number) {
            (Ok(reading), Some(number)) => add(reading, number),
            (Ok(_), None) => *reading = Err(RowError::NotFinite { what, dtype: self.spec.dtype.clone() }),
            (Err(_), _) => {} // one number is enough
        }
    }

    fn inspect_all(&self, ids: &[TokenId], prompt: Option<usize>) -> Result<Inspection, ModelError> {
        let cells = ids.iter().map(|id| if *id == self.spec.mask { Cell::Blank } else { Cell::Fixed(*id) });
        let canvas = Canvas::new(cells.collect());
        Row::plain(&canvas, 0..0).check(&self.spec)?;
        if ids.is_empty() {
            let quality_logits = self.spec.has_quality.then(Vec::new);
            return Ok(Inspection { logits: Vec::new(), hidden: Vec::new(), quality_logits });
        }
        let prompt = prompt.unwrap_or_else(|| canvas.prompt_length());
        let mut pass = Pass::default();
        let scope = Scope { prompt, sight: self.network.sight() };
        pass.push(ids.iter().map(|id| id.0), scope, (0..ids.len()).collect());
        let mut inputs = Inputs::default();
        let plan = self.network.plan(&pass, &mut inputs);
        let wanted = Wanted { hidden: true, layers: &[self.network.judges()] };
        let states = self.network.run(&plan, &self.backend.bring(&inputs)?, None, wanted)?; // (positions, width) each
        let sources: Vec<u32> = (0..ids.len()).map(|at| u32_of(self.network.outputs().source(at))).collect();
        let sources = Tensor::new(&*sources, &self.backend.device())?;
        let read = |states: &Tensor| self.backend.gather(states, &sources); // (positions, width)
        let hidden = read(states.hidden()?)?;
        let logits = self.network.logits(&hidden)?.narrow(1, 0, self.vocabulary.size)?; // (positions, vocab_size)
        let qualities = states.judged.first().map(|judged| self.network.qualities(&read(judged)?)).transpose()?;
        let qualities = qualities.flatten(); // (positions)
        Ok(Inspection {
            logits: self.backend.rows(&logits)?,
            hidden: self.backend.rows(&hidden)?,
            quality_logits: qualities.map(|qualities| qualities.to_vec1()).transpose()?,
        })
    }
}

impl Denoiser for NetworkDenoiser {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        with_threadpool(|| self.read_all(batch))
    }

    fn counts(&self) -> Counts {
        self.backend.counts()
    }

    fn cost(&self, batch: &Batch<'_>) -> Option<Cost> {
        let read = |row: &Row<'_>| row.check(&self.spec).map(|()| Reading::default());
        let placings: Vec<Placings> = batch.iter().map(|row| self.planner().placings(row)).collect();
        let Plan { pass, readouts, reviewed } =
            self.planner().plan(batch, &batch.iter().map(read).collect(), &placings);
        let unguided = readouts.iter().filter(|cell| cell.unguided.is_some()).count();
        Some(self.network.cost(&pass, readouts.len() + unguided, reviewed.len()))
    }

    fn tokens(&self, row: &Row<'_>) -> usize {
        let placings = self.planner().placings(row);
        if placings.iter().all(Option::is_none) {
            return row.tokens();
        }
        placings.iter().flatten().map(Placing::tokens).sum()
    }

    fn forget(&mut self, SequenceName(sequence): SequenceName) {
        self.kv_store.pages.forget(sequence);
    }

    fn kept(&self) -> Option<KeptStates> {
        self.kv_store.kept()
    }

    fn speed(&self) -> Result<Option<Speed>, ModelError> {
        Ok(Some(with_threadpool(|| measure(&*self.backend, self.network.numbers()))?))
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        with_threadpool(|| self.inspect_all(ids, None))
    }

    fn inspect_prompted(&mut self, ids: &[TokenId], prompt: usize) -> Result<Inspection, ModelError> {
        with_threadpool(|| self.inspect_all(ids, Some(prompt)))
    }
}
