//! `remask train base`: pretrains a masked diffusion model.

use super::dry_run::Memory;
use super::options::{BuiltInTask, DataSettings, Monitor, RowArgs, RunArgs};
use crate::cmd::model::SUDOKU_TOKENIZER;
use crate::cmd::signal::stop_flag;
use crate::cmd::words::{count, number};
use crate::files;
use crate::model::{Config, copy_companions};
use crate::train::{Base, Start};
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(crate) struct BaseArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Train on a built-in task
    #[arg(long, conflicts_with = "data", required_unless_present = "data")]
    task: Option<BuiltInTask>,
    /// Hidden size of a new Sudoku model
    #[arg(long, default_value_t = 128, requires = "task", value_parser = count::<usize>(1 << 18))]
    d_model: usize,
    /// Number of blocks [default: 4 for a new Sudoku model]. With --model-id, a multiple of the
    /// model's number: each block is then followed by copies that at first add nothing
    #[arg(long, value_parser = count::<usize>(1 << 10))]
    layers: Option<usize>,
    /// Train on a file: text, or JSONL with `prompt` (never masked) and `response`; or on all files
    /// of a folder
    #[arg(long, requires = "model_id", value_name = "PATH")]
    data: Option<PathBuf>,
    /// Directory with config.json, for --data with tokenizer.json, and optionally initial weights
    #[arg(long, value_name = "DIR", conflicts_with = "d_model")]
    model_id: Option<PathBuf>,
    #[command(flatten)]
    rows: RowArgs,
    /// Maximum share of a row's tokens that is masked, not counting prompts and clues
    #[arg(long, default_value_t = 1.0, value_parser = number(1e-9, 1.0))]
    ratio_max: f64,
}

pub(super) fn run(args: &BaseArgs) -> anyhow::Result<()> {
    let RunArgs { out, seed, batch, .. } = &args.run;
    let memory = Memory::before(&args.run)?;
    args.run.create_out(args.model_id.as_deref())?;
    let (config, start, files) = match &args.model_id {
        Some(dir) => {
            let (mut config, mut start) = (Config::read(dir)?, Start::of(dir)?);
            if let Some(layers) = args.layers {
                (config, start) = start.expanded(&config, layers)?;
            }
            let json = files::read(&dir.join("config.json"), files::CONFIG_MAX)?;
            let json = with_layers(json, config.n_layers)?;
            (config, start, vec![("config.json", json)])
        }
        None => {
            let json = sudoku_config(args.d_model, args.layers.unwrap_or(4));
            let config = Config::parse(json.to_string().as_bytes(), "the new config.json")?;
            let files: Vec<File> = vec![
                ("config.json", format!("{json:#}\n").into_bytes()),
                ("generation_config.json", b"{\n  \"block_length\": 89\n}\n".to_vec()),
                ("tokenizer.json", SUDOKU_TOKENIZER.to_vec()),
            ];
            (config, Start::Sudoku, files)
        }
    };
    let (data, data_settings) = match (&args.data, &args.model_id) {
        (Some(data), Some(dir)) => args.run.rows(data, dir, &args.rows, config.ends.first().copied())?,
        (None, _) | (Some(_), None) => (args.run.sudoku()?, DataSettings::Sudoku), // --data requires --model-id
    };
    let ratio_max = args.ratio_max;
    let own = [("ratio_max", json!(ratio_max)), ("d_model", json!(config.d_model)), ("layers", json!(config.n_layers))];
    let settings = args.run.settings("base", &data_settings, own)?;
    let (data, held_out) = data.held_out();
    let pretraining = Base { config, data, held_out, batch: *batch, ratio_max, seed: *seed };
    let stop = stop_flag()?; // only now: while the model is loaded, a signal ends the program
    if let Some(memory) = memory {
        let run = args.run.config()?;
        let checkpoint = out.join("checkpoint.safetensors");
        return memory
            .show(&args.run, 0, |report| Ok(pretraining.run(&run, start, &checkpoint, &settings, &stop, report)?));
    }
    let monitor = Monitor::new(args.run.steps, out, Vec::new(), &stop);
    let run = args.run.config()?;
    let checkpoint = out.join("checkpoint.safetensors");
    let finished = pretraining.run(&run, start, &checkpoint, &settings, &stop, |progress| monitor.show(progress));
    let finished = monitor.after(finished)?;
    // only now: a run that is refused changes nothing
    args.model_id.iter().try_for_each(|dir| copy_companions(dir, out))?;
    files.into_iter().try_for_each(|(name, bytes)| fs::write(out.join(name), bytes))?;
    finished.write_backbone(&out.join("model.safetensors"))?;
    Ok(monitor.close(&finished, out)?)
}

/// A file of the new model's directory: its name and content.
type File = (&'static str, Vec<u8>);

/// A config.json with `n_layers` set, as it is where that is its number already.
fn with_layers(json: Vec<u8>, layers: usize) -> anyhow::Result<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(&json)?;
    if config["n_layers"] == layers {
        return Ok(json);
    }
    config["n_layers"] = json!(layers);
    Ok(format!("{config:#}\n").into_bytes())
}

/// The config.json of a LLaDA model for 9x9 grids.
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
