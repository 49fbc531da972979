//! Several heads on the same states: each learns what it learns alone, is written, and serves.

use super::super::error::TrainError;
use super::super::head_alone::HeadAlone;
use super::super::heads::{HeadChoice, Heads};
use super::super::net::Net;
use super::super::parameters::{Gradients, Parameters};
use super::super::progress::Progress;
use super::super::run::{Objective, RunConfig};
use super::super::samples::{Recipe, Rows};
use super::super::tuning::{Learns, Tuned, Tuning};
use super::head_alone::{data, recipe, source};
use super::runs::run;
use super::{learned, numbers, plainly, tiny, tuning};
use crate::diffusion::{Canvas, Cell, TokenId};
use crate::model::{self, Config, Denoiser, HeadFacts, LoadOptions, Row, Source, load, load_frozen};
use candle_core::Device;
use serde_json::Map;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

fn choices(text: &str) -> Vec<HeadChoice> {
    text.split(',').map(|choice| choice.parse().unwrap()).collect()
}

/// A model of the tests without a head.
fn base(family: &str) -> tempfile::TempDir {
    let (root, dir) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"), tempfile::tempdir().unwrap());
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(root.join(family).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

struct Run {
    heads: Heads,
    parameters: Parameters,
    objective: HeadAlone,
}

impl Run {
    fn of(heads: &str, config: &Config) -> Self {
        let (heads, parameters) =
            Heads::alone(&choices(heads), config, (None, &HeadFacts::default()), 7, &Device::Cpu).unwrap();
        let model = load_frozen(&source(&tiny(), None), model::Device::Cpu, LoadOptions::default()).unwrap();
        let rows = Rows::new(config.mask, [data(), data()], 4, recipe(), 2);
        let mut objective = HeadAlone::new(rows, model, heads.clone());
        objective.piece = 3;
        Self { heads, parameters, objective }
    }

    fn slopes(&self, gradients: &Gradients, prefix: &str) -> Vec<f32> {
        let own = self.parameters.trained.keys().filter(|name| name.starts_with(prefix));
        own.flat_map(|name| numbers(&gradients.0[name])).collect()
    }
}

#[test]
fn each_of_several_heads_learns_what_it_learns_alone() {
    const NAMES: [&str; 4] = ["16@1", "64@2", "5@2", "64@1"];
    let config = Config::read(&tiny()).unwrap();
    let mut together = Run::of(&NAMES.join(","), &config);
    let mut alone = NAMES.map(|name| Run::of(name, &config));
    for step in 0..6 {
        let net = Net::new(&config, &together.parameters, 24, &plainly()).unwrap();
        let read = together.objective.rows(step).unwrap();
        let (all, gradients, feedback) = learned(&together.objective, &net, &read);
        let mut sum = 0.0;
        for ((index, alone), head) in alone.iter_mut().enumerate().zip(together.heads.all()) {
            let net = Net::new(&config, &alone.parameters, 24, &plainly()).unwrap();
            let read = alone.objective.rows(step).unwrap();
            let (sums, slopes, _) = learned(&alone.objective, &net, &read);
            let own = &all.heads[index];
            assert_eq!((own.head, own.judgement, own.quality), (*head, sums.judgement, sums.quality), "step {step}");
            assert_eq!((all.judged, all.judged_right), (sums.judged, sums.judged_right));
            let slopes = alone.slopes(&slopes, "");
            assert!(slopes.iter().any(|slope| *slope != 0.0));
            let prefix = together.heads.prefix(*head);
            assert_eq!(together.slopes(&gradients, &prefix), slopes, "{head} in step {step}");
            sum += sums.loss;
        }
        assert!((all.loss - sum).abs() < 1e-9 * sum, "the loss of step {step}");
        assert_eq!((all.judgement, all.heads.len()), (all.heads[0].judgement, 4));
        // all see the rows that the first head's judgements lead to
        for Run { objective, .. } in &mut alone {
            objective.absorb(learned(&together.objective, &net, &read).2).unwrap();
        }
        together.objective.absorb(feedback).unwrap();
    }
}

fn tuning_of(base: &Path, heads: &str) -> Tuning {
    let heads = if heads.is_empty() { Vec::new() } else { choices(heads) };
    let recipe = Recipe { rounds: NonZeroU32::new(3).unwrap(), ..recipe() };
    Tuning { heads, ..tuning(base, data(), recipe, Learns::HeadAlone) }
}

/// Trains heads until so many steps are taken; returns the last report, too.
fn tune(base: &Path, out: &Path, heads: &str, until: u32) -> Result<(Tuned, Option<Progress>), TrainError> {
    let (stop, mut last) = (AtomicBool::new(false), None);
    let report = |progress: &Progress| {
        stop.store(progress.step >= until, Ordering::Relaxed);
        last = Some(progress.clone());
    };
    let run = RunConfig { evaluate_every: NonZeroU32::new(4), ..run(9) };
    let tuned = tuning_of(base, heads).load(model::Device::Cpu)?.run(
        &run,
        &out.join("checkpoint"),
        &Map::new(),
        &stop,
        report,
    )?;
    tuned.write(out)?;
    Ok((tuned, last))
}

fn file(out: &Path, head: &str) -> PathBuf {
    out.join("heads").join(format!("{head}.safetensors"))
}

fn qualities(model: &mut dyn Denoiser) -> Vec<f32> {
    let cell = |at: u32| if at % 3 == 2 { Cell::Blank } else { Cell::Filled(TokenId(at * 7 % 57)) };
    let canvas = Canvas::new((0..24).map(cell).collect());
    let row = Row { review: true, ..Row::plain(&canvas, 0..24) };
    let reading = model.read(&[row]).unwrap().remove(0).unwrap();
    reading.reviews.iter().map(|review| review.quality.get()).collect()
}

#[test]
fn several_heads_are_trained_measured_written_and_served() {
    for (family, heads) in
        [("llada-tiny", ["8@1", "64@2"]), ("illada-tiny", ["8@2", "12@1"]), ("dream-tiny", ["8@1", "32@3"])]
    {
        let (base, out) = (base(family), tempfile::tempdir().unwrap());
        let (tuned, last) = tune(base.path(), out.path(), &heads.join(","), 99).unwrap();
        let (comparison, held_out) = (tuned.comparison.unwrap(), last.unwrap().held_out.unwrap());
        assert!(tuned.finished.is_complete && comparison.is_held_out, "{family}");
        assert_eq!(comparison.heads, held_out.heads, "{family}: the last measurement is of the same rows and weights");
        assert_eq!(comparison.heads.iter().map(|head| head.head.to_string()).collect::<Vec<_>>(), heads);
        let served = |head: PathBuf| {
            let mut model = load(&source(base.path(), Some(head)), model::Device::Cpu).unwrap();
            let masked = (0..6).flat_map(|row| (8..24).map(move |at| TokenId((row * 31 + at * 5) % 57)));
            assert_eq!(model.spec().judged, Some(masked.collect()), "{family}");
            qualities(&mut *model)
        };
        let all = heads.map(|head| served(file(out.path(), head)));
        assert_ne!(all[0], all[1], "{family}");
        let best = comparison.best();
        assert!(comparison.heads[best].judgement <= comparison.heads[1 - best].judgement);
        assert_eq!(served(out.path().join("prism_head.safetensors")), all[best], "{family}");
    }
}

#[test]
fn a_run_of_several_heads_that_was_stopped_is_the_run_that_was_not() {
    const HEADS: &str = "8@1,64,9@2";
    let base = base("llada-tiny");
    let [whole, parts] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (expected, _) = tune(base.path(), whole.path(), HEADS, 99).unwrap();
    assert!(!tune(base.path(), parts.path(), HEADS, 4).unwrap().0.finished.is_complete);
    for heads in ["8@1,64", "64,8@1,9@2", ""] {
        let error = tune(base.path(), parts.path(), heads, 99).unwrap_err().to_string();
        assert!(error.contains("is of a run with heads [\"8@1\",\"64@2\",\"9@2\"], this one has heads "), "{error}");
    }
    tune(base.path(), parts.path(), HEADS, 99).unwrap();
    let (again, last) = tune(base.path(), parts.path(), HEADS, 99).unwrap(); // which has no steps left
    assert!(last.is_none() && again.comparison == expected.comparison, "{:?}", again.comparison);
    let bytes = |dir: &Path, file: &str| std::fs::read(dir.join(file)).unwrap();
    for file in ["checkpoint", "prism_head.safetensors", "heads/8@1.safetensors", "heads/9@2.safetensors"] {
        assert!(bytes(whole.path(), file) == bytes(parts.path(), file), "{file} differs");
    }
}

#[test]
fn one_head_of_another_form_is_trained_further_and_refused_beside_others() {
    let (base, out, more) = (base("llada-tiny"), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tuned, _) = tune(base.path(), out.path(), "12@1", 99).unwrap();
    assert!(tuned.comparison.is_none() && !out.path().join("heads").exists(), "there is one");
    std::fs::copy(out.path().join("prism_head.safetensors"), base.path().join("prism_head.safetensors")).unwrap();
    let before = qualities(&mut *load(&source(base.path(), None), model::Device::Cpu).unwrap());
    for heads in ["", "12@1"] {
        std::fs::remove_file(more.path().join("checkpoint")).ok(); // there is none at first
        tune(base.path(), more.path(), heads, 99).unwrap();
        let head = more.path().join("prism_head.safetensors");
        let tensors = candle_core::safetensors::load(&head, &Device::Cpu).unwrap();
        assert_eq!(tensors["proj1.weight"].dims(), [12, 64]);
        let after = qualities(&mut *load(&source(base.path(), Some(head)), model::Device::Cpu).unwrap());
        let change = after.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(change > 0.0 && change < 0.2, "it goes on from the head that is there: {change}");
    }
    for heads in ["12", "13@1", "12@1,13@1"] {
        let error = tune(base.path(), more.path(), heads, 99).unwrap_err().to_string();
        assert!(error.contains("the model has the quality head 12@1") && error.contains("Leave --head out"), "{error}");
    }
    // beside a model that learns, a head reads the last states
    for learns in [Learns::Everything, Learns::Adapters { rank: 1, alpha: 1.0, targets: vec!["q_proj".to_owned()] }] {
        let refused = |heads| {
            let tuning = Tuning { heads, ..tuning(base.path(), data(), recipe(), learns.clone()) };
            tuning.load(model::Device::Cpu).unwrap_err().to_string()
        };
        assert!(refused(choices("64")).contains("--head names heads that are trained on the states of a model"));
        let error = refused(Vec::new());
        assert!(error.contains("reads the states after block 1 of 2") && error.contains("--learns head"), "{error}");
    }
}

#[test]
fn a_smaller_head_is_trained_further_beside_a_model_that_learns() {
    let (base, out, more) = (base("llada-tiny"), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let without = load(&source(base.path(), None), model::Device::Cpu).unwrap().spec().parameters;
    tune(base.path(), out.path(), "12@2", 99).unwrap();
    std::fs::copy(out.path().join("prism_head.safetensors"), base.path().join("prism_head.safetensors")).unwrap();
    let loaded = tuning(base.path(), data(), recipe(), Learns::Everything).load(model::Device::Cpu).unwrap();
    let file = more.path().join("checkpoint");
    let tuned = loaded.run(&run(2), &file, &Map::new(), &AtomicBool::new(false), |_| ()).unwrap();
    tuned.write(more.path()).unwrap();
    let source = Source::Directory { dir: more.path().to_owned(), prism_head: None, adapter: None };
    let model = load(&source, model::Device::Cpu).unwrap();
    let head = 2 * 64 + 12 * (64 + 1) + (12 + 1); // norm, first matrix, second one
    assert_eq!(model.spec().parameters, without + head);
}
