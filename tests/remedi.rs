//! `RemeDi` against numbers of its published code, and what follows from its blocks: which cells
//! see which, and which of them a pass computes.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::Device as Cpu;
use candle_core::safetensors::{load as load_tensors, save};
use common::data;
use common::golden::{Golden, Tensors, model, near};
use remask::diffusion::{Canvas, Cell, TokenId};
use remask::model::{Denoiser, Device, Family, Format, Inspection, Row, Source, described, load, quantise};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn tiny(name: &str) -> PathBuf {
    data("remedi-tiny").join(name)
}

/// The tiny model after a change to its configuration and tensors.
fn altered(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut keys: Value = serde_json::from_slice(&std::fs::read(tiny("config.json")).unwrap()).unwrap();
    config(&mut keys);
    std::fs::write(dir.path().join("config.json"), keys.to_string()).unwrap();
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    tensors(&mut weights);
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    dir
}

fn refusal(dir: &Path, prism_head: Option<PathBuf>) -> String {
    load(&Source::Directory { dir: dir.to_owned(), prism_head, adapter: None }, Device::Cpu).unwrap_err().to_string()
}

/// A golden row and the length of its prompt.
fn row(golden: &Golden, row: usize) -> (Vec<TokenId>, usize) {
    let prompt = golden.tensors[&format!("{row}.prompt_len")].to_vec1::<i64>().unwrap()[0];
    (golden.ids(row), usize::try_from(prompt).unwrap())
}

fn inspect(model: &mut dyn Denoiser, golden: &Golden, index: usize) -> Inspection {
    let (ids, prompt) = row(golden, index);
    model.inspect_prompted(&ids, prompt).unwrap()
}

#[test]
fn logits_states_and_confidences_are_those_of_the_published_code() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let spec = model.spec();
    assert_eq!((spec.family.as_str(), spec.mask, &spec.ends[..]), ("remedi", TokenId(263), &[TokenId(257)][..]));
    assert!(spec.has_quality, "no head is needed");
    for index in 0..3 {
        let found = inspect(&mut *model, &golden, index);
        near("logits", &found.logits.concat(), &golden.numbers(index, "logits"), 1e-5);
        near("hidden", &found.hidden.concat(), &golden.numbers(index, "hidden"), 1e-5);
        near("confidences", &found.quality_logits.unwrap(), &golden.numbers(index, "confidences"), 1e-5);
    }
}

#[test]
fn without_a_length_the_prompt_ends_at_the_first_blank() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let (mut ids, prompt) = row(&golden, 0);
    ids[prompt] = TokenId(263);
    assert_eq!(model.inspect(&ids), model.inspect_prompted(&ids, prompt));
    assert_ne!(model.inspect(&ids), model.inspect_prompted(&ids, prompt - 1));
}

/// Blanks where the ids are the mask, filled cells after the prompt.
fn canvas(ids: &[TokenId], prompt: usize) -> Canvas {
    let cell = |(index, id): (usize, &TokenId)| match id {
        id if index < prompt => Cell::Fixed(*id),
        TokenId(263) => Cell::Blank,
        id => Cell::Filled(*id),
    };
    Canvas::new(ids.iter().enumerate().map(cell).collect())
}

/// Cells before this see nothing of the cell `at`.
fn blind(at: usize, prompt: usize) -> usize {
    if at < prompt { 0 } else { prompt + (at - prompt) / 32 * 32 }
}

#[test]
fn a_cell_is_seen_by_its_block_and_those_after_it_and_by_no_other() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    for index in [0, 2] {
        let (ids, prompt) = row(&golden, index);
        let before = model.inspect_prompted(&ids, prompt).unwrap();
        for at in [0, prompt - 1, prompt, prompt + 31, prompt + 32, ids.len() - 1] {
            let mut other = ids.clone();
            other[at] = TokenId(if ids[at].0 == 7 { 8 } else { 7 });
            let after = model.inspect_prompted(&other, prompt).unwrap();
            let changed = |cell: usize| before.logits[cell] != after.logits[cell];
            let blind = blind(at, prompt);
            assert!((0..blind).all(|cell| !changed(cell)), "{at}: {:?}", (0..blind).find(|cell| changed(*cell)));
            assert!((blind..ids.len()).all(changed), "{at}");
        }
    }
}

#[test]
fn cells_behind_the_block_of_the_last_cell_that_is_asked_for_are_not_computed() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let (ids, prompt) = row(&golden, 2);
    let whole = canvas(&ids, prompt);
    let qualities = model.inspect_prompted(&ids, prompt).unwrap().quality_logits.unwrap();
    for window in [prompt..prompt + 1, prompt..prompt + 32, prompt + 5..prompt + 33, prompt..ids.len()] {
        let end = (prompt + (window.end - prompt).div_ceil(32) * 32).min(ids.len());
        let cut = canvas(&ids[..end], prompt);
        let read = |canvas| Row { review: true, present: true, ..Row::plain(canvas, window.clone()) };
        assert_eq!(model.cost(&[read(&whole)]), model.cost(&[read(&cut)]), "{window:?}");
        let reading = model.read(&[read(&whole)]).unwrap();
        assert_eq!(reading, model.read(&[read(&cut)]).unwrap());
        for review in &reading[0].as_ref().unwrap().reviews {
            let quality = (1.0 + (-qualities[review.at.index()]).exp()).recip();
            assert!((review.quality.get() - quality).abs() < 1e-5);
        }
    }
    let [first, all] =
        [prompt..prompt + 32, prompt..ids.len()].map(|window| model.cost(&[Row::plain(&whole, window)]).unwrap().flop);
    assert!(first * 3 < all * 2, "{first} {all}");
}

#[test]
fn the_company_in_a_pass_changes_no_bit() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    let canvases: Vec<Canvas> = (0..3)
        .flat_map(|index| {
            let (ids, prompt) = row(&golden, index);
            [prompt, 0, prompt + 40].map(|prompt| canvas(&ids, prompt.min(ids.len())))
        })
        .collect();
    let rows: Vec<Row<'_>> = canvases
        .iter()
        .flat_map(|canvas| {
            let row = Row { review: true, ..Row::plain(canvas, 0..canvas.len()) };
            [row.clone(), Row { window: 0..40, guidance: Some(0.5), ..row }]
        })
        .collect();
    let together = model.read(&rows).unwrap();
    for (row, together) in rows.iter().zip(together) {
        assert_eq!(model.read(std::slice::from_ref(row)).unwrap(), [together]);
    }
}

/// What a layer adds to the stream becomes zero.
fn silence(tensors: &mut Tensors, layer: usize) {
    for part in ["attn_out", "ff_out"] {
        let name = format!("model.transformer.blocks.{layer}.{part}.weight");
        tensors.insert(name.clone(), tensors[&name].zeros_like().unwrap());
    }
}

/// With 31 layers the last side block is the last of all blocks.
#[test]
fn a_layer_that_adds_nothing_can_be_left_out() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let silent = altered(|_| (), |tensors| silence(tensors, 31));
    let shorter = altered(
        |config| config["n_layers"] = json!(31),
        |tensors| tensors.retain(|name, _| !name.contains(".blocks.31.")),
    );
    let longer = altered(
        |config| config["n_layers"] = json!(33),
        |tensors| {
            let copy = |(name, tensor): (&String, &_)| (name.replace(".31.", ".32."), Clone::clone(tensor));
            let more: Vec<_> = tensors.iter().filter(|(name, _)| name.contains(".blocks.31.")).map(copy).collect();
            tensors.extend(more);
            silence(tensors, 31);
            silence(tensors, 32);
        },
    );
    let [silent, shorter, longer] = [silent, shorter, longer]
        .map(|dir| (0..3).map(|row| inspect(&mut *model(dir.path(), None, None), &golden, row)).collect::<Vec<_>>());
    for ((silent, shorter), longer) in silent.iter().zip(&shorter).zip(&longer) {
        for other in [shorter, longer] {
            near("logits", &other.logits.concat(), &silent.logits.concat(), 1e-5);
            let quality = |read: &Inspection| read.quality_logits.clone().unwrap();
            near("confidences", &quality(other), &quality(silent), 1e-5);
        }
    }
}

#[test]
fn the_family_is_known_by_its_tensors_or_its_class() {
    let llada = |config: &mut Value| {
        config["model_type"] = json!("llada");
        config["architectures"] = json!(["LLaDAModelLM"]);
    };
    let named = altered(llada, |_| ());
    let golden = Golden::open(&tiny("io.safetensors"));
    let [one, other] = [named.path(), &tiny("")].map(|dir| inspect(&mut *model(dir, None, None), &golden, 1));
    assert_eq!(one, other);
    assert_eq!(described(named.path()).unwrap().family, Family::Remedi);
    // without weights the class tells
    for change in [json!({"model_type": "RemeDi"}), json!({"auto_map": {"AutoModel": "m.RemeDiUPMModelLM"}})] {
        let dir = altered(llada, |_| ());
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        assert_eq!(described(dir.path()).unwrap().family, Family::Remedi, "{change}");
    }
}

#[test]
fn ids_that_no_file_has_are_those_of_the_published_models() {
    let without = |config: &mut Value| {
        let keys = config.as_object_mut().unwrap();
        keys.retain(|key, _| !key.ends_with("_token_id"));
        keys.extend([("embedding_size".to_owned(), json!(126_464)), ("vocab_size".to_owned(), json!(126_464))]);
    };
    let dir = altered(without, |_| ());
    let config = described(dir.path()).unwrap();
    assert_eq!((config.mask, &config.ends[..]), (TokenId(126_336), &[TokenId(126_081)][..]));
    let generating = json!({"mask_token_id": 126_000, "eos_token_id": [5, 9]});
    std::fs::write(dir.path().join("generation_config.json"), generating.to_string()).unwrap();
    let config = described(dir.path()).unwrap();
    assert_eq!((config.mask, &config.ends[..]), (TokenId(126_000), &[TokenId(5), TokenId(9)][..]));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let head = data("llada-tiny/prism_head.safetensors");
    let message = refusal(&tiny(""), Some(head));
    assert!(message.contains("this model judges its tokens itself; leave the head out"), "{message}");
    let short = altered(|config| config["n_layers"] = json!(30), |_| ());
    let message = refusal(short.path(), None);
    assert!(message.contains("`n_layers` is 30; RemeDi's last side block follows layer 30"), "{message}");
    let torn = altered(|_| (), |tensors| drop(tensors.remove("model.ln_f_upm.weight")));
    let message = refusal(torn.path(), None);
    assert!(message.contains("model.ln_f_upm.weight"), "{message}");
}

#[test]
fn in_a_gguf_file_and_with_random_weights_it_is_the_same_family() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let whole = model(&tiny(""), None, None);
    // rows of 32 columns do not fill blocks of 256, so q4_k falls back to q8_0
    for (format, tolerance) in [(Format::F16, 5e-3), (Format::Q8_0, 8e-2), (Format::Q4K, 8e-2)] {
        let out = TempDir::new().unwrap();
        let file = out.path().join("model.gguf");
        quantise(&tiny(""), None, None, format, &file, false).unwrap();
        let error = quantise(&tiny(""), Some(&data("llada-tiny")), None, format, &file, false).unwrap_err().to_string();
        assert!(error.contains("this model judges its tokens itself"), "{error}");
        let mut stored = load(&Source::Gguf { file, prism_head: None }, Device::Cpu).unwrap();
        let (spec, own) = (stored.spec().clone(), whole.spec());
        assert_eq!((&spec.family, spec.has_quality, spec.parameters), (&own.family, true, own.parameters));
        assert_eq!((spec.mask, &spec.ends), (own.mask, &own.ends));
        for index in 0..3 {
            let found = inspect(&mut *stored, &golden, index);
            near("logits", &found.logits.concat(), &golden.numbers(index, "logits"), tolerance);
            let quality = found.quality_logits.unwrap();
            near("confidences", &quality, &golden.numbers(index, "confidences"), tolerance);
        }
    }
    let config = described(&tiny("")).unwrap();
    let dummy = load(&Source::Dummy { config, seed: 1 }, Device::Cpu).unwrap();
    assert_eq!(dummy.spec(), whole.spec());
}
