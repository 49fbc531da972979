//! `remask bench`: throughput of a model, the engine's overhead, and a pass beside the least time
//! that its device could take, as medians over several runs.

mod figures;
mod timed;

use super::ask::{answer_all, engine};
use super::flag_names::{BENCH, in_flags};
use super::model::ModelArgs;
use super::print;
use super::sampling::SamplingArgs;
use super::words::{count, named};
use crate::diffusion::TokenId;
use crate::diffusion::policy::{Choice, Kind, NO_CACHE, OFF, Rule};
use crate::engine::{Handle, Length, Prompt, Request, Task};
use crate::model::{Config, Denoiser, Device, ModelSpec, Source, Speed, load};
use anyhow::bail;
use clap::Args;
use std::time::{Duration, Instant};
use timed::{Meter, SharedMeter, Timed};

pub use figures::{Figures, Floor, PerPass, print_table};

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
    /// Cells of a block; the passes are shared by the blocks [default: the whole canvas]
    #[arg(long, value_parser = count::<u32>(u32::MAX.into()))]
    block_length: Option<u32>,
    /// Which keys and values of earlier passes a pass uses
    #[arg(long, default_value = NO_CACHE.name, value_parser = named(Kind::Cache))]
    cache: &'static Rule,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Numbers of concurrent sequences; each is measured and gets its own line
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = STREAMS, value_parser = count::<usize>(4096))]
    streams: Vec<usize>,
    /// Number of runs per line; the median is printed
    #[arg(long, default_value_t = 5, value_parser = count::<usize>(1000))]
    repeat: usize,
    /// Print one JSON object per line instead of a table: docs/models.md describes it
    #[arg(long)]
    json: bool,
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
    let BenchArgs { canvas, steps, block_length, cache, .. } = *args;
    let SamplingArgs { temperature, top_k, top_p, min_p } = args.sampling;
    let workload = Workload { canvas, steps, block_length, cache, temperature, top_k, top_p, min_p };
    let figures = measure(&name, model, workload, &args.streams, args.repeat)?;
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

/// What each sequence of a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Cells of the canvas; `None` is 128 or the model's limit.
    pub canvas: Option<usize>,
    /// Forward passes of each sequence.
    pub steps: u32,
    /// As in [`Request`]; `None` is the whole canvas.
    pub block_length: Option<u32>,
    /// As in [`Request`].
    pub cache: &'static Rule,
    /// As in [`Request`].
    pub temperature: f32,
    /// As in [`Request`].
    pub top_k: Option<u32>,
    /// As in [`Request`].
    pub top_p: Option<f32>,
    /// As in [`Request`].
    pub min_p: Option<f32>,
}

impl Workload {
    /// So many passes over the default canvas, taking the most probable tokens.
    pub fn greedy(steps: u32) -> Self {
        Self {
            canvas: None,
            steps,
            block_length: None,
            cache: &NO_CACHE,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
        }
    }
}

/// Measures runs in confidence order, without remasking, with the first quarter of the canvas
/// fixed, and the speed of the model's device. One entry per number of concurrent
/// sequences, `streams`.
///
/// # Errors
/// When a number of streams is 0, the canvas does not fit the model, or a run fails.
#[tokio::main(flavor = "current_thread")]
pub async fn measure(
    name: &str,
    model: Box<dyn Denoiser>,
    workload: Workload,
    streams: &[usize],
    repeat: usize,
) -> anyhow::Result<Vec<Figures>> {
    if streams.contains(&0) {
        bail!("0 sequences at the same time show nothing; give at least 1");
    }
    let spec = model.spec().clone();
    let speed = model.speed()?;
    let canvas = workload.canvas.unwrap_or(spec.canvas_max.min(128));
    let meter = SharedMeter::default();
    let timed = Timed { model, meter: meter.clone() };
    let bench =
        Bench { handle: engine(Box::new(timed), None)?, request: request(&spec, canvas, workload), meter, speed };
    let plan = Figures {
        canvas,
        steps: workload.steps,
        block_length: workload.block_length,
        cache: workload.cache.name,
        streams: 1,
        ..Figures::of(name, &spec)
    };
    bench.time_run(plan.clone()).await?; // warm-up: page faults and thread start
    let mut figures = Vec::new();
    for &streams in streams {
        let mut runs = Vec::new();
        for _ in 0..repeat.max(1) {
            runs.push(bench.time_run(Figures { streams, ..plan.clone() }).await?);
        }
        runs.sort_by_key(|(took, _)| *took);
        figures.push(runs.swap_remove(runs.len() / 2).1);
    }
    Ok(figures)
}

fn request(spec: &ModelSpec, canvas: usize, workload: Workload) -> Request {
    let fixed = u32::try_from((canvas / 4).max(1)).unwrap_or(u32::MAX);
    let ids = (0..fixed).map(|i| (7 + 13 * i) % spec.vocabulary);
    let prompt = ids.map(|id| TokenId(if id == spec.mask.0 { (id + 1) % spec.vocabulary } else { id })).collect();
    let Workload { steps, block_length, cache, temperature, top_k, top_p, min_p, .. } = workload;
    Request {
        steps: Some(steps),
        block_length: Some(block_length.unwrap_or(u32::MAX)),
        cache: Some(Choice::of(cache)),
        remasking: Some(Choice::of(&OFF)),
        temperature,
        top_k,
        top_p,
        min_p,
        seed: Some(0),
        ..Request::new(Task::Continue { prompt: Prompt::Tokens(prompt), length: Length::Total(canvas) })
    }
}

/// A model in an engine, and the request that is measured.
struct Bench {
    handle: Handle,
    request: Request,
    meter: SharedMeter,
    speed: Option<Speed>,
}

impl Bench {
    /// The time of one run, and `figures` with what it measured.
    async fn time_run(&self, figures: Figures) -> anyhow::Result<(Duration, Figures)> {
        let streams = figures.streams;
        self.meter.take();
        let begun = Instant::now();
        let (mut passes, mut token_forwards, mut written) = (0, 0, 0);
        let submit = |_| Ok(self.handle.submit(&self.request).map_err(|rejected| in_flags(rejected, BENCH))?);
        answer_all(streams, streams, submit, |_, _, answer| {
            passes = passes.max(answer.forward_passes);
            token_forwards += answer.forward_tokens as usize;
            written += answer.written.len();
            Ok(())
        })
        .await?;
        let elapsed = begun.elapsed();
        let meter = self.meter.take();
        let Meter { reading, aside, .. } = meter;
        let elapsed = elapsed.saturating_sub(aside);
        let (took, reading) = (elapsed.as_secs_f64(), reading.as_secs_f64());
        let measured = Figures {
            passes_per_s: f64::from(passes) / took,
            token_forwards_per_s: token_forwards as f64 / took,
            tokens_per_s: written as f64 / took,
            engine_overhead: (took - reading) / reading,
            ..figures
        };
        Ok((elapsed, measured.with(&meter, self.speed)))
    }
}
