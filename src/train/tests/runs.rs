//! Runs: resumed, with other settings, on a full disk, diverging; and heads trained in every way.

use super::super::checkpoint;
use super::super::data::{Data, Example};
use super::super::error::TrainError;
use super::super::init::Start;
use super::super::optimiser::Schedule;
use super::super::precision::Products;
use super::super::pretrain::Base;
use super::super::progress::Progress;
use super::super::run::{Finished, Objective, RunConfig};
use super::super::samples::Recipe;
use super::super::sudoku::Split;
use super::super::tuning::{Learns, Tuned};
use super::{numbers, tiny, tuning};
use crate::diffusion::TokenId;
use crate::diffusion::policy::{Choice, order};
use crate::model::{self, Config, PresetsText, Source, load};
use candle_core::Device;
use serde_json::{Map, Value, json};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub(super) fn run(steps: u32) -> RunConfig {
    let schedule =
        Schedule { steps, learning_rate: 1e-3, warmup: 2, betas: [0.9, 0.98], weight_decay: 0.05, clip: 1.0, ema: 0.9 };
    RunConfig {
        schedule,
        piece: Some(2),
        threads: 2,
        save_every: 3,
        report_every: 1,
        evaluate_every: None,
        recompute: false,
        products: Products::Auto,
        device: model::Device::Cpu,
        trial: None,
    }
}

fn base() -> Base {
    let json = json!({
        "model_type": "llada", "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms",
        "d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 40, "vocab_size": 11, "max_sequence_length": 89,
        "rope": false, "weight_tying": false, "mask_token_id": 0,
    });
    let config = Config::parse(json.to_string().as_bytes(), "config.json").unwrap();
    Base {
        config,
        data: Data::Sudoku { seed: 1, split: Split::Train, puzzles: 0.5 },
        held_out: Data::Sudoku { seed: 1, split: Split::Validation, puzzles: 0.5 },
        batch: 5,
        ratio_max: 0.7,
        seed: 3,
    }
}

/// Runs a small pretraining that is stopped after some steps.
fn pretrain(checkpoint: &Path, settings: &Value, stop_after: u32) -> Result<Finished, TrainError> {
    pretrain_from(base(), Start::Sudoku, checkpoint, settings, stop_after)
}

fn pretrain_from(
    base: Base,
    start: Start,
    checkpoint: &Path,
    settings: &Value,
    stop_after: u32,
) -> Result<Finished, TrainError> {
    let stop = AtomicBool::new(false);
    let steps = AtomicU32::new(0);
    let count = |_: &Progress| {
        if steps.fetch_add(1, Ordering::Relaxed) + 1 == stop_after {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let Value::Object(settings) = settings else { panic!("settings are an object") };
    base.run(&run(7), start, checkpoint, settings, &stop, count)
}

#[test]
fn a_run_that_was_stopped_is_the_run_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    let settings = json!({"steps": 7});
    assert!(pretrain(&whole, &settings, 99).unwrap().is_complete);
    for stop_after in [2, 4, 99] {
        pretrain(&parts, &settings, stop_after).unwrap();
    }
    assert!(std::fs::read(whole).unwrap() == std::fs::read(parts).unwrap(), "the checkpoints differ");
}

#[test]
fn a_run_with_other_settings_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoint");
    pretrain(&file, &json!({"steps": 7, "seed": 3}), 2).unwrap();
    let error = pretrain(&file, &json!({"steps": 7, "seed": 4}), 2).unwrap_err().to_string();
    assert!(error.contains("is of a run with seed 3, this one has seed 4; resume with the same"), "{error}");
    let error = pretrain(&file, &json!({"length": 7}), 2).unwrap_err().to_string();
    let [saved, now] = ["length not set, seed 3, steps 7", "length 7, seed not set, steps not set"];
    assert!(error.contains(&format!("is of a run with {saved}, this one has {now};")), "{error}");
    std::fs::write(&file, b"not a checkpoint").unwrap();
    let error = pretrain(&file, &json!({"steps": 7}), 2).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
}

#[test]
fn a_run_with_other_data_weights_or_code_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoint");
    pretrain(&file, &json!({}), 2).unwrap();
    let before = std::fs::read(&file).unwrap();
    let check = |base: Base, start: Start, names: &[&str]| {
        let error = pretrain_from(base, start, &file, &json!({}), 2).unwrap_err().to_string();
        let (saved, now) = error.split_once("this one has").unwrap();
        for name in ["data_sha256", "config_sha256", "weights_sha256"] {
            let value = |text: &str| Some(text.split_once(&format!("{name} \""))?.1.split_once('"')?.0.to_owned());
            assert_eq!((value(saved).is_some(), value(now).is_some()), [names.contains(&name); 2].into(), "{error}");
            assert!(value(saved).is_none() || value(saved) != value(now), "{error}");
        }
        assert!(std::fs::read(&file).unwrap() == before);
    };
    let row = |first: u32, free: u32| Example { tokens: (first..first + 9).collect(), free: (0..free).collect() };
    let with = |data: Data| Base { data, ..base() };
    check(with(Data::Sudoku { seed: 2, split: Split::Train, puzzles: 0.5 }), Start::Sudoku, &["data_sha256"]);
    check(with(Data::of(vec![row(1, 9)], 1)), Start::Sudoku, &["data_sha256"]);
    check(base(), Start::Fresh, &["weights_sha256"]);
    check(Base { seed: 4, ..base() }, Start::Sudoku, &["weights_sha256"]);
    let mut other = base();
    other.config.rms_norm_eps *= 2.0;
    check(other, Start::Sudoku, &["config_sha256"]);
    let mut other = base();
    other.config.defaults.block_length = NonZeroU32::new(8); // of requests
    other.config.presets = Some(PresetsText::default());
    assert!(pretrain_from(other, Start::Sudoku, &file, &json!({}), 1).is_ok());

    // one token, and whether one may be masked
    let digest = |row: Example| Data::of(vec![row], 1).digest().unwrap();
    assert!(digest(row(0, 8)) != digest(row(1, 8)) && digest(row(1, 8)) != digest(row(1, 7)));

    let mut bytes = std::fs::read(&file).unwrap();
    let format = b"\\\"format\\\":2";
    let at = bytes.windows(format.len()).position(|window| window == format).unwrap();
    bytes[at + format.len() - 1] = b'9';
    std::fs::write(&file, bytes).unwrap();
    let error = pretrain(&file, &json!({}), 1).unwrap_err().to_string();
    assert!(error.contains("has format 9, this version continues format 2"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoint");
    pretrain(&file, &json!({}), 2).unwrap();
    let before = std::fs::read(&file).unwrap();
    let check = |cause: &str| {
        let error = pretrain(&file, &json!({}), 2).unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("untouched") && error.contains(cause), "{error}");
        assert!(std::fs::read(&file).unwrap() == before);
    };
    let unfinished = dir.path().join("checkpoint.unfinished"); // the file that is renamed at the end
    #[cfg(target_os = "linux")] // /dev/full is a disk that is always full
    {
        std::os::unix::fs::symlink("/dev/full", &unfinished).unwrap();
        check("No space left");
    }
    std::fs::create_dir(&unfinished).unwrap();
    check("");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoint");
    let settings = Map::new();
    let mut wild = run(50);
    wild.schedule.learning_rate = 1e30;
    wild.schedule.clip = 1e30;
    wild.schedule.warmup = 0;
    let error = base().run(&wild, Start::Sudoku, &file, &settings, &AtomicBool::new(false), |_| ()).unwrap_err();
    match error {
        TrainError::NotFinite { step, .. } => assert!((1..50).contains(&step), "{step}"),
        other => panic!("{other}"),
    }
    if let Some(saved) = checkpoint::open(&file, &Device::Cpu).unwrap() {
        assert!(saved.states.values().all(|state| numbers(&state.parts).iter().all(|number| number.is_finite())));
    }
}

/// Trains a head for a fresh copy of llada-tiny on two rows.
fn tune(out: &Path, learns: &Learns, rounds: u32, stops: &[u32]) -> Tuned {
    let rows = (0..2u32)
        .map(|row| Example { tokens: (0..24).map(|at| (row * 31 + at * 5) % 256).collect(), free: (8..24).collect() });
    let rows: Vec<Example> = rows.collect();
    let mut tuned = None;
    for &stop_after in stops {
        let recipe = Recipe {
            fills: 3,
            order: Choice::of(&order::RANDOM),
            temperature: 1.0,
            lambda: 0.5,
            carried: if rounds > 1 { 0.5 } else { 0.0 },
            rounds: NonZeroU32::new(rounds).unwrap(),
            ratio_min: 0.2,
            ratio_max: 0.9,
        };
        let tuning = tuning(&tiny(), Data::of(rows.clone(), 5), recipe, learns.clone());
        let stop = AtomicBool::new(false);
        let steps = AtomicU32::new(0);
        let count = |report: &Progress| {
            assert!(report.means.judgement.is_none_or(f64::is_finite));
            if steps.fetch_add(1, Ordering::Relaxed) + 1 >= stop_after {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let tuning = tuning.load(run(8).device).unwrap();
        tuned = Some(tuning.run(&run(8), &out.join("checkpoint"), &Map::new(), &stop, count).unwrap());
    }
    tuned.unwrap()
}

#[test]
fn a_head_is_trained_in_every_form_and_serves() {
    let adapters = || Learns::Adapters { rank: 2, alpha: 4.0, targets: vec!["q_proj".to_owned(), "v_proj".to_owned()] };
    for learns in [Learns::Everything, Learns::HeadAlone, adapters()] {
        let dir = tempfile::tempdir().unwrap();
        let tuned = tune(dir.path(), &learns, 4, &[99]);
        assert!(tuned.finished.is_complete);
        tuned.write(dir.path()).unwrap();
        let (base, adapter) = match &learns {
            Learns::Everything => (dir.path().to_owned(), None),
            Learns::HeadAlone => (tiny(), None),
            Learns::Adapters { .. } => (tiny(), Some(dir.path().join("adapter"))),
        };
        let head = dir.path().join("prism_head.safetensors");
        let source = |dir: PathBuf, adapter| Source::Directory { dir, prism_head: Some(head.clone()), adapter };
        let model = load(&source(base, adapter), model::Device::Cpu).unwrap();
        assert!(model.spec().has_quality);
        let masked = (0..2).flat_map(|row| (8..24).map(move |at| TokenId((row * 31 + at * 5) % 256)));
        assert_eq!(model.spec().judged, Some(masked.collect()), "what is never masked is not judged");
        if learns == Learns::Everything {
            let error = load(&source(tiny(), None), model::Device::Cpu).unwrap_err().to_string();
            assert!(error.contains("was made for the model"), "{error}");
        }
    }
}

#[test]
fn a_tuning_that_was_stopped_between_rounds_is_the_one_that_was_not() {
    let [whole, parts] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    tune(whole.path(), &Learns::Everything, 4, &[99]);
    let stopped = tune(parts.path(), &Learns::Everything, 4, &[1]);
    assert_eq!((stopped.finished.step, stopped.finished.is_complete), (4, false), "it ends its round first");
    tune(parts.path(), &Learns::Everything, 4, &[99]);
    let [whole, parts] = [whole, parts].map(|dir| std::fs::read(dir.path().join("checkpoint")).unwrap());
    assert!(whole == parts, "the checkpoints differ");
}

#[test]
fn what_is_masked_is_spread_evenly_and_weighted_by_its_ratio() {
    let mut base = base();
    base.batch = 50;
    base.data = Data::Sudoku { seed: 1, split: Split::Train, puzzles: 0.0 };
    let rows = base.rows(4).unwrap();
    let shares: Vec<f64> = rows.iter().map(|row| f64::from(u32::try_from(row.hidden.len()).unwrap()) / 57.0).collect();
    let mean = shares.iter().sum::<f64>() / 50.0;
    assert!((mean - 0.35).abs() < 0.02, "{mean}");
    for (row, share) in rows.iter().zip(&shares) {
        let ratio = 1.0 / (f64::from(row.weight) * 57.0 * 50.0);
        assert!((ratio - share).abs() < 0.25, "{ratio} {share}");
        assert!(row.hidden.iter().all(|(at, token)| row.ids[*at as usize] == 0 && (1..=9).contains(token)));
    }
    assert_eq!(base.rows(4).unwrap(), rows);
    assert_ne!(base.rows(5).unwrap(), rows);
}

#[test]
fn measuring_on_held_out_rows_changes_nothing_that_is_learned() {
    let dir = tempfile::tempdir().unwrap();
    let learned = |name: &str, every: u32| {
        let run = RunConfig { evaluate_every: NonZeroU32::new(every), ..run(7) };
        let mut reports = Vec::new();
        let report = |progress: &Progress| reports.push(progress.clone());
        let checkpoint = dir.path().join(name);
        let finished =
            base().run(&run, Start::Sudoku, &checkpoint, &Map::new(), &AtomicBool::new(false), report).unwrap();
        let weights: Vec<Vec<f32>> = finished.averages_of(|_| true).values().map(numbers).collect();
        (weights, reports)
    };
    let ((without, none), (with, some), (_, again)) = (learned("a", 0), learned("b", 3), learned("c", 3));
    assert_eq!(with, without);
    assert!(none.iter().all(|progress| progress.held_out.is_none()));
    let measured = |reports: &[Progress]| {
        let held_out = reports.iter().filter_map(|progress| Some((progress.step, progress.held_out.clone()?)));
        held_out.collect::<Vec<_>>()
    };
    let (first, steps) = (measured(&some), [3, 6, 7]);
    assert_eq!(first.iter().map(|(step, _)| *step).collect::<Vec<_>>(), steps);
    assert_eq!(first, measured(&again), "the same rows");
    for (_, held_out) in &first {
        let loss = held_out.cross_entropy.unwrap();
        assert!((1.0..4.0).contains(&loss) && held_out.judgement.is_none(), "{held_out:?}");
    }
}

#[test]
fn computing_blocks_again_learns_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let learned = |name: &str, recompute: bool| {
        let run = RunConfig { recompute, ..run(7) };
        let stop = AtomicBool::new(false);
        let finished = base().run(&run, Start::Sudoku, &dir.path().join(name), &Map::new(), &stop, |_| ()).unwrap();
        finished.averages_of(|_| true).values().map(numbers).collect::<Vec<_>>()
    };
    assert_eq!(learned("kept", false), learned("again", true));
}
