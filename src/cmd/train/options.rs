//! The flags of both kinds of training, what follows from them, and progress in the terminal.

use super::losses::Losses;
use crate::cmd::model::gguf_tokenizer;
use crate::cmd::print::{self, OutputError};
use crate::cmd::words::{count, number, one_of, whole};
use crate::diffusion::TokenId;
use crate::files;
use crate::model::{Device, is_gguf, threads};
use crate::text::Tokenizer;
use crate::train::data::{Cutting, Data, Filling, RowCache};
use crate::train::sudoku::Split;
use crate::train::{Finished, HeadForm, HeadMeans, Means, Products, Progress, RunConfig, Schedule, TrainError, in_hex};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BuiltInTask {
    /// Complete Sudoku grids, generated during training
    Sudoku,
}

const PRECISIONS: [(&str, Products, &str); 4] = [
    ("auto", Products::Auto, "bf16 on a GPU, f32 on a CPU"),
    ("f32", Products::F32, "32 bits"),
    ("tf32", Products::Tf32, "32 bits, of which a GPU multiplies the upper 19"),
    ("bf16", Products::Bf16, "16 bits; on a CPU slow, to compare with"),
];

/// Most steps of a training run.
const STEPS_MAX: u64 = u32::MAX as u64;

/// Steps of a dry run.
const TRIAL_STEPS: u32 = 3;

/// Default number of warm-up steps.
const WARMUP: u32 = 200;

/// Flags of both kinds of training.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// Directory for the checkpoint and the weights. A checkpoint in it is resumed
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Number of steps of the whole run
    #[arg(long, value_parser = count::<u32>(STEPS_MAX))]
    pub(super) steps: u32,
    /// Rows per step
    #[arg(long, default_value_t = 64, value_parser = count::<usize>(1 << 20))]
    pub(super) batch: usize,
    /// Rows computed at once, on a CPU by each thread. The gradients of a step are added up
    /// [default: 8 on a CPU, as many as hold 32,768 tokens on a GPU, fewer of a wide model]
    #[arg(long, value_parser = count::<usize>(1 << 20))]
    piece: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_parser = number(0.0, 10.0))]
    learning_rate: f64,
    /// Number of warm-up steps, over which the learning rate rises to its peak; at most --steps
    /// [default: 200, or --steps if that is less]
    #[arg(long, value_parser = whole::<u32>(0, STEPS_MAX))]
    warmup: Option<u32>,
    /// AdamW's beta1 and beta2
    #[arg(long, num_args = 2, value_names = ["B1", "B2"], default_values_t = [0.9, 0.98], value_parser = number(0.0, 0.9999999))]
    betas: Vec<f64>,
    /// Weight decay of matrices. Gains and biases have none
    #[arg(long, default_value_t = 0.05, value_parser = number(0.0, 10.0))]
    weight_decay: f64,
    /// Maximum norm of the gradient. A larger one is scaled down
    #[arg(long, default_value_t = 1.0, value_parser = number(1e-9, 1e9))]
    clip: f64,
    /// Decay of the moving average of the weights. The average is what is written
    #[arg(long, default_value_t = 0.999, value_parser = number(0.0, 0.9999999))]
    ema: f64,
    /// Random seed of data, masks and initial weights
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>(0, u64::MAX))]
    pub(super) seed: u64,
    /// Number of steps between checkpoints
    #[arg(long, default_value_t = 200, value_parser = count::<u32>(STEPS_MAX))]
    save_every: u32,
    /// Number of steps between measurements on held-out rows, one of 20; 0 for none
    #[arg(long, default_value_t = 100, value_parser = whole::<u32>(0, STEPS_MAX))]
    eval_every: u32,
    /// Share of Sudoku grids whose clues are a puzzle with one solution. Others have random clues
    #[arg(long, default_value_t = 0.5, value_parser = number(0.0, 1.0))]
    pub(super) puzzles: f64,
    /// Compute blocks again in the backward pass instead of keeping what they computed: less
    /// memory, about a third more time, the same result
    #[arg(long)]
    recompute: bool,
    /// Number format of the products of matrices that learn; all else is in f32
    #[arg(long, default_value = "auto", value_parser = one_of(PRECISIONS))]
    precision: Products,
    /// Device to compute on: `auto`, `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto")]
    pub(super) device: Device,
    /// Take three steps, say how long the run will take and what it needs, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Flags of data in files.
#[derive(Args, Clone, Debug)]
pub(super) struct RowArgs {
    /// Length of the rows of --data in tokens
    #[arg(long, default_value_t = 256, value_parser = count::<usize>(1 << 20))]
    pub(super) length: usize,
    /// Put as many examples of JSONL into a row as fit, each closed by the end of text, instead of
    /// one
    #[arg(long, conflicts_with = "unpadded")]
    packed: bool,
    /// Make a row as long as its example of JSONL, closed by the end of text, instead of filling
    /// it up to --length; rows of different lengths go through the model together
    #[arg(long)]
    unpadded: bool,
}

/// The file in --out that keeps the rows of --data.
const ROWS: &str = "rows.bin";

impl RunArgs {
    /// The rows of a file or folder, tokenised for the model in `dir` and kept in --out.
    pub(super) fn rows(
        &self,
        data: &Path,
        dir: &Path,
        RowArgs { length, packed, unpadded }: &RowArgs,
        end: Option<TokenId>,
    ) -> anyhow::Result<(Data, DataSettings)> {
        let length = *length;
        let filling = match (packed, unpadded) {
            (true, _) => Filling::Packed,
            (_, true) => Filling::Unpadded,
            (_, _) => Filling::EndOfText,
        };
        let (tokenizer, sha256) = tokenizer_of(dir)?;
        let (cutting, file) = (Cutting { tokenizer: &tokenizer, length, end, filling }, self.out.join(ROWS));
        let cache = (!self.dry_run).then_some(RowCache { file: &file, tokenizer: &sha256 });
        print::say(format_args!("remask: reading {} ...", data.display()));
        let rows = Data::read(data, cutting, self.seed, cache)?;
        Ok((rows, DataSettings::File { length, filling, tokenizer: sha256 }))
    }

    /// Creates the directory --out, which must not be that of the model.
    pub(super) fn create_out(&self, model_id: Option<&Path>) -> anyhow::Result<()> {
        let out = &self.out;
        if !self.dry_run {
            fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
        }
        if model_id.is_some_and(|dir| is_same(dir, out)) {
            bail!("--out and --model-id are both {}; give --out another one", out.display());
        }
        Ok(())
    }

    pub(super) fn config(&self) -> anyhow::Result<RunConfig> {
        if let Some(warmup) = self.warmup.filter(|warmup| *warmup > self.steps) {
            bail!("--warmup is {warmup} and --steps {}; give --warmup at most that many", self.steps);
        }
        let schedule = Schedule {
            steps: self.steps,
            learning_rate: self.learning_rate,
            warmup: self.warmup.unwrap_or(WARMUP).min(self.steps),
            betas: [self.betas[0], self.betas[1]],
            weight_decay: self.weight_decay,
            clip: self.clip,
            ema: self.ema,
        };
        let report_every = if self.dry_run || io::stderr().is_terminal() { 1 } else { 10 };
        Ok(RunConfig {
            schedule,
            piece: self.piece,
            threads: threads(),
            save_every: self.save_every,
            report_every,
            evaluate_every: NonZeroU32::new(self.eval_every).filter(|_| !self.dry_run),
            recompute: self.recompute,
            products: self.precision,
            device: self.device,
            trial: self.dry_run.then_some(TRIAL_STEPS),
        })
    }

    /// Sudoku grids as training data.
    pub(super) fn sudoku(&self) -> anyhow::Result<Data> {
        Ok(Data::Sudoku { seed: self.seed, split: Split::Train, puzzles: self.puzzles })
    }

    /// The settings that determine the result, together with the data and the initial weights. A
    /// checkpoint is resumed only with the same ones. `more` are those of this kind of training.
    pub(super) fn settings<const N: usize>(
        &self,
        kind: &str,
        data: &DataSettings,
        more: [(&str, Value); N],
    ) -> anyhow::Result<Map<String, Value>> {
        let Value::Object(mut settings) = serde_json::to_value(self.config()?.schedule)? else { return Ok(Map::new()) };
        let shared = [("batch", json!(self.batch)), ("seed", json!(self.seed)), ("kind", json!(kind))];
        let data = match data {
            DataSettings::Sudoku => vec![("task", json!("sudoku")), ("puzzles", json!(self.puzzles))],
            DataSettings::File { length, filling, tokenizer } => {
                let filling = match filling {
                    Filling::EndOfText => None,
                    Filling::Packed => Some(("packed", json!(true))),
                    Filling::Unpadded => Some(("unpadded", json!(true))),
                };
                let always = [("length", json!(length)), ("tokenizer_sha256", json!(tokenizer))];
                always.into_iter().chain(filling).collect()
            }
        };
        settings.extend(shared.into_iter().chain(data).chain(more).map(|(key, value)| (key.to_owned(), value)));
        Ok(settings)
    }
}

/// What determines the rows of training data, besides the seed and the data themselves.
pub(super) enum DataSettings {
    Sudoku,
    File {
        /// Tokens of a row.
        length: usize,
        filling: Filling,
        /// SHA-256 of `tokenizer.json`.
        tokenizer: String,
    },
}

/// The tokenizer of a model, and its SHA-256: that of `tokenizer.json`, or with a GGUF file of the
/// one that would be made of it.
fn tokenizer_of(base: &Path) -> anyhow::Result<(Tokenizer, String)> {
    if is_gguf(base) {
        let tokenizer = gguf_tokenizer(base)?;
        let tokenizer = tokenizer.with_context(|| format!("{} has no tokenizer", base.display()))?;
        let sha256 = in_hex(&Sha256::digest(tokenizer.json()?));
        return Ok((tokenizer, sha256));
    }
    let tokenizer = Tokenizer::from_dir(base)?;
    let tokenizer = tokenizer.with_context(|| format!("{} has no tokenizer.json", base.display()))?;
    let file = base.join("tokenizer.json");
    let bytes = files::read(&file, files::TOKENIZER_MAX).with_context(|| format!("cannot read {}", file.display()))?;
    Ok((tokenizer, in_hex(&Sha256::digest(bytes))))
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// A progress bar on a terminal; elsewhere one JSON object per line on standard output.
pub(super) struct Monitor {
    bar: Option<ProgressBar>,
    losses: RefCell<Losses>,
    /// The last loss on held-out rows, in words.
    held_out: RefCell<String>,
    /// Stops the run.
    stop: Arc<AtomicBool>,
    /// Why standard output cannot be written.
    lost: RefCell<Option<OutputError>>,
}

impl Monitor {
    /// Of a run of so many steps in the directory `out`, in which `heads` are compared, if any.
    pub(super) fn new(steps: u32, out: &Path, heads: Vec<HeadForm>, stop: &Arc<AtomicBool>) -> Self {
        let (stop, lost, losses) = (Arc::clone(stop), RefCell::default(), RefCell::new(Losses::of(out, heads)));
        let held_out = RefCell::default();
        if !io::stderr().is_terminal() {
            return Self { bar: None, losses, held_out, stop, lost };
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]");
        let bar = ProgressBar::new(u64::from(steps)).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
        Self { bar: Some(bar), losses, held_out, stop, lost }
    }

    /// Shows or prints the progress. Where it cannot be printed, the run stops as after a signal.
    pub(super) fn show(&self, progress: &Progress) {
        self.losses.borrow_mut().add(progress);
        match &self.bar {
            Some(bar) => {
                let Progress { loss, means, tokens_per_s, .. } = progress;
                bar.set_position(u64::from(progress.step));
                let right = means.accuracy.or(means.judged_right).unwrap_or_default();
                if let Some(means) = &progress.held_out {
                    self.held_out.replace(held_out(means));
                }
                let held_out = self.held_out.borrow();
                let right = format!("{:.1} % right", 100.0 * right);
                bar.set_message(format!("loss {loss:.3}{held_out}, {right}, {tokens_per_s:.0} tokens/s"));
            }
            None => {
                if let Err(error) = print::line(serde_json::to_string(progress).unwrap_or_default()) {
                    self.stop.store(true, Ordering::Relaxed);
                    self.lost.replace(Some(error));
                }
            }
        }
    }

    /// Says something beside the bar.
    pub(super) fn say(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::say(words)),
            None => print::say(words),
        }
    }

    /// Writes the losses of a run, also of one that failed.
    ///
    /// # Errors
    /// Those of the run, and when a file cannot be written.
    pub(super) fn after<T>(&self, run: Result<T, TrainError>) -> anyhow::Result<T> {
        let written = self.losses.borrow().write();
        let run = run?;
        written?;
        Ok(run)
    }

    /// Says how the run has ended.
    ///
    /// # Errors
    /// When progress could not be printed.
    pub(super) fn close(self, finished: &Finished, out: &Path) -> Result<(), OutputError> {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        let out = out.display();
        if finished.is_complete {
            print::say(format_args!("done: weights are in {out}"));
        } else {
            print::say(format_args!("stopped after step {}; the same command goes on from {out}", finished.step));
        }
        self.lost.into_inner().map_or(Ok(()), Err)
    }
}

/// The loss on held-out rows, of each head where there are several.
fn held_out(means: &Means) -> String {
    let of_head = |head: &HeadMeans| Some(format!("{} {:.3}", head.head, head.judgement?));
    let heads: Vec<String> = means.heads.iter().filter_map(of_head).collect();
    match means.judgement.or(means.cross_entropy) {
        _ if !heads.is_empty() => format!(" (held out {})", heads.join(", ")),
        Some(loss) => format!(" (held out {loss:.3})"),
        None => String::new(),
    }
}
