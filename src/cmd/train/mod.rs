//! `remask train`: learn a model from nothing, or a quality head for a model. Everything a run was told stands in its
//! checkpoint, so that only the same run goes on from it.

mod prism;

use super::model::SUDOKU_TOKENIZER;
use crate::model::{Config, Device, threads};
use crate::text::Tokenizer;
use crate::train::data::Data;
use crate::train::sudoku::Split;
use crate::train::{Base, Finished, Report, Run, Schedule, Start};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io, thread};

/// Flags of `remask train`.
#[derive(Args, Clone, Debug)]
pub(super) struct TrainArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Pretrain a masked diffusion model
    Base(Box<BaseArgs>),
    /// Train a PRISM quality head for a model, alone, with adapters, or with the whole model
    Prism(Box<prism::PrismArgs>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Complete Sudoku grids, made on the way
    Sudoku,
}

/// What both kinds of training are told.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// Where the checkpoint and the weights go; a checkpoint that is there is resumed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Steps of the whole run
    #[arg(long)]
    steps: u32,
    /// Rows of a step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Rows computed at once by a thread; gradients are added up
    #[arg(long, default_value_t = 8)]
    piece: usize,
    /// Largest learning rate
    #[arg(long)]
    learning_rate: f64,
    /// Steps over which the learning rate rises
    #[arg(long, default_value_t = 200)]
    warmup: u32,
    /// Decay rates of AdamW's moments
    #[arg(long, num_args = 2, value_names = ["B1", "B2"], default_values_t = [0.9, 0.98])]
    betas: Vec<f64>,
    /// Weight decay of matrices
    #[arg(long, default_value_t = 0.05)]
    weight_decay: f64,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0)]
    clip: f64,
    /// Weight of the past in the moving average of the weights, which is what is written
    #[arg(long, default_value_t = 0.999)]
    ema: f64,
    /// Decides data, masks and fresh weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 200)]
    save_every: u32,
    /// Share of Sudoku rows whose clues are those of a puzzle with one solution; the others' are random cells
    #[arg(long, default_value_t = 0.5)]
    puzzles: f64,
    /// Where to compute: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    device: Device,
}

#[derive(Args, Clone, Debug)]
struct BaseArgs {
    #[command(flatten)]
    run: RunArgs,
    /// A built-in task
    #[arg(long, conflicts_with = "data", required_unless_present = "data")]
    task: Option<Task>,
    /// Width of the hidden states of a new Sudoku model
    #[arg(long, default_value_t = 128, requires = "task")]
    d_model: usize,
    /// Blocks: 4 for a new Sudoku model unless said; with --model-id a multiple of the model's, each of which is then followed
    /// by copies of itself that add nothing at first
    #[arg(long)]
    layers: Option<usize>,
    /// A file to learn from: text, or JSONL with `prompt` and `response`, of which the prompt is never masked
    #[arg(long, requires = "model_id", value_name = "FILE")]
    data: Option<PathBuf>,
    /// A directory with config.json (and tokenizer.json for --data); its weights are where training starts, if it has any
    #[arg(long, value_name = "DIR", conflicts_with = "d_model")]
    model_id: Option<PathBuf>,
    /// Tokens of a row of --data
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// Largest share of a row's free tokens that is masked
    #[arg(long, default_value_t = 1.0)]
    ratio_max: f64,
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Base(args) => base(args),
        What::Prism(args) => prism::run(args),
    }
}

fn base(args: &BaseArgs) -> anyhow::Result<()> {
    let RunArgs { out, seed, batch, .. } = &args.run;
    fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    let (config, start) = match &args.model_id {
        Some(dir) if is_same(dir, out) => {
            bail!("--out and --model-id are both {}; give --out another one", out.display())
        }
        Some(dir) => {
            let (config, start) = (Config::read(dir)?, Start::of(dir, args.run.device)?);
            let (config, start) = match args.layers {
                Some(layers) => start.expanded(&config, layers)?,
                None => (config, start),
            };
            for name in ["config.json", "generation_config.json", "tokenizer.json"] {
                if dir.join(name).exists() {
                    fs::copy(dir.join(name), out.join(name))?;
                }
            }
            set_layers(&out.join("config.json"), config.n_layers)?;
            (config, start)
        }
        None => {
            let json = sudoku_config(args.d_model, args.layers.unwrap_or(4));
            let config = Config::parse(json.to_string().as_bytes(), "the new config.json")?;
            fs::write(out.join("config.json"), format!("{json:#}\n"))?;
            fs::write(out.join("generation_config.json"), "{\n  \"block_length\": 89\n}\n")?;
            fs::write(out.join("tokenizer.json"), SUDOKU_TOKENIZER)?;
            (config, Start::Sudoku)
        }
    };
    let data = match (&args.data, &args.model_id) {
        (Some(data), Some(dir)) => {
            let tokenizer = Tokenizer::from_dir(dir)?;
            let tokenizer = tokenizer.with_context(|| format!("{} has no tokenizer.json", dir.display()))?;
            Data::read(data, &tokenizer, args.length, config.ends.first().copied(), *seed)?
        }
        (None, _) | (Some(_), None) => args.run.sudoku()?, // --data requires --model-id
    };
    let ratio_max = args.ratio_max;
    if !(ratio_max > 0.0 && ratio_max <= 1.0) {
        bail!("--ratio-max is {ratio_max}; give a number above 0 and at most 1");
    }
    let mut settings = args.run.settings()?;
    settings.insert("kind".to_owned(), json!("base"));
    settings
        .insert("data".to_owned(), json!(args.data.as_ref().map_or("sudoku".into(), |data| data.to_string_lossy())));
    settings.insert("ratio_max".to_owned(), json!(ratio_max));
    settings.insert("start".to_owned(), json!(start.name()));
    settings.insert("d_model".to_owned(), json!(config.d_model));
    settings.insert("layers".to_owned(), json!(config.n_layers));
    let task = Base { config, data, batch: *batch, ratio_max, seed: *seed };
    let screen = Screen::new(args.run.steps);
    let stop = stop_signal()?;
    let run = args.run.run()?;
    let checkpoint = out.join("checkpoint.safetensors");
    let finished = task.run(&run, start, &checkpoint, &settings, &stop, |report| screen.show(report))?;
    finished.write_backbone(&out.join("model.safetensors"))?;
    screen.close(&finished, out);
    Ok(())
}

/// Makes a config.json that of a model with this many blocks, if it is not.
fn set_layers(file: &Path, layers: usize) -> anyhow::Result<()> {
    let mut config: Value = serde_json::from_slice(&fs::read(file)?)?;
    if config["n_layers"] == layers {
        return Ok(());
    }
    config["n_layers"] = json!(layers);
    Ok(fs::write(file, format!("{config:#}\n"))?)
}

/// Whether two paths lead to one directory.
fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// LLaDA blocks for 9x9 grids.
fn sudoku_config(d_model: usize, layers: usize) -> Value {
    json!({
        "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "activation_type": "silu",
        "layer_norm_type": "rms", "d_model": d_model, "n_layers": layers, "n_heads": d_model.div_ceil(32),
        "n_kv_heads": d_model.div_ceil(32), "mlp_hidden_size": (d_model * 8 / 3).next_multiple_of(8), "vocab_size": 11,
        "embedding_size": 11, "max_sequence_length": 89, "rope": false, "rms_norm_eps": 1e-5, "weight_tying": false,
        "mask_token_id": 0, "eos_token_id": null, "pad_token_id": null, "alibi": false, "include_bias": false,
        "include_qkv_bias": false,
    })
}

impl RunArgs {
    fn run(&self) -> anyhow::Result<Run> {
        if self.steps == 0 || self.batch == 0 || self.piece == 0 || self.save_every == 0 {
            bail!("--steps, --batch, --piece and --save-every must be at least 1");
        }
        let schedule = Schedule {
            steps: self.steps,
            learning_rate: self.learning_rate,
            warmup: self.warmup.min(self.steps),
            betas: [self.betas[0], self.betas[1]],
            weight_decay: self.weight_decay,
            clip: self.clip,
            ema: self.ema,
        };
        let report_every = if io::stderr().is_terminal() { 1 } else { 10 };
        Ok(Run {
            schedule,
            piece: self.piece,
            threads: threads(),
            save_every: self.save_every,
            report_every,
            device: self.device,
        })
    }

    /// Grids to learn from.
    fn sudoku(&self) -> anyhow::Result<Data> {
        if !(0.0..=1.0).contains(&self.puzzles) {
            bail!("--puzzles is {}; give a share from 0 to 1", self.puzzles);
        }
        Ok(Data::Sudoku { seed: self.seed, split: Split::Train, puzzles: self.puzzles })
    }

    /// What decides the outcome.
    fn settings(&self) -> anyhow::Result<Map<String, Value>> {
        let Value::Object(mut settings) = serde_json::to_value(self.run()?.schedule)? else { return Ok(Map::new()) };
        settings.insert("batch".to_owned(), json!(self.batch));
        settings.insert("piece".to_owned(), json!(self.piece));
        settings.insert("seed".to_owned(), json!(self.seed));
        settings.insert("puzzles".to_owned(), json!(self.puzzles));
        Ok(settings)
    }
}

/// What is seen of a run: a bar on a terminal, one JSON object a line elsewhere.
struct Screen {
    bar: Option<ProgressBar>,
}

impl Screen {
    fn new(steps: u32) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]");
        let bar = ProgressBar::new(u64::from(steps)).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
        Self { bar: Some(bar) }
    }

    fn show(&self, report: &Report) {
        match &self.bar {
            Some(bar) => {
                let Report { loss, accuracy, tokens_per_s, .. } = report;
                bar.set_position(u64::from(report.step));
                bar.set_message(format!("loss {loss:.3}, {:.1} % right, {tokens_per_s:.0} tokens/s", 100.0 * accuracy));
            }
            None => println!("{}", serde_json::to_string(report).unwrap_or_default()),
        }
    }

    fn close(&self, finished: &Finished, out: &Path) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        let out = out.display();
        if finished.is_complete {
            eprintln!("done: weights are in {out}");
        } else {
            eprintln!("stopped after step {}; the same command goes on from {out}", finished.step);
        }
    }
}

/// Becomes true at Ctrl-C or SIGTERM.
fn stop_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signalled = {
        let _inside = runtime.enter();
        super::serve::stop_signal()?
    };
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        runtime.block_on(signalled);
        told.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}
