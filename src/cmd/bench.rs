//! `remask bench`: how fast a model is refined, and what the engine adds to the model's own time. Every figure comes
//! with its canvas, steps and batch; times are medians over runs, because machines are noisy.

use super::model::{Loaded, ModelArgs};
use crate::diffusion::policy::{Choice, OFF};
use crate::diffusion::{Reading, TokenId};
use crate::engine::{Event, Handle, Length, Limits, Prompt, Request, Session, Task, start};
use crate::model::{Batch, Config, Denoiser, Device, Inspection, ModelError, ModelSpec, Source, load};
use crate::telemetry::Metrics;
use anyhow::bail;
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// LLaDA blocks in the size of BERT base: 100 million parameters without the embeddings' second half.
const DUMMY_100M: &str = r#"{
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "activation_type": "silu",
    "layer_norm_type": "rms", "d_model": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 12,
    "mlp_hidden_size": 2048, "vocab_size": 32000, "embedding_size": 32000, "max_sequence_length": 1024,
    "rope": true, "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "weight_tying": false, "mask_token_id": 31999,
    "eos_token_id": null, "pad_token_id": null, "alibi": false, "include_bias": false, "include_qkv_bias": false
}"#;

/// Sequences that run at the same time, for throughput, unless the flags say otherwise.
pub const STREAMS: [usize; 3] = [1, 4, 16];

/// Flags of `remask bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Measure random weights of a 100M-parameter LLaDA instead of --model-id
    #[arg(long)]
    dummy_100m: bool,
    /// Cells of the canvas, a quarter of them prompt; default: 128, or the model's limit
    #[arg(long)]
    canvas: Option<usize>,
    /// Forward passes per sequence
    #[arg(long, default_value_t = 32)]
    steps: u32,
    /// Sequences at the same time, one line for each number
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = STREAMS)]
    streams: Vec<usize>,
    /// Runs per figure
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// What was measured.
    pub model: String,
    /// Cells of each canvas.
    pub canvas: usize,
    /// Forward passes of each sequence.
    pub steps: u32,
    /// Sequences at the same time.
    pub streams: usize,
    /// Forward passes a second.
    pub passes_per_s: f64,
    /// Tokens seen by forward passes, a second.
    pub token_forwards_per_s: f64,
    /// Tokens written a second, all sequences together.
    pub tokens_per_s: f64,
    /// Time outside the model, from submission to answer, as a share of the model's time.
    pub engine_overhead: f64,
}

/// Measures what the flags name and prints it.
///
/// # Errors
/// When the model cannot be loaded or a run fails.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let loaded = if args.dummy_100m { dummy_100m()? } else { args.model.load()? };
    let name = loaded.name.clone();
    let figures = measure(&name, loaded.model, args.canvas, args.steps, &args.streams, args.repeat)?;
    if args.json {
        for line in &figures {
            println!("{}", serde_json::to_string(line)?);
        }
    } else {
        print_table(&figures);
    }
    Ok(())
}

fn dummy_100m() -> anyhow::Result<Loaded> {
    let config = Config::parse(DUMMY_100M.as_bytes(), "the dummy's configuration")?;
    let model = load(&Source::Dummy { config, seed: 0 }, Device::Cpu)?;
    Ok(Loaded { model, tokenizer: None, name: "dummy-100m".to_owned() })
}

/// The dummy by itself, for `cargo bench`.
///
/// # Errors
/// When it cannot be made.
pub fn dummy_model() -> anyhow::Result<Box<dyn Denoiser>> {
    Ok(dummy_100m()?.model)
}

/// The embedded Sudoku model, for `cargo bench`.
///
/// # Errors
/// When the embedded files are damaged.
pub fn sudoku_model() -> anyhow::Result<Box<dyn Denoiser>> {
    Ok(load(&super::model::SUDOKU, Device::Cpu)?)
}

/// Greedy runs in confidence order without erasing, one block, the first quarter of the canvas fixed; one line for
/// each number of `streams`, which is that of sequences at the same time.
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
    let handle = start(Box::new(timed), None, Limits::default(), Arc::new(Metrics::new()?))?;
    let request = request(&spec, canvas, steps);
    time_run(&handle, &request, 1, &reading).await?; // the first run pays for page faults and thread start-up
    let mut figures = Vec::new();
    for &streams in streams {
        let mut runs = Vec::new();
        for _ in 0..repeat.max(1) {
            runs.push(time_run(&handle, &request, streams, &reading).await?);
        }
        runs.sort_by_key(|run| run.took);
        figures.push(runs[runs.len() / 2].figures(name, canvas, steps, streams));
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

/// One measured run.
struct Run {
    took: Duration,
    reading: Duration,
    token_forwards: usize,
    passes: u32,
    written: usize,
}

impl Run {
    #[allow(clippy::cast_precision_loss)] // counts, for ratios
    fn figures(&self, model: &str, canvas: usize, steps: u32, streams: usize) -> Figures {
        let (took, reading) = (self.took.as_secs_f64(), self.reading.as_secs_f64());
        Figures {
            model: model.to_owned(),
            canvas,
            steps,
            streams,
            passes_per_s: f64::from(self.passes) / took,
            token_forwards_per_s: self.token_forwards as f64 / took,
            tokens_per_s: self.written as f64 / took,
            engine_overhead: (took - reading) / reading,
        }
    }
}

async fn time_run(handle: &Handle, request: &Request, streams: usize, reading: &AtomicU64) -> anyhow::Result<Run> {
    let before = reading.load(Ordering::Relaxed);
    let begun = Instant::now();
    let sessions: Vec<Session> = (0..streams).map(|_| handle.submit(request)).collect::<Result<_, _>>()?;
    let (mut passes, mut token_forwards, mut written) = (0, 0, 0);
    for mut session in sessions {
        let canvas = session.start.offset + session.start.cells.len();
        loop {
            match session.next().await {
                Some(Event::Step(_)) => {}
                Some(Event::Finished(answer)) => {
                    passes = passes.max(answer.forward_passes);
                    token_forwards += answer.forward_passes as usize * canvas;
                    written += answer.written.len();
                    break;
                }
                Some(Event::Failed(failure)) => return Err(failure.into()),
                None => bail!("the engine ended without an answer"),
            }
        }
    }
    let reading = Duration::from_nanos(reading.load(Ordering::Relaxed) - before);
    Ok(Run { took: begun.elapsed(), reading, token_forwards, passes, written })
}

/// A model whose own time is added up.
#[derive(Debug)]
struct Timed {
    model: Box<dyn Denoiser>,
    reading_nanos: Arc<AtomicU64>,
}

impl Denoiser for Timed {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError> {
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

/// The figures, for people.
pub fn print_table(figures: &[Figures]) {
    println!(
        "{:<12} {:>6} {:>5} {:>7} {:>9} {:>16} {:>9} {:>15}",
        "model", "canvas", "steps", "streams", "passes/s", "token-forwards/s", "tokens/s", "engine overhead"
    );
    for line in figures {
        let Figures { model, canvas, steps, streams, passes_per_s, token_forwards_per_s, tokens_per_s, .. } = line;
        let overhead = 100.0 * line.engine_overhead;
        println!(
            "{model:<12} {canvas:>6} {steps:>5} {streams:>7} {passes_per_s:>9.1} {token_forwards_per_s:>16.0} \
             {tokens_per_s:>9.0} {overhead:>13.2} %"
        );
    }
}
