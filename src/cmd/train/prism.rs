//! `remask train prism`: trains a quality head for a model, and writes a card with its calibration.

use super::card::Card;
use super::dry_run::Memory;
use super::options::{BuiltInTask, DataSettings, Monitor, RowArgs, RunArgs};
use crate::cmd::environment::UsageError;
use crate::cmd::eval::calibration::measure;
use crate::cmd::model::DTYPES;
use crate::cmd::signal::stop_flag;
use crate::cmd::words::{count, named, number, one_of, temperature};
use crate::diffusion::policy::{Choice, Kind, Rule};
use crate::diffusion::u32_of;
use crate::model::{Denoiser, Precision, Source, base_config, is_gguf, load};
use crate::train::data::Data;
use crate::train::{Comparison, HeadChoice, HeadMeans, Learns, Recipe, Tuned, Tuning};
use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LearnsWord {
    /// The head and the whole model
    Everything,
    /// The head alone
    Head,
    /// The head and low-rank adapters (LoRA)
    Lora,
}

const ROUNDS: NonZeroU32 = NonZeroU32::new(32).unwrap();

#[derive(Args, Clone, Debug)]
pub(crate) struct PrismArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The model's directory, or with --learns head a GGUF file. If it has a head, training starts
    /// from it
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model_id: PathBuf,
    /// Try sizes with random weights of the shapes that config.json gives; only with --dry-run
    #[arg(long, requires = "dry_run")]
    dummy_weights: bool,
    /// Start from a quality head that was made for other weights, with a warning
    #[arg(long)]
    allow_foreign_head: bool,
    /// Train on a built-in task
    #[arg(long, conflicts_with = "data", required_unless_present = "data")]
    task: Option<BuiltInTask>,
    /// Train on a file: text, or JSONL with `prompt` (never masked) and `response`; or on all files
    /// of a folder
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    #[command(flatten)]
    rows: RowArgs,
    /// What is trained
    #[arg(long, default_value = "everything")]
    learns: LearnsWord,
    /// Heads that are trained on the same states, as SIZE or SIZE@LAYER, with commas between: the
    /// size of the inner layer, and the block whose states are read [default: one head, as wide as
    /// the model, at the last block]
    #[arg(long, value_delimiter = ',', value_name = "SIZE[@LAYER]")]
    head: Vec<HeadChoice>,
    /// Data type in which a model that does not learn is computed. `auto` is bf16 on a GPU and f32
    /// on a CPU
    #[arg(long, default_value = "auto", value_parser = one_of(DTYPES))]
    dtype: Precision,
    /// Rank of the adapters
    #[arg(long, default_value_t = 256, value_parser = count::<usize>(1 << 16))]
    rank: usize,
    /// LoRA's alpha: adapters are scaled by alpha / rank [default: the rank]
    #[arg(long, value_parser = number(1e-9, 1e9))]
    alpha: Option<f64>,
    /// Names of the matrices that get adapters
    #[arg(long, value_delimiter = ',', default_value = "q_proj,k_proj,v_proj")]
    targets: Vec<String>,
    /// Number of blanks that the model fills in a fresh row before the head judges them
    #[arg(long, default_value_t = 4, value_parser = count::<u32>(1 << 20))]
    fills: u32,
    /// Order in which these blanks are filled
    #[arg(long, default_value = "random", value_parser = named(Kind::Order))]
    order: &'static Rule,
    /// Sampling temperature of these fills
    #[arg(long, default_value_t = 1.0, value_parser = temperature())]
    temperature: f32,
    /// Weight of the model's denoising loss; the weight of the head's loss is 1
    #[arg(long, default_value_t = 0.5, value_parser = number(0.0, 1e9))]
    lambda: f64,
    /// Share of rows that the sampler refines further, so the head sees later states of a canvas
    #[arg(long, default_value_t = 0.0, value_parser = number(0.0, 1.0))]
    carried: f64,
    /// Number of training steps for which a carried row is kept [default: 32]
    #[arg(long, requires = "carried", value_parser = count::<u32>(1 << 20))]
    rounds: Option<u32>,
    /// Minimum and maximum share of a fresh row's tokens that is masked
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], default_values_t = [0.001, 1.0], value_parser = number(1e-6, 1.0))]
    ratio: Vec<f64>,
}

pub(super) fn run(args: &PrismArgs) -> anyhow::Result<()> {
    let RunArgs { out, seed, batch, .. } = &args.run;
    let dir = &args.model_id;
    if is_gguf(dir) && args.learns != LearnsWord::Head {
        bail!(UsageError("--model-id is a GGUF file, whose weights stay as they are; give --learns head".to_owned()));
    }
    if is_gguf(dir) && args.dummy_weights {
        let problem = "--dummy-weights is for a directory with config.json, and --model-id is a GGUF file";
        bail!(UsageError(problem.to_owned()));
    }
    let memory = Memory::before(&args.run)?;
    args.run.create_out(Some(dir))?;
    let (data, data_settings) = match &args.data {
        Some(data) => {
            let end = base_config(dir)?.ends.first().copied();
            args.run.rows(data, dir, &args.rows, end)?
        }
        None => (args.run.sudoku()?, DataSettings::Sudoku),
    };
    let (data, held_out) = data.held_out();
    let (ratio_min, ratio_max) = (args.ratio[0], args.ratio[1]);
    if !(ratio_min > 0.0 && ratio_min < ratio_max && ratio_max <= 1.0) {
        bail!("--ratio is {ratio_min} {ratio_max}; give two numbers above 0 and at most 1, the smaller first");
    }
    let recipe = Recipe {
        fills: args.fills,
        order: Choice::of(args.order),
        temperature: args.temperature,
        lambda: args.lambda,
        carried: args.carried,
        rounds: if args.carried > 0.0 {
            args.rounds.and_then(NonZeroU32::new).unwrap_or(ROUNDS)
        } else {
            NonZeroU32::MIN
        },
        ratio_min,
        ratio_max,
    };
    let learns = match args.learns {
        LearnsWord::Everything => Learns::Everything,
        LearnsWord::Head => Learns::HeadAlone,
        LearnsWord::Lora => Learns::Adapters {
            rank: args.rank,
            alpha: args.alpha.unwrap_or(args.rank as f64),
            targets: args.targets.clone(),
        },
    };
    let own = [("recipe", json!(format!("{recipe:?}"))), ("learns", json!(format!("{learns:?}")))];
    let settings = args.run.settings("prism", &data_settings, own)?;
    let (base, recipe_of_run, allow_foreign_head) = (dir.clone(), recipe.clone(), args.allow_foreign_head);
    let (batch, seed, recipe_of_run) = (*batch, *seed, recipe_of_run);
    let precision = args.dtype;
    let held = held_out.clone();
    let tuning = Tuning {
        base,
        data,
        held_out: held,
        batch,
        recipe: recipe_of_run,
        learns,
        heads: args.head.clone(),
        seed,
        allow_foreign_head,
        precision,
        has_dummy_weights: args.dummy_weights,
    };
    let tuning = tuning.load(args.run.device)?;
    let stop = stop_flag()?; // only now: while the model is loaded, a signal ends the program
    let (run, checkpoint) = (args.run.config()?, out.join("checkpoint.safetensors"));
    if let Some(memory) = memory {
        return memory.show(&args.run, tuning.frozen(), |report| {
            Ok(tuning.run(&run, &checkpoint, &settings, &stop, report)?.finished)
        });
    }
    let monitor = Monitor::new(args.run.steps, out, tuning.compared(), &stop);
    let tuned = tuning.run(&run, &checkpoint, &settings, &stop, |progress| monitor.show(progress));
    let tuned = monitor.after(tuned)?;
    let fingerprint = tuned.write(out)?;
    if tuned.finished.is_complete {
        fs::write(out.join("PRISM.md"), card(args, &fingerprint, &held_out, &recipe, &tuned)?)?;
    }
    if let Some(comparison) = &tuned.comparison {
        monitor.say(&compared(comparison));
    }
    Ok(monitor.close(&tuned.finished, out)?)
}

fn trained(args: &PrismArgs) -> anyhow::Result<Box<dyn Denoiser>> {
    let out = &args.run.out;
    let (base, prism_head) = (args.model_id.clone(), Some(out.join("prism_head.safetensors")));
    let source = match args.learns {
        LearnsWord::Everything => Source::Directory { dir: out.clone(), prism_head, adapter: None },
        LearnsWord::Head if is_gguf(&base) => Source::Gguf { file: base, prism_head },
        LearnsWord::Head => Source::Directory { dir: base, prism_head, adapter: None },
        LearnsWord::Lora => Source::Directory { dir: base, prism_head, adapter: Some(out.join("adapter")) },
    };
    Ok(load(&source, args.run.device)?)
}

/// Which of several heads serves, and why.
fn compared(comparison: &Comparison) -> String {
    let loss = |head: &HeadMeans| head.judgement.map_or_else(|| "unknown".to_owned(), |loss| format!("{loss:.4}"));
    let losses: Vec<String> = comparison.heads.iter().map(|means| format!("{} {}", means.head, loss(means))).collect();
    let reason = match comparison {
        Comparison { is_held_out: true, .. } => "whose judgement has the lowest loss on held-out rows",
        _ if comparison.judged_right.is_some() => {
            "whose judgement had the lowest loss in the last steps; of held-out rows no token was judged"
        }
        _ => "the first one, since no token was judged",
    };
    let best = comparison.heads.get(comparison.best()).map(|best| best.head.to_string()).unwrap_or_default();
    format!(
        "remask: heads/ has every head, and prism_head.safetensors is {best}, {reason} (nats: {})",
        losses.join(", ")
    )
}

const CARD_ROWS: usize = 200;

/// The card of a head, which is tried on held-out rows.
fn card(
    args: &PrismArgs,
    weights: &str,
    held_out: &Data,
    recipe: &Recipe,
    Tuned { comparison, .. }: &Tuned,
) -> anyhow::Result<String> {
    let PrismArgs { run: RunArgs { seed, steps, batch, puzzles, .. }, learns, rank, .. } = args;
    let grids = || format!("complete Sudoku grids, {:.0} % of them with the clues of a puzzle", 100.0 * puzzles);
    let data = args.data.as_ref().map_or_else(grids, |data| format!("`{}`", data.display()));
    let learned = match learns {
        LearnsWord::Head if comparison.is_some() => "several heads alone, on the same states".to_owned(),
        LearnsWord::Everything => "the head and the whole model, whose weights lie beside it".to_owned(),
        LearnsWord::Head => "the head alone".to_owned(),
        LearnsWord::Lora => format!("the head, and adapters of rank {rank} in `adapter`"),
    };
    let rows = u32_of(held_out.most(CARD_ROWS));
    let calibration = measure(&mut *trained(args)?, held_out, rows, recipe, *seed)?;
    let card = Card {
        base: args.model_id.display().to_string(),
        weights,
        data,
        learned,
        has_adapter: *learns == LearnsWord::Lora,
        has_model: *learns == LearnsWord::Everything,
        steps: *steps,
        batch: *batch,
        seed: *seed,
        recipe,
        comparison: comparison.as_ref(),
    };
    Ok(card.text(rows, &calibration))
}
