//! The head alone: it learns what it would learn beside a backbone that stays as it is, of every
//! family that a head can judge.

use super::super::data::{Data, Example};
use super::super::head_alone::HeadAlone;
use super::super::heads::Heads;
use super::super::net::Net;
use super::super::parameters::Parameters;
use super::super::prism::Prism;
use super::super::run::Objective;
use super::super::samples::{Recipe, Rows};
use super::super::tuning::Learns;
use super::runs::run;
use super::{learned, numbers, plainly, tiny, trainable, tuning};
use crate::diffusion::TokenId;
use crate::diffusion::policy::{Choice, order};
use crate::model::{self, HeadFacts, LoadOptions, Source, load, load_frozen};
use candle_core::Device;
use serde_json::Map;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub(super) fn data() -> Data {
    let row =
        |row: u32| Example { tokens: (0..24).map(|at| (row * 31 + at * 5) % 57).collect(), free: (8..24).collect() };
    Data::of((0..6).map(row).collect(), 5)
}

/// Half of the rows are rollouts.
pub(super) fn recipe() -> Recipe {
    Recipe {
        fills: 3,
        order: Choice::of(&order::RANDOM),
        temperature: 1.0,
        lambda: 0.0,
        carried: 0.5,
        rounds: NonZeroU32::new(6).unwrap(),
        ratio_min: 0.2,
        ratio_max: 0.9,
    }
}

pub(super) fn source(dir: &Path, prism_head: Option<PathBuf>) -> Source {
    Source::Directory { dir: dir.to_owned(), prism_head, adapter: None }
}

#[test]
fn it_learns_what_it_learns_beside_a_network_with_gradients() {
    let (config, all) = trainable();
    let mut parameters = Parameters::default();
    for (name, tensor) in &all.trained {
        match name.starts_with("model.") {
            true => drop(parameters.frozen.insert(name.clone(), tensor.clone())),
            false => parameters.train(name.clone(), tensor).unwrap(),
        }
    }
    let net = Net::new(&config, &parameters, 24, &plainly()).unwrap();
    let model = load_frozen(&source(&tiny(), None), model::Device::Cpu, LoadOptions::default()).unwrap();
    let (heads, _) = Heads::alone(&[], &config, (None, &HeadFacts::default()), 2, &Device::Cpu).unwrap();
    let mut served = HeadAlone::new(Rows::new(config.mask, [data(), data()], 4, recipe(), 2), model, heads);
    served.piece = 3;
    let mut trained = Prism::new(config.clone(), [data(), data()], 4, recipe(), 2);
    for step in 0..6 {
        let (read, rows) = (served.rows(step).unwrap(), trained.rows(step).unwrap());
        let [a, b] =
            [learned(&served, &net, &read), learned(&trained, &net, &rows)].map(|(sums, gradients, feedback)| {
                let slopes = parameters.trained.keys().flat_map(|name| numbers(&gradients.0[name]));
                ((sums.judged, sums.judged_right), sums.loss, slopes.collect::<Vec<f32>>(), feedback)
            });
        assert_eq!(a.0, b.0, "the same tokens are judged in step {step}");
        assert!((a.1 - b.1).abs() < 1e-5 * b.1.abs(), "{} {} in step {step}", a.1, b.1);
        let largest = b.2.iter().fold(0.0f32, |largest, slope| largest.max(slope.abs()));
        assert!(a.2.iter().zip(&b.2).all(|(a, b)| (a - b).abs() < 1e-4 * largest), "the slopes of step {step}");
        served.absorb(a.3).unwrap();
        trained.absorb(b.3).unwrap();
    }
}

/// Trains a head for the model in `base` until so many steps are taken.
fn tune(base: &Path, out: &Path, steps: u32) -> bool {
    let tuning = tuning(base, data(), recipe(), Learns::HeadAlone);
    let stop = AtomicBool::new(false);
    let report = |progress: &super::super::progress::Progress| {
        assert!(progress.means.cross_entropy.is_none() && progress.means.judgement.is_some(), "{progress:?}");
        stop.store(progress.step >= steps, std::sync::atomic::Ordering::Relaxed);
    };
    let loaded = tuning.load(model::Device::Cpu).unwrap();
    let tuned = loaded.run(&run(12), &out.join("checkpoint"), &Map::new(), &stop, report).unwrap();
    tuned.write(out).unwrap();
    tuned.finished.is_complete
}

#[test]
fn a_run_that_was_stopped_is_the_run_that_was_not() {
    let [whole, parts] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    assert!(tune(&tiny(), whole.path(), 99));
    assert!(!tune(&tiny(), parts.path(), 3), "it ends its round first");
    assert!(tune(&tiny(), parts.path(), 99));
    for file in ["checkpoint", "prism_head.safetensors"] {
        let [whole, parts] = [&whole, &parts].map(|dir| std::fs::read(dir.path().join(file)).unwrap());
        assert!(whole == parts, "{file} differs");
    }
}

#[test]
fn a_run_is_not_resumed_with_another_backbone() {
    let [base, out] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny().join(name), base.path().join(name)).unwrap();
    }
    tune(base.path(), out.path(), 3);
    let weights = base.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let resumed = std::panic::catch_unwind(|| tune(base.path(), out.path(), 99)).unwrap_err();
    let words = resumed.downcast_ref::<String>().unwrap();
    assert!(words.contains("is of a run with backbone_sha256"), "{words}");
}

#[test]
fn a_model_of_every_family_that_does_not_judge_itself_gets_a_head() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for family in ["dream-tiny", "illada-tiny"] {
        let [base, out] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(root.join(family).join(name), base.path().join(name)).unwrap();
        }
        assert!(tune(base.path(), out.path(), 99), "{family}");
        let head = out.path().join("prism_head.safetensors");
        let model = load(&source(base.path(), Some(head)), model::Device::Cpu).unwrap();
        assert!(model.spec().has_quality, "{family}");
        let masked = (0..6).flat_map(|row| (8..24).map(move |at| TokenId((row * 31 + at * 5) % 57)));
        assert_eq!(model.spec().judged, Some(masked.collect()), "{family}");
    }
    let error = model::head_start(&root.join("remedi-tiny"), model::Device::Cpu, false).unwrap_err().to_string();
    assert!(error.contains("has a RemeDi model, which judges its tokens itself"), "{error}");
}

#[test]
fn a_gguf_file_gets_a_head_whose_weights_it_keeps_in_few_bits() {
    let [base, out] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny().join(name), base.path().join(name)).unwrap();
    }
    let file = |format: model::Format| {
        let file = base.path().join("model.gguf");
        let _ = std::fs::remove_file(&file); // there is none at first
        model::quantise(base.path(), None, None, format, &file, false).unwrap();
        file
    };
    let gguf = file(model::Format::Q8_0);
    assert!(!tune(&gguf, out.path(), 3), "it ends its round first");
    assert!(tune(&gguf, out.path(), 99), "and goes on");
    let head = out.path().join("prism_head.safetensors");
    let load = |source: &Source| load(source, model::Device::Cpu);
    let served = load(&Source::Gguf { file: gguf.clone(), prism_head: Some(head.clone()) }).unwrap();
    assert!(served.spec().has_quality && served.spec().weights.contains("q8_0"), "{}", served.spec().weights);
    assert!(load(&source(base.path(), Some(head))).is_err(), "made for what was rounded, not for what was not");
    std::fs::copy(tiny().join("prism_head.safetensors"), base.path().join("prism_head.safetensors")).unwrap();
    let start = model::head_start(&file(model::Format::Q8_0), model::Device::Cpu, false).unwrap().head.unwrap();
    let own = candle_core::safetensors::load(tiny().join("prism_head.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(numbers(&start["proj2.bias"]), numbers(&own["proj2.bias"]), "it starts from the head inside");
    std::fs::remove_file(base.path().join("prism_head.safetensors")).unwrap();
    file(model::Format::Q4_0);
    let resumed = std::panic::catch_unwind(|| tune(&gguf, out.path(), 99)).unwrap_err();
    let words = resumed.downcast_ref::<String>().unwrap();
    assert!(words.contains("is of a run with backbone_sha256"), "{words}");
}
