//! `remask train prism`: a quality head for a model, and a card that says how far it can be believed.

use super::{RunArgs, Screen, Task, is_same, stop_signal};
use crate::cmd::eval::calibration::measure;
use crate::cmd::policy::named;
use crate::diffusion::policy::{Choice, Kind, Rule};
use crate::model::{Config, Denoiser, Source, load};
use crate::text::Tokenizer;
use crate::train::data::Data;
use crate::train::{Learns, Recipe, Tuning};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LearnsWord {
    /// The head and the whole model
    Everything,
    /// The head alone; the model stays as it is
    Head,
    /// The head and low-rank adapters
    Lora,
}

/// Steps that learn from a carried row, where nothing is said.
const ROUNDS: NonZeroU32 = NonZeroU32::new(32).unwrap();

#[derive(Args, Clone, Debug)]
pub(super) struct PrismArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The model's directory; a head in it is where training starts
    #[arg(long, value_name = "DIR")]
    model_id: PathBuf,
    /// A built-in task
    #[arg(long, conflicts_with = "data", required_unless_present = "data")]
    task: Option<Task>,
    /// A file to learn from: text, or JSONL with `prompt` and `response`, of which the prompt is never masked
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Tokens of a row of --data
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// What learns
    #[arg(long, default_value = "everything")]
    learns: LearnsWord,
    /// Rank of the adapters
    #[arg(long, default_value_t = 256)]
    rank: usize,
    /// What B A is multiplied with, times the rank; default: the rank
    #[arg(long)]
    alpha: Option<f64>,
    /// Matrices that get adapters
    #[arg(long, value_delimiter = ',', default_value = "q_proj,k_proj,v_proj")]
    targets: Vec<String>,
    /// Blanks the model fills in a fresh row before the head judges them
    #[arg(long, default_value_t = 4)]
    fills: u32,
    /// Which blanks these are
    #[arg(long, default_value = "random", value_parser = named(Kind::Order))]
    order: &'static Rule,
    /// Temperature of these fills
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Weight of the model's own loss beside the head's
    #[arg(long, default_value_t = 0.5)]
    lambda: f64,
    /// Share of a step's rows that the sampler goes on with by itself, so that the head sees what many steps lead to
    #[arg(long, default_value_t = 0.0)]
    carried: f64,
    /// Steps that learn from a carried row [default: 32]
    #[arg(long, requires = "carried")]
    rounds: Option<NonZeroU32>,
    /// Smallest and largest share of a fresh row that is masked
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], default_values_t = [0.001, 1.0])]
    ratio: Vec<f64>,
}

pub(super) fn run(args: &PrismArgs) -> anyhow::Result<()> {
    let RunArgs { out, seed, batch, .. } = &args.run;
    fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    let dir = &args.model_id;
    if is_same(dir, out) {
        bail!("--out and --model-id are both {}; give --out another one", out.display());
    }
    let data = match &args.data {
        Some(data) => {
            let tokenizer = Tokenizer::from_dir(dir)?;
            let tokenizer = tokenizer.with_context(|| format!("{} has no tokenizer.json", dir.display()))?;
            Data::read(data, &tokenizer, args.length, Config::read(dir)?.ends.first().copied(), *seed)?
        }
        None => args.run.sudoku()?,
    };
    let (data, held_out) = data.held_out();
    let (ratio_min, ratio_max) = (args.ratio[0], args.ratio[1]);
    if !(ratio_min > 0.0 && ratio_min < ratio_max && ratio_max <= 1.0) {
        bail!("--ratio is {ratio_min} {ratio_max}; give two numbers above 0 and at most 1, the smaller first");
    }
    if !(0.0..=1.0).contains(&args.carried) {
        bail!("--carried is {}; give a share from 0 to 1", args.carried);
    }
    let recipe = Recipe {
        fills: args.fills,
        order: Choice::of(args.order),
        temperature: args.temperature,
        lambda: args.lambda,
        carried: args.carried,
        rounds: if args.carried > 0.0 { args.rounds.unwrap_or(ROUNDS) } else { NonZeroU32::MIN },
        ratio_min,
        ratio_max,
    };
    #[allow(clippy::cast_precision_loss)] // ranks are small
    let learns = match args.learns {
        LearnsWord::Everything => Learns::Everything,
        LearnsWord::Head => Learns::HeadAlone,
        LearnsWord::Lora => Learns::Adapters {
            rank: args.rank,
            alpha: args.alpha.unwrap_or(args.rank as f64),
            targets: args.targets.clone(),
        },
    };
    let mut settings = args.run.settings()?;
    settings.insert("kind".to_owned(), json!("prism"));
    settings
        .insert("data".to_owned(), json!(args.data.as_ref().map_or("sudoku".into(), |data| data.to_string_lossy())));
    settings.insert("recipe".to_owned(), json!(format!("{recipe:?}")));
    settings.insert("learns".to_owned(), json!(format!("{learns:?}")));
    let card_recipe = recipe.clone();
    let tuning = Tuning { base: dir.clone(), data, batch: *batch, recipe, learns, seed: *seed };
    let screen = Screen::new(args.run.steps);
    let stop = stop_signal()?;
    let checkpoint = out.join("checkpoint.safetensors");
    let tuned = tuning.run(&args.run.run()?, &checkpoint, &settings, &stop, |report| screen.show(report))?;
    let fingerprint = tuned.write(out)?;
    if tuned.finished.is_complete {
        let card = Card { fingerprint: &fingerprint, args, held_out: &held_out, recipe: card_recipe };
        fs::write(out.join("PRISM.md"), card.text(&mut *trained(args)?)?)?;
    }
    screen.close(&tuned.finished, out);
    Ok(())
}

/// The model with the head that was trained.
fn trained(args: &PrismArgs) -> anyhow::Result<Box<dyn Denoiser>> {
    let out = &args.run.out;
    let (dir, adapter) = match args.learns {
        LearnsWord::Everything => (out.clone(), None),
        LearnsWord::Head => (args.model_id.clone(), None),
        LearnsWord::Lora => (args.model_id.clone(), Some(out.join("adapter"))),
    };
    let prism_head = Some(out.join("prism_head.safetensors"));
    Ok(load(&Source::Directory { dir, prism_head, adapter }, args.run.device)?)
}

/// Rows a card's calibration is measured on.
const CARD_ROWS: u32 = 200;

/// What is to be known about a head: what it was made from and for, and how far it can be believed.
struct Card<'a> {
    args: &'a PrismArgs,
    fingerprint: &'a str,
    held_out: &'a Data,
    recipe: Recipe,
}

impl Card<'_> {
    fn text(&self, model: &mut dyn Denoiser) -> anyhow::Result<String> {
        let Self { args, fingerprint, held_out, recipe } = self;
        let RunArgs { seed, steps, batch, .. } = &args.run;
        let grids =
            || format!("complete Sudoku grids, a share of {} with the clues of a puzzle", args.run.puzzles).into();
        let data = args.data.as_ref().map_or_else(grids, |data| data.to_string_lossy());
        let rows = match held_out {
            Data::Sudoku { .. } => CARD_ROWS,
            Data::Rows { rows, .. } => u32::try_from(rows.len()).unwrap_or(CARD_ROWS).min(CARD_ROWS),
        };
        let calibration = measure(model, held_out, rows, recipe, *seed)?;
        let base = args.model_id.display();
        Ok(format!(
            "# A PRISM quality head (arXiv 2510.01384)\n\n\
             | | |\n|---|---|\n\
             | made from | {base} |\n\
             | for the weights | {fingerprint} |\n\
             | data | {data} |\n\
             | seed, steps, rows of a step | {seed}, {steps}, {batch} |\n\
             | what learned | {learns:?} |\n\
             | recipe | {recipe:?} |\n\n\
             ## Calibration\n\n\
             On {rows} rows it has never seen, filled as in training:\n\n```\n{}```\n",
            calibration.table(),
            learns = args.learns,
        ))
    }
}
