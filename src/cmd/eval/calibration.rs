//! `remask eval calibration`: the quality head against an exact oracle, on held-out rows. A few
//! blanks are filled as in training. For each, the oracle masks that token again and takes the
//! model's probability of it (PRISM, arXiv 2510.01384, equation 5).

use super::input::SPLITS;
use super::statistics::{Bin, Reliability, area_under_curve};
use crate::cmd::model::ModelArgs;
use crate::cmd::print;
use crate::cmd::words::{count, number, one_of, whole};
use crate::diffusion::policy::{Choice, order};
use crate::diffusion::{Canvas, Cell, DrawKey, Draws, Position, Purpose, Reading, Seed, TokenId, fills};
use crate::model::{Denoiser, Filter, Row, Sampling};
use crate::train::Recipe;
use crate::train::data::{Data, Example};
use crate::train::sudoku::Split;
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use std::num::NonZeroU32;

#[derive(Args, Clone, Debug)]
pub(crate) struct CalibrationArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Number of grids
    #[arg(long, default_value_t = 500, value_parser = count::<u32>(1 << 31))]
    count: u32,
    /// Number of blanks per grid that are filled and judged
    #[arg(long, default_value_t = 4, value_parser = count::<u32>(81))]
    fills: u32,
    /// Minimum and maximum share of a grid's free cells that is blank
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], default_values_t = [0.1, 1.0], value_parser = number(1e-6, 1.0))]
    ratio: Vec<f64>,
    /// Share of grids whose clues are a puzzle with one solution. Others have random clues
    #[arg(long, default_value_t = 0.5, value_parser = number(0.0, 1.0))]
    puzzles: f64,
    /// Split that the grids are from
    #[arg(long, default_value = "test", value_parser = one_of(SPLITS))]
    split: Split,
    /// Random seed of the grids and of sampling
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

pub(super) fn run(args: &CalibrationArgs) -> anyhow::Result<()> {
    let mut model = args.model.load()?.model;
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
    let data = Data::Sudoku { seed: args.seed, split: args.split, puzzles: args.puzzles };
    let calibration = measure(model.as_mut(), &data, args.count, &recipe, args.seed)?;
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
    if !model.spec().has_quality {
        bail!("this model has no quality head to be tried; give one with --prism-head");
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
        judged.extend(judge(model, &data.row(u64::from(number)), ratio, recipe, seed)?);
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
) -> anyhow::Result<Vec<Judgement>> {
    let mut cells: Vec<Cell> = row.tokens.iter().map(|token| Cell::Fixed(TokenId(*token))).collect();
    for &position in &row.free {
        if Draws::new(seed, Purpose::Erase, 0, Position(position)).first() < ratio {
            cells[position as usize] = Cell::Blank;
        }
    }
    let mut canvas = Canvas::new(cells);
    let reading = read(model, &canvas, recipe.temperature, seed)?;
    for edit in fills(&recipe.order, &reading.proposals, |_| (), recipe.fills, DrawKey { seed, step: 0 }) {
        canvas.apply(&edit)?;
    }
    let mask = model.spec().mask;
    let reading = read(model, &canvas, recipe.temperature, seed)?;
    let mut judged = Vec::new();
    for ((at, token), review) in canvas.filled(0..canvas.len()).zip(reading.reviews) {
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

fn read(model: &mut dyn Denoiser, canvas: &Canvas, temperature: f32, seed: Seed) -> anyhow::Result<Reading> {
    let sampling = Sampling { temperature, seed, step: 0, filter: Filter::ALL };
    let row = Row { sampling, review: true, ..Row::plain(canvas, 0..canvas.len()) };
    Ok(model.read(&[row])?.remove(0)?)
}

impl Calibration {
    /// The figures in sentences, followed by the reliability table.
    pub(crate) fn table(&self) -> String {
        let Self { judged, right, oracle, truth, area_under_curve, oracle_area_under_curve } = self;
        let mut text = format!("{judged} tokens judged, {:.1} % of them right\n", 100.0 * right);
        let [from_oracle, from_truth] = [oracle.expected_error, truth.expected_error];
        text += "expected calibration error: ";
        text += &format!("{from_oracle:.4} against the oracle, {from_truth:.4} against the truth\n");
        if let Some((head, oracle)) = area_under_curve.zip(*oracle_area_under_curve) {
            let (head, oracle) = (100.0 * head, 100.0 * oracle);
            text += &format!(
                "a right token is judged better than a wrong one {head:.1} % of the time, by the oracle {oracle:.1} %\n"
            );
        }
        text += &format!("{:>9} {:>7} {:>8} {:>7} {:>6}\n", "quality", "tokens", "mean", "oracle", "right");
        for (index, (Bin { count, predicted, found }, truth)) in (0u32..).zip(oracle.bins.iter().zip(&truth.bins)) {
            let from = f64::from(index) / 10.0;
            let until = from + 0.1;
            text += &format!("{from:.1} - {until:.1} {count:>7} {predicted:>8.3} {found:>7.3} {:>6.3}\n", truth.found);
        }
        text
    }
}
