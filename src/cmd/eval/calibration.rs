//! `remask eval calibration`: the quality head against an exact oracle, on held-out rows. A few
//! blanks are filled as in training. For each, the oracle masks that token again and takes the
//! model's probability of it (PRISM, arXiv 2510.01384, equation 5). The head may judge states that
//! a cache made; the oracle never does.

use super::input::SPLITS;
use super::statistics::{Bin, Reliability, area_under_curve};
use crate::cmd::model::{Loaded, ModelArgs};
use crate::cmd::print;
use crate::cmd::words::{count, named, number, one_of, whole};
use crate::diffusion::policy::{Choice, Kind, NO_CACHE, Rule, Stage, order};
use crate::diffusion::{Canvas, Cell, DrawKey, Draws, Edit, Position, Purpose, Reading, Reuse, Seed, TokenId, fills};
use crate::model::{Denoiser, Filter, Keeping, ModelSpec, Row, Sampling, SequenceName};
use crate::train::Recipe;
use crate::train::data::{Cutting, Data, Example, Filling};
use crate::train::sudoku::Split;
use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(crate) struct CalibrationArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A file in place of Sudoku grids: text, or JSONL with `prompt` and `response`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["puzzles", "split"])]
    data: Option<PathBuf>,
    /// Length of the rows of --data in tokens
    #[arg(long, default_value_t = 128, requires = "data", value_parser = count::<usize>(1 << 20))]
    length: usize,
    /// Number of rows
    #[arg(long, default_value_t = 500, value_parser = count::<u32>(1 << 31))]
    count: u32,
    /// Number of blanks per row that are filled and judged
    #[arg(long, default_value_t = 4, value_parser = count::<u32>(1 << 20))]
    fills: u32,
    /// Minimum and maximum share of the free cells of a row or block that is blank
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], default_values_t = [0.1, 1.0], value_parser = number(1e-6, 1.0))]
    ratio: Vec<f64>,
    /// One block of so many free cells is judged, chosen at random, as in the middle of an answer:
    /// what lies before it is complete, what lies behind it is blank [default: the whole row]
    #[arg(long, value_parser = count::<u32>(1 << 20))]
    block_length: Option<u32>,
    /// The head judges states of this cache: what the cache keeps is from the block's first pass,
    /// when all of it was blank
    #[arg(long, default_value = "off", requires = "block_length", value_parser = named(Kind::Cache))]
    cache: &'static Rule,
    /// Share of grids whose clues are a puzzle with one solution. Others have random clues
    #[arg(long, default_value_t = 0.5, value_parser = number(0.0, 1.0))]
    puzzles: f64,
    /// Split that the grids are from
    #[arg(long, default_value = "test", value_parser = one_of(SPLITS))]
    split: Split,
    /// Random seed of the rows and of sampling
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>(0, u64::MAX))]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Calibration {
    judged: usize,
    /// Share of judged tokens that are right.
    right: f64,
    /// Quality against the oracle's probability.
    oracle: Reliability,
    /// Quality against whether the token is right.
    truth: Reliability,
    /// Probability that a right token has a higher quality than a wrong one.
    area_under_curve: Option<f64>,
    /// The same for the oracle's probability, an upper bound in expectation.
    oracle_area_under_curve: Option<f64>,
}

struct Judgement {
    quality: f64,
    /// The model's probability of the token when it is masked again.
    oracle: f64,
    is_right: bool,
}

/// The part of a row that is judged.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    /// Free cells of a block.
    length: usize,
    cache: &'static Rule,
}

pub(super) fn run(args: &CalibrationArgs) -> anyhow::Result<()> {
    let Loaded { mut model, tokenizer, name } = args.model.load()?;
    let recipe = Recipe {
        fills: args.fills,
        order: Choice::of(&order::RANDOM),
        temperature: 1.0,
        lambda: 0.0,
        carried: 0.0,
        rounds: NonZeroU32::MIN,
        ratio_min: args.ratio[0],
        ratio_max: args.ratio[1],
    };
    let data = match &args.data {
        None => Data::Sudoku { seed: args.seed, split: args.split, puzzles: args.puzzles },
        Some(file) => {
            let tokenizer = tokenizer.with_context(|| format!("{name} has no tokenizer, which --data needs"))?;
            let end = model.spec().ends.first().copied();
            let cutting = Cutting { tokenizer: &tokenizer, length: args.length, end, filling: Filling::default() };
            Data::read(file, cutting, args.seed, None)?
        }
    };
    let rows = data.most(args.count as usize) as u32;
    let blocks = args.block_length.map(|length| Blocks { length: length as usize, cache: args.cache });
    let calibration = measure_in(model.as_mut(), &data, rows, &recipe, args.seed, blocks)?;
    if args.json {
        print::line(serde_json::to_string(&calibration)?)?;
    } else {
        print::line(calibration.table().trim_end())?;
    }
    Ok(())
}

/// Judges fills in the first `count` rows of `data`, masked and filled as `recipe` says.
pub(crate) fn measure(
    model: &mut dyn Denoiser,
    data: &Data,
    count: u32,
    recipe: &Recipe,
    seed: u64,
) -> anyhow::Result<Calibration> {
    measure_in(model, data, count, recipe, seed, None)
}

fn measure_in(
    model: &mut dyn Denoiser,
    data: &Data,
    count: u32,
    recipe: &Recipe,
    seed: u64,
    blocks: Option<Blocks>,
) -> anyhow::Result<Calibration> {
    let ModelSpec { has_quality, keeping, canvas_max, .. } = *model.spec();
    if !has_quality {
        bail!("this model has no quality head to be tried; give one with --prism-head");
    }
    if data.length() > canvas_max {
        bail!("rows of {} tokens do not fit the model, which takes {canvas_max}", data.length());
    }
    match keeping {
        _ if blocks.is_none_or(|blocks| blocks.cache == &NO_CACHE) => {}
        Keeping::Approximate => {}
        Keeping::No => bail!("this model keeps no keys and values; leave --cache out"),
        Keeping::Exact(_) => {
            bail!("what this model keeps is exact, so that its head judges the same with a cache; leave --cache out")
        }
    }
    let Recipe { ratio_min, ratio_max, .. } = *recipe;
    if !(0.0 <= ratio_min && ratio_min <= ratio_max && ratio_max <= 1.0) || count == 0 {
        bail!(
            "given {count} rows of which {ratio_min} to {ratio_max} are blank; give at least 1, and shares from 0 to 1"
        );
    }
    let mut judged = Vec::new();
    for number in 0..count {
        let ratio = ratio_min + (ratio_max - ratio_min) * (f64::from(number) + 0.5) / f64::from(count);
        let seed = Seed(seed ^ (u64::from(number) << 32));
        judged.extend(judge(model, &data.row(u64::from(number))?, ratio, recipe, seed, blocks)?);
    }
    let right = judged.iter().filter(|token| token.is_right).count();
    let area = |score: fn(&Judgement) -> f64| {
        area_under_curve(&judged.iter().map(|token| (score(token), token.is_right)).collect::<Vec<_>>())
    };
    Ok(Calibration {
        judged: judged.len(),
        right: right as f64 / judged.len().max(1) as f64,
        oracle: Reliability::of(judged.iter().map(|token| (token.quality, token.oracle))),
        truth: Reliability::of(judged.iter().map(|token| (token.quality, f64::from(u8::from(token.is_right))))),
        area_under_curve: area(|token| token.quality),
        oracle_area_under_curve: area(|token| token.oracle),
    })
}

/// Fills a few blanks of a row and judges them.
fn judge(
    model: &mut dyn Denoiser,
    row: &Example,
    ratio: f64,
    recipe: &Recipe,
    seed: Seed,
    blocks: Option<Blocks>,
) -> anyhow::Result<Vec<Judgement>> {
    let block = blocks.map_or(0..row.tokens.len(), |blocks| chosen(row, blocks.length, model.spec(), seed));
    let mut cells: Vec<Cell> = row.tokens.iter().map(|token| Cell::Fixed(TokenId(*token))).collect();
    for free in row.free.iter().map(|at| *at as usize) {
        cells[free] = if free < block.end { Cell::Filled(TokenId(row.tokens[free])) } else { Cell::Blank };
    }
    let is_masked = |at: &usize| Draws::new(seed, Purpose::Erase, 0, Position::at(*at)).first() < ratio;
    let free_in_block = || row.free.iter().map(|at| *at as usize).filter(|at| block.contains(at));
    let [mut first, mut canvas] = [cells.clone(), cells];
    free_in_block().for_each(|at| first[at] = Cell::Blank);
    free_in_block().filter(is_masked).for_each(|at| canvas[at] = Cell::Blank);
    let [first, mut canvas] = [first, canvas].map(Canvas::new);

    let mut states = States { model, block: block.clone(), first: None, temperature: recipe.temperature, seed };
    if let Some(Blocks { cache, .. }) = blocks.filter(|blocks| blocks.cache != &NO_CACHE) {
        let settings = Choice::of(cache).with_defaults(1).settings;
        let run = (cache.runs)(&Stage { block: block.clone(), cells: first.len(), filled: &[], settings: &settings });
        states.keep(&first, run)?;
    }
    let reading = states.read(&canvas)?;
    let edits = fills(&recipe.order, &reading.proposals, |_| (), recipe.fills, DrawKey { seed, step: 0 });
    for edit in &edits {
        canvas.apply(edit)?;
    }
    let reviews = states.read(&canvas)?.reviews;
    states.forget();
    let mask = model.spec().mask;
    let written: BTreeSet<Position> = edits.iter().map(Edit::at).collect();
    let mut judged = Vec::new();
    for ((at, token), review) in canvas.filled(block).zip(reviews).filter(|((at, _), _)| written.contains(at)) {
        let mut ids: Vec<TokenId> = canvas.cells().iter().map(|cell| cell.token().unwrap_or(mask)).collect();
        ids[at.index()] = mask;
        let logits = &model.inspect_prompted(&ids, canvas.prompt_length())?.logits[at.index()];
        let allowed = (0u32..model.spec().vocabulary).filter(|id| *id != mask.0);
        let below = |id: u32| f64::from(logits[id as usize] - logits[token.0 as usize]).exp();
        let oracle = allowed.map(below).sum::<f64>().recip();
        let is_right = row.tokens[at.index()] == token.0;
        judged.push(Judgement { quality: f64::from(review.quality.get()), oracle, is_right });
    }
    Ok(judged)
}

/// A block of the row's free cells, of those that begin before the text has ended.
fn chosen(row: &Example, length: usize, spec: &ModelSpec, seed: Seed) -> Range<usize> {
    let is_end = |at: &u32| spec.ends.contains(&TokenId(row.tokens[*at as usize]));
    let text = row.free.iter().position(is_end).map_or(row.free.len(), |end| end + 1);
    let blocks = text.div_ceil(length);
    let drawn = Draws::new(seed, Purpose::Erase, 1, Position(0)).first();
    let block = row.free.chunks(length).nth((drawn * blocks as f64) as usize).unwrap_or_default();
    block.first().zip(block.last()).map_or(0..0, |(first, last)| *first as usize..*last as usize + 1)
}

/// Readings of one block, by the keys and values of a first pass if there was one.
struct States<'a> {
    model: &'a mut dyn Denoiser,
    block: Range<usize>,
    /// The canvas of the first pass, and what later ones compute anew.
    first: Option<(&'a Canvas, Vec<Range<usize>>)>,
    temperature: f32,
    seed: Seed,
}

impl<'a> States<'a> {
    const SEQUENCE: SequenceName = SequenceName(0);

    /// Makes the first pass.
    fn keep(&mut self, canvas: &'a Canvas, run: Vec<Range<usize>>) -> anyhow::Result<()> {
        self.first = Some((canvas, vec![0..canvas.len()]));
        self.read(canvas)?;
        self.first = Some((canvas, run));
        Ok(())
    }

    fn read(&mut self, canvas: &Canvas) -> anyhow::Result<Reading> {
        let sampling = Sampling { temperature: self.temperature, seed: self.seed, step: 0, filter: Filter::ALL };
        let reuse = self
            .first
            .as_ref()
            .map(|(base, run)| (Self::SEQUENCE, Reuse { base, run: run.clone(), seen: vec![0..base.len()] }));
        let row = Row { sampling, reuse, review: true, ..Row::plain(canvas, self.block.clone()) };
        Ok(self.model.read(&[row])?.remove(0)?)
    }

    fn forget(&mut self) {
        self.model.forget(Self::SEQUENCE);
    }
}

impl Calibration {
    /// The figures in sentences, followed by the reliability table.
    pub(crate) fn table(&self) -> String {
        let sentences: String = self.sentences().into_iter().map(|sentence| sentence + "\n").collect();
        sentences + &self.bins()
    }

    /// The figures.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let Self { judged, right, oracle, truth, area_under_curve, oracle_area_under_curve } = self;
        let [from_oracle, from_truth] = [oracle.expected_error, truth.expected_error];
        let mut sentences = vec![
            format!("{judged} tokens judged, {:.1} % of them right", 100.0 * right),
            format!(
                "expected calibration error: {from_oracle:.4} against the oracle, {from_truth:.4} against the truth"
            ),
        ];
        if let Some((head, oracle)) = area_under_curve.zip(*oracle_area_under_curve) {
            let (head, oracle) = (100.0 * head, 100.0 * oracle);
            sentences.push(format!(
                "a right token is judged better than a wrong one {head:.1} % of the time, by the oracle {oracle:.1} %"
            ));
        }
        sentences
    }

    /// The reliability table.
    pub(crate) fn bins(&self) -> String {
        let Self { oracle, truth, .. } = self;
        let mut text = format!("{:>9} {:>7} {:>8} {:>7} {:>6}\n", "quality", "tokens", "mean", "oracle", "right");
        for (index, (Bin { count, predicted, found }, truth)) in (0u32..).zip(oracle.bins.iter().zip(&truth.bins)) {
            let from = f64::from(index) / 10.0;
            let until = from + 0.1;
            text += &format!("{from:.1} - {until:.1} {count:>7} {predicted:>8.3} {found:>7.3} {:>6.3}\n", truth.found);
        }
        text
    }
}
