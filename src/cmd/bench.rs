//! `remask bench`: throughput of a model, and the engine's overhead, as medians over several runs.

use super::ask::{answer_all, engine};
use super::model::ModelArgs;
use super::{print, words::count};
use crate::diffusion::TokenId;
use crate::diffusion::policy::{Choice, OFF};
use crate::engine::{Handle, Length, Prompt, Request, Task};
use crate::model::{Batch, Config, Denoiser, Device, Inspection, ModelError, ModelSpec, Readings, Source, load};
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// LLaDA blocks of the size of BERT base: 100 million parameters, not counting the output matrix.
const DUMMY_100M: &str = r#"{
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "activation_type": "silu",
    "layer_norm_type": "rms", "d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12,
    "mlp_hidden_size": 2048, "vocab_size": 32000, "embedding_size": 32000, "max_sequence_length": 1024,
    "rope": true, "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "weight_tying": false, "mask_token_id": 31999,
    "eos_token_id": null, "pad_token_id": null, "alibi": false, "include_bias": false, "include_qkv_bias": false
}"#;

/// Default numbers of concurrent sequences.
pub const STREAMS: [usize; 3] = [1, 4, 16];

/// Flags of `remask bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Measure a LLaDA model of 100M parameters with random weights instead of --model-id
    #[arg(long)]
    dummy_100m: bool,
    /// Cells of the canvas; the first quarter is the prompt [default: 128 or the model's limit]
    #[arg(long, value_parser = count::<usize>(1 << 20))]
    canvas: Option<usize>,
    /// Number of forward passes per sequence
    #[arg(long, default_value_t = 32, value_parser = count::<u32>(65_536))]
    steps: u32,
    /// Numbers of concurrent sequences; each is measured and gets its own line
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = STREAMS, value_parser = count::<usize>(4096))]
    streams: Vec<usize>,
    /// Number of runs per line; the median is printed
    #[arg(long, default_value_t = 5, value_parser = count::<usize>(1000))]
    repeat: usize,
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The model's name.
    pub model: String,
    /// Cells of each canvas.
    pub canvas: usize,
    /// Forward passes of each sequence.
    pub steps: u32,
    /// Concurrent sequences.
    pub streams: usize,
    /// Forward passes per second.
    pub passes_per_s: f64,
    /// Tokens processed by forward passes, per second.
    pub token_forwards_per_s: f64,
    /// Tokens written per second by all sequences together.
    pub tokens_per_s: f64,
    /// Time spent outside the model between submission and answer, as a share of the model's time.
    pub engine_overhead: f64,
}

/// Measures a model and prints the figures.
///
/// # Errors
/// When the model cannot be loaded or a run fails.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let (name, model) = if args.dummy_100m {
        ("dummy-100m".to_owned(), dummy_model()?)
    } else {
        let loaded = args.model.load()?;
        (loaded.name, loaded.model)
    };
    let figures = measure(&name, model, args.canvas, args.steps, &args.streams, args.repeat)?;
    if args.json {
        for line in &figures {
            print::line(serde_json::to_string(line)?)?;
        }
        return Ok(());
    }
    print_table(&figures)
}

/// The 100M dummy model, for `cargo bench`.
///
/// # Errors
/// When it cannot be made.
pub fn dummy_model() -> anyhow::Result<Box<dyn Denoiser>> {
    let config = Config::parse(DUMMY_100M.as_bytes(), "the dummy's configuration")?;
    Ok(load(&Source::Dummy { config, seed: 0 }, Device::Cpu)?)
}

/// The embedded Sudoku model, for `cargo bench`.
///
/// # Errors
/// When the embedded files are damaged.
pub fn sudoku_model() -> anyhow::Result<Box<dyn Denoiser>> {
    Ok(load(&super::model::SUDOKU, Device::Cpu)?)
}

/// Measures greedy runs in confidence order, without remasking and in one block, with the first
/// quarter of the canvas fixed. One entry per number of concurrent sequences, `streams`.
///
/// # Errors
/// When a number of streams is 0, the canvas does not fit the model, or a run fails.
#[tokio::main(flavor = "current_thread")]
pub async fn measure(
    name: &str,
    model: Box<dyn Denoiser>,
    canvas: Option<usize>,
    steps: u32,
    streams: &[usize],
    repeat: usize,
) -> anyhow::Result<Vec<Figures>> {
    if streams.contains(&0) {
        bail!("0 sequences at the same time show nothing; give at least 1");
    }
    let spec = model.spec().clone();
    let canvas = canvas.unwrap_or(spec.canvas_max.min(128));
    let reading = Arc::new(AtomicU64::new(0));
    let timed = Timed { model, reading_nanos: Arc::clone(&reading) };
    let handle = engine(Box::new(timed), None)?;
    let request = request(&spec, canvas, steps);
    let plan = Figures { model: name.to_owned(), canvas, steps, streams: 1, ..Figures::default() };
    time_run(&handle, &request, &reading, plan.clone()).await?; // warm-up: page faults and thread start
    let mut figures = Vec::new();
    for &streams in streams {
        let mut runs = Vec::new();
        for _ in 0..repeat.max(1) {
            runs.push(time_run(&handle, &request, &reading, Figures { streams, ..plan.clone() }).await?);
        }
        runs.sort_by_key(|(took, _)| *took);
        figures.push(runs.swap_remove(runs.len() / 2).1);
    }
    Ok(figures)
}

fn request(spec: &ModelSpec, canvas: usize, steps: u32) -> Request {
    let fixed = u32::try_from((canvas / 4).max(1)).unwrap_or(u32::MAX);
    let ids = (0..fixed).map(|i| (7 + 13 * i) % spec.vocabulary);
    let prompt = ids.map(|id| TokenId(if id == spec.mask.0 { (id + 1) % spec.vocabulary } else { id })).collect();
    Request {
        steps: Some(steps),
        block_length: Some(u32::MAX),
        remasking: Some(Choice::of(&OFF)),
        seed: Some(0),
        ..Request::new(Task::Continue { prompt: Prompt::Tokens(prompt), length: Length::Total(canvas) })
    }
}

/// The time of one run, and `figures` with what it measured.
async fn time_run(
    handle: &Handle,
    request: &Request,
    reading: &AtomicU64,
    figures: Figures,
) -> anyhow::Result<(Duration, Figures)> {
    let streams = figures.streams;
    let before = reading.load(Ordering::Relaxed);
    let begun = Instant::now();
    let (mut passes, mut token_forwards, mut written) = (0, 0, 0);
    let submit = |_| Ok(handle.submit(request)?);
    answer_all(streams, streams, submit, |_, start, answer| {
        passes = passes.max(answer.forward_passes);
        token_forwards += answer.forward_passes as usize * (start.offset + start.cells.len());
        written += answer.written.len();
        Ok(())
    })
    .await?;
    let reading = Duration::from_nanos(reading.load(Ordering::Relaxed) - before).as_secs_f64();
    let elapsed = begun.elapsed();
    let took = elapsed.as_secs_f64();
    let measured = Figures {
        passes_per_s: f64::from(passes) / took,
        token_forwards_per_s: token_forwards as f64 / took,
        tokens_per_s: written as f64 / took,
        engine_overhead: (took - reading) / reading,
        ..figures
    };
    Ok((elapsed, measured))
}

/// A model that adds up the time of its forward passes.
#[derive(Debug)]
struct Timed {
    model: Box<dyn Denoiser>,
    reading_nanos: Arc<AtomicU64>,
}

impl Denoiser for Timed {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        let begun = Instant::now();
        let readings = self.model.read(batch);
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.reading_nanos.fetch_add(nanos, Ordering::Relaxed);
        readings
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.model.inspect(ids)
    }
}

/// Prints the figures as a table.
///
/// # Errors
/// When standard output is closed or full.
pub fn print_table(figures: &[Figures]) -> anyhow::Result<()> {
    print::line(format_args!(
        "{:<12} {:>6} {:>5} {:>7} {:>9} {:>16} {:>9} {:>15}",
        "model", "canvas", "steps", "streams", "passes/s", "token-forwards/s", "tokens/s", "engine overhead"
    ))?;
    for line in figures {
        let Figures { model, canvas, steps, streams, passes_per_s, token_forwards_per_s, tokens_per_s, .. } = line;
        let overhead = 100.0 * line.engine_overhead;
        print::line(format_args!(
            "{model:<12} {canvas:>6} {steps:>5} {streams:>7} {passes_per_s:>9.1} {token_forwards_per_s:>16.0} \
             {tokens_per_s:>9.0} {overhead:>13.2} %"
        ))?;
    }
    Ok(())
}
