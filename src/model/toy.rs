//! A demo model without weights that loads in no time: engine, API and documentation are tried on
//! it. It knows a few sentences and guesses a letter the better the more of its neighbours are
//! filled. In some cells it is sure of a wrong letter while the neighbours are blank, so these are
//! filled early, and corrected once the neighbours stand.

use super::backend::cpu::summary::{guided, summarise};
use super::backend::summary::{Summary, SummaryOptions, Vocabulary, log_probabilities};
use super::error::{ModelError, RowError};
use super::interface::{Batch, Denoiser, Inspection, Readings};
use super::row::Row;
use super::spec::{Defaults, Keeping, ModelSpec};
use crate::diffusion::policy::Scoring;
use crate::diffusion::{
    Best, Cell, Distribution, Draws, Position, Present, Probability, Purpose, Reading, Review, Score, Seed, TokenId,
};
use std::num::NonZeroU32;

/// Ids 0 to 255 are bytes, as in `models/toy/tokenizer.json`.
const MASK: TokenId = TokenId(256);
const END: TokenId = TokenId(257);
const VOCABULARY: usize = 258;
const CANVAS_MAX: usize = 1024;
/// Cells on each side that count as neighbours.
const REACH: usize = 4;
/// In one cell of so many a wrong letter is the most probable while all neighbours are blank.
const MISLED: usize = 8;
/// Probability of the right letter in such a cell then. The wrong one has [`MISLED_WRONG`] of the
/// rest, 0.91. That is more than any other letter has at the edge of a filled text (0.84), so
/// orders by confidence fill these cells early. With one neighbour its quality is below 0.5.
const MISLED_RIGHT: f32 = 0.04;
const MISLED_WRONG: f32 = 0.95;

/// What it writes, by the prompt. Some characters are several bytes long.
const SENTENCES: [&str; 4] = [
    " the quick brown fox jumps over the lazy dog, twice.",
    " wer später ankommt, findet noch Kaffee — und ein Stück Kuchen 🍰.",
    " every blank was filled, some were erased, and all of them were filled again.",
    " sphinx of black quartz, judge my vow; then écris-le encore une fois.",
];

/// The toy.
#[derive(Debug)]
pub struct Toy {
    spec: ModelSpec,
}

impl Default for Toy {
    fn default() -> Self {
        Self::new()
    }
}

impl Toy {
    /// A toy with a quality head.
    pub fn new() -> Self {
        Self {
            spec: ModelSpec {
                family: "toy".to_owned(),
                vocabulary: 258,
                canvas_max: CANVAS_MAX,
                mask: MASK,
                ends: vec![END],
                keeping: Keeping::No,
                has_quality: true,
                judges_blanks: true,
                judged: None,
                adapters_folded: false,
                dtype: "f32".to_owned(),
                weights: "f32".to_owned(),
                device: "cpu".to_owned(),
                parameters: 0,
                defaults: Defaults {
                    block_length: NonZeroU32::new(32),
                    new_tokens: NonZeroU32::new(96),
                    ..Defaults::default()
                },
                presets: None,
                card: None,
            },
        }
    }

    /// A toy without a quality head.
    pub fn without_head() -> Self {
        let mut toy = Self::new();
        toy.spec.has_quality = false;
        toy.spec.judges_blanks = false;
        toy
    }
}

impl Denoiser for Toy {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        Ok(batch.iter().map(|row| self.read_row(row)).collect())
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        let cells: Vec<Cell> = ids.iter().map(|&id| if id == MASK { Cell::Blank } else { Cell::Filled(id) }).collect();
        let story = Story::of(&cells);
        let logits: Vec<Vec<f32>> = (0..cells.len()).map(|at| story.logits(&cells, at)).collect();
        let quality = |(logits, id): (&Vec<f32>, &TokenId)| {
            let quality = probability(logits, *id);
            (quality / (1.0 - quality)).ln()
        };
        let quality_logits = self.spec.has_quality.then(|| logits.iter().zip(ids).map(quality).collect());
        Ok(Inspection { hidden: Vec::new(), quality_logits, logits })
    }
}

impl Toy {
    fn read_row(&self, row: &Row<'_>) -> Result<Reading, RowError> {
        let cells = row.seen().cells();
        let story = Story::of(cells);
        let unprompted: Vec<Cell> =
            cells.iter().map(|cell| if let Cell::Fixed(_) = cell { Cell::Blank } else { *cell }).collect();
        let summary = |at: Position, options: SummaryOptions<'_>| -> Result<Summary, RowError> {
            let mut logits = story.logits(cells, at.index());
            if let Some(weight) = row.guidance {
                logits = guided(&logits, &story.logits(&unprompted, at.index()), weight);
            }
            let options = SummaryOptions { only: row.allowed(at), ..options };
            let vocabulary = Vocabulary { size: VOCABULARY, mask: MASK.0 as usize };
            let summary = summarise(logits.into(), vocabulary, &options);
            summary.ok_or(RowError::NotFinite { what: "a logit", dtype: self.spec.dtype.clone() })
        };
        let blank_biases = row.blank_biases.unwrap_or(row.biases);
        let of_blank = |at: Position| {
            let (noise, credit) = (row.sampling.noise(at), row.credit.map(|credits| credits.at(at)));
            let options = SummaryOptions { noise, biases: blank_biases, credit, ..SummaryOptions::default() };
            Ok((at, summary(at, options)?))
        };
        let of_blanks = row.canvas.blanks(row.window.clone()).map(of_blank).collect::<Result<Vec<_>, RowError>>()?;
        let proposals = of_blanks.iter().map(|(at, summary)| summary.proposal(*at)).collect();
        let favourites = of_blanks.iter().filter_map(|(at, summary)| summary.favourite(*at)).collect();
        let vocabulary = Vocabulary { size: VOCABULARY, mask: MASK.0 as usize };
        let distribution = |at: Position| {
            let log_probabilities = log_probabilities(&story.logits(cells, at.index()), vocabulary);
            Distribution { at, log_probabilities }
        };
        let distributions = row.canvas.blanks(row.window.clone()).filter(|_| row.distributions);
        let distributions = distributions.map(distribution).collect();
        let filled = |wanted: bool| row.seen().filled(row.window.clone()).filter(move |_| wanted);
        // what a quality head learns to predict: the probability of the token without its own cell
        let likely = |at: Position, token| {
            Probability::rounded(probability(&story.logits(cells, at.index()), token)).unwrap_or(Probability::ZERO)
        };
        let review = |(at, token)| Review { at, quality: likely(at, token) };
        let reviews = filled(row.exact || row.review && self.spec.has_quality).map(review).collect();
        let present = |(at, token)| Present { at, confidence: likely(at, token) };
        let present = filled(row.present).map(present).collect();
        let plain = SummaryOptions { biases: row.biases, ..SummaryOptions::default() };
        let best = |(at, _)| Ok(summary(at, plain)?.best(at));
        let best = filled(row.best).map(best).collect::<Result<Vec<Best>, RowError>>()?;
        let score = |(at, token): (Position, TokenId)| {
            let likely = likely(at, token).get();
            let score = match row.scores? {
                Scoring::Quality => (likely / (1.0 - likely)).ln(),
                Scoring::Logit => likely.ln(),
            };
            Some(Score { at, score: score.clamp(f32::MIN, f32::MAX) })
        };
        let written = of_blanks.iter().map(|(at, summary)| (*at, summary.proposal(*at).token));
        let mut scores: Vec<Score> = written.chain(filled(true)).filter_map(score).collect();
        scores.sort_by_key(|score| score.at);
        Ok(Reading { proposals, reviews, present, best, favourites, distributions, scores })
    }
}

/// The text that the toy would write on a canvas.
struct Story {
    sentence: &'static [u8],
    /// Whether the text ends after the sentence (nothing fixed follows), else the sentence repeats.
    ends: bool,
    /// Number of cells that are not fixed before each cell.
    before: Vec<usize>,
    key: Seed,
}

impl Story {
    /// The story of a canvas, from its fixed cells alone.
    fn of(cells: &[Cell]) -> Self {
        let fixed = |cell: &Cell| if let Cell::Fixed(token) = cell { Some(u64::from(token.0)) } else { None };
        let key = cells.iter().filter_map(fixed).fold(7, |key: u64, id| key.wrapping_mul(31).wrapping_add(id));
        let first_free = cells.iter().position(|cell| fixed(cell).is_none()).unwrap_or(cells.len());
        let before = cells.iter().scan(0, |free, cell| {
            let before = *free;
            *free += usize::from(fixed(cell).is_none());
            Some(before)
        });
        Self {
            sentence: SENTENCES[(key % SENTENCES.len() as u64) as usize].as_bytes(),
            ends: cells[first_free..].iter().all(|cell| fixed(cell).is_none()),
            before: before.collect(),
            key: Seed(key),
        }
    }

    /// (vocabulary): scores of cell `at`, independent of its own token.
    fn logits(&self, cells: &[Cell], at: usize) -> Vec<f32> {
        let (before, length) = (self.before[at], self.sentence.len());
        let is_over = self.ends && before >= length;
        let right = if is_over { END } else { TokenId(u32::from(self.sentence[before % length])) };
        let wrong = {
            let [choice, letter] = Draws::new(self.key, Purpose::Toy, 0, Position::at(at)).uniforms();
            let letter = TokenId(u32::from(b'a') + (letter * 26.0) as u32);
            ((choice * MISLED as f64) as usize == 0 && letter != right).then_some(letter)
        };
        let seen = context(cells, at);
        let right_mass = match wrong {
            None => 0.7 + 0.28 * seen,
            Some(_) if seen == 0.0 => MISLED_RIGHT,
            Some(_) => 0.5 + 0.45 * seen,
        };
        let wrong_mass = if wrong.is_some() { (1.0 - right_mass) * MISLED_WRONG } else { 0.0 };
        let mut masses = vec![(1.0 - right_mass - wrong_mass) / VOCABULARY as f32; VOCABULARY];
        masses[right.0 as usize] += right_mass;
        if let Some(wrong) = wrong {
            masses[wrong.0 as usize] += wrong_mass;
        }
        masses.into_iter().map(f32::ln).collect()
    }
}

/// Share of a cell's neighbours that are not blank; cells beyond the canvas count as filled.
fn context(cells: &[Cell], at: usize) -> f32 {
    let is_filled =
        |index: Option<usize>| index.and_then(|index| cells.get(index)).is_none_or(|cell| !matches!(cell, Cell::Blank));
    let neighbours = (1..=REACH).flat_map(|reach| [at.checked_sub(reach), at.checked_add(reach)]);
    neighbours.filter(|index| is_filled(*index)).count() as f32 / (2 * REACH) as f32
}

/// Probability of `token`; the logits are logarithms of probabilities already.
fn probability(logits: &[f32], token: TokenId) -> f32 {
    logits.get(token.0 as usize).map_or(0.0, |logit| logit.exp())
}
