//! Dream: LLaDA's network with Qwen2's names, with biases of queries, keys and values, and with
//! logits that are those of the cell before. The numbers and traces are those of the definition in
//! `data/export_dream.py`. Its files are in `dream_files.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use candle_core::Device as Cpu;
use candle_core::safetensors::load as load_tensors;
use common::golden::{Golden, canvases, model, near};
use common::{data, engine};
use remask::diffusion::policy::{BUDGET, Choice, OFF, PRESENT, order};
use remask::diffusion::{Canvas, Cell, Reading, Reuse, TokenId};
use remask::engine::{Length, Limits, Prompt, Request, Task};
use remask::model::{Denoiser, Device, LoadOptions, Row, SequenceName, Source, load_with};
use serde_json::Value;
use std::path::PathBuf;

const MASK: u32 = 60;

fn tiny(name: &str) -> PathBuf {
    data("dream-tiny").join(name)
}

/// Ids of which the first `prompt` are fixed.
fn canvas(ids: &[TokenId], prompt: usize) -> Canvas {
    let cell = |(at, id): (usize, &TokenId)| match id {
        TokenId(MASK) => Cell::Blank,
        id if at < prompt => Cell::Fixed(*id),
        id => Cell::Filled(*id),
    };
    Canvas::new(ids.iter().enumerate().map(cell).collect())
}

/// The logarithms of the probabilities of all tokens but the mask.
fn distribution(logits: &[f32]) -> Vec<f32> {
    let mask = MASK as usize;
    let logits: Vec<f32> = logits[..mask].iter().chain(&logits[mask + 1..]).copied().collect();
    let mass: f32 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit - mass.ln()).collect()
}

fn read(model: &mut dyn Denoiser, rows: &[Row<'_>]) -> Vec<Reading> {
    model.read(rows).unwrap().into_iter().map(Result::unwrap).collect()
}

/// The probability of a token, from a row of logits.
fn probability(logits: &[f32], TokenId(id): TokenId) -> f32 {
    distribution(logits)[if id < MASK { id } else { id - 1 } as usize].exp()
}

#[test]
fn logits_states_and_qualities_are_those_of_the_definition() {
    let mut model = model(&tiny(""), None, None);
    let spec = model.spec();
    assert_eq!((spec.family.as_str(), spec.mask, &spec.ends[..]), ("dream", TokenId(MASK), &[TokenId(57)][..]));
    assert_eq!((spec.defaults.block_length, spec.canvas_max, spec.has_quality), (None, 256, true));
    let golden = Golden::open(&tiny("io.safetensors"));
    (0..3).for_each(|row| golden.check(row, "", &model.inspect(&golden.ids(row)).unwrap(), 1e-5));
}

#[test]
fn readings_are_of_the_cell_before_also_where_only_some_cells_are_asked_for() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let mut model = model(&tiny(""), None, None);
    for row in 0..3 {
        let ids = golden.ids(row);
        let (canvas, logits) = (canvas(&ids, 0), golden.numbers(row, "logits"));
        let logits: Vec<&[f32]> = logits.chunks(64).collect();
        let qualities = golden.numbers(row, "quality_logit");
        let middle = ids.len() / 3..ids.len().div_ceil(2);
        for window in [0..ids.len(), 0..1, 0..2.min(ids.len()), 1.min(ids.len())..ids.len(), middle] {
            let plain = Row::plain(&canvas, window.clone());
            let asked = Row { review: true, present: true, best: true, distributions: true, ..plain };
            let reading = read(&mut *model, &[asked]).remove(0);
            let blanks = window.clone().filter(|at| ids[*at] == TokenId(MASK)).count();
            assert_eq!(reading.distributions.len(), blanks);
            assert_eq!([reading.reviews.len(), reading.present.len(), reading.best.len()], [window.len() - blanks; 3]);
            for found in &reading.distributions {
                near("distribution", &found.log_probabilities, &distribution(logits[found.at.index()]), 1e-5);
            }
            for review in &reading.reviews {
                let expected = 1.0 / (1.0 + (-qualities[review.at.index()]).exp());
                near("quality", &[review.quality.get()], &[expected], 1e-5);
            }
            for present in &reading.present {
                let at = present.at.index();
                near("present", &[present.confidence.get()], &[probability(logits[at], ids[at])], 1e-4);
            }
            for best in &reading.best {
                let expected = probability(logits[best.at.index()], best.token);
                near("best", &[best.confidence.get()], &[expected], 1e-4);
            }
        }
    }
}

/// Each token with its own cell masked, and guidance by the same text without its prompt.
#[test]
fn left_out_tokens_and_guidance_are_read_from_the_cell_before_as_well() {
    const WEIGHT: f32 = 1.5;
    let mut model = model(&tiny(""), None, None);
    let ids: Vec<TokenId> = (0..12).map(|at| TokenId(if at % 3 == 1 { MASK } else { at * 5 % 57 })).collect();
    let canvas = canvas(&ids, 1);
    let left_out = Row { review: true, exact: true, ..Row::plain(&canvas, 0..12) };
    let guided = Row { guidance: Some(WEIGHT), ..Row::plain(&canvas, 0..12) };
    let readings = read(&mut *model, &[left_out, guided]);
    assert_eq!((readings[0].reviews.len(), readings[1].proposals.len()), (7, 4));
    for review in &readings[0].reviews {
        let mut masked = ids.clone();
        masked[review.at.index()] = TokenId(MASK);
        let logits = &model.inspect(&masked).unwrap().logits[review.at.index()];
        near("left out", &[review.quality.get()], &[probability(logits, ids[review.at.index()])], 1e-4);
    }
    let own = model.inspect(&ids).unwrap().logits;
    let mut unguided = ids.clone();
    unguided[0] = TokenId(MASK);
    let unguided = model.inspect(&unguided).unwrap().logits;
    for proposal in &readings[1].proposals {
        let both = own[proposal.at.index()].iter().zip(&unguided[proposal.at.index()]);
        let logits: Vec<f32> = both.map(|(l, u)| u + (1.0 + WEIGHT) * (l - u)).collect();
        near("guided", &[proposal.confidence.get()], &[probability(&logits, proposal.token)], 1e-4);
    }
}

/// A cached pass also computes the cell before the block, since the first cell of the block is read
/// from it, but reports nothing about it.
#[test]
fn cached_passes_are_those_of_the_definition_whatever_is_kept() {
    let tensors = load_tensors(tiny("cached.safetensors"), &Cpu::Cpu).unwrap();
    let number = |name: &str| usize::try_from(tensors[name].to_vec1::<i64>().unwrap()[0]).unwrap();
    let [prompt, start, end] = ["prompt_len", "block_start", "block_end"].map(number);
    let at_step = |step: usize| {
        let ids = tensors[&format!("{step}.input_ids")].to_vec1::<i64>().unwrap();
        let ids: Vec<TokenId> = ids.into_iter().map(|id| TokenId(u32::try_from(id).unwrap())).collect();
        canvas(&ids, prompt)
    };
    let base = at_step(0);
    for (cache_bytes, kind) in [(None, "prefix"), (None, "dual"), (Some(0), "prefix"), (Some(0), "dual")] {
        let source = Source::Directory { dir: tiny(""), prism_head: None, adapter: None };
        let options = LoadOptions { cache_bytes, ..LoadOptions::default() };
        let mut model = load_with(&source, Device::Cpu, options).unwrap();
        let until = if kind == "prefix" { base.len() } else { end };
        for step in 0..4 {
            let now = at_step(step);
            let seen = vec![0..base.len()];
            let run = if step == 0 { seen.clone() } else { vec![start..until] };
            let reuse = Some((SequenceName(1), Reuse { base: &base, run, seen }));
            // of the cells before the block, only a full pass reports
            let row = Row { reuse, present: true, distributions: true, ..Row::plain(&now, start - 3..end) };
            if step > 0 && cache_bytes.is_none() {
                assert_eq!(model.tokens(&row), until - start + 1, "the block and the cell before it");
            }
            let reading = read(&mut *model, &[row]).remove(0);
            if step == 0 {
                assert_eq!(reading.present.len(), 3);
                continue;
            }
            let filled: Vec<usize> = now.filled(start..end).map(|(at, _)| at.index()).collect();
            assert_eq!(reading.present.iter().map(|present| present.at.index()).collect::<Vec<_>>(), filled);
            assert_eq!(reading.distributions.len(), end - start - step);
            let logits = tensors[&format!("{kind}.{step}.logits")].to_vec2::<f32>().unwrap();
            for found in &reading.distributions {
                let expected = distribution(&logits[found.at.index() - start]);
                near(kind, &found.log_probabilities, &expected, 1e-5);
            }
            for present in &reading.present {
                let token = now.cells()[present.at.index()].token().unwrap();
                let expected = probability(&logits[present.at.index() - start], token);
                near(kind, &[present.confidence.get()], &[expected], 1e-4);
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_and_with_others_to_the_bit() {
    let golden = Golden::open(&tiny("io.safetensors"));
    let canvases: Vec<Canvas> = (0..3).map(|row| canvas(&golden.ids(row), row)).collect();
    let rows: Vec<Row<'_>> = canvases
        .iter()
        .flat_map(|canvas| {
            let plain = Row::plain(canvas, 0..canvas.len());
            let left_out = Row { review: true, exact: true, ..plain.clone() };
            let guided = Row { guidance: Some(0.5), ..plain.clone() };
            [Row { review: true, distributions: true, ..plain }, left_out, guided]
        })
        .collect();
    let mut model = model(&tiny(""), None, None);
    let together = read(&mut *model, &rows);
    for (row, together) in rows.iter().zip(together) {
        assert_eq!(read(&mut *model, std::slice::from_ref(row)).remove(0), together);
    }
}

/// The published `generation_config.json` sets 512 steps. A shorter answer takes a step per blank,
/// among which its erasures are divided.
#[tokio::test]
async fn the_published_default_of_steps_is_one_for_longer_answers() {
    let dir = tempfile::TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny(file), dir.path().join(file)).unwrap();
    }
    let keys = serde_json::json!({
        "_from_model_config": true, "alg": "origin", "alg_temp": null, "bos_token_id": 57, "eos_token_id": 57,
        "eps": 0.001, "mask_token_id": null, "output_history": false, "pad_token_id": 57, "steps": 512,
        "temperature": 0.0, "top_k": null, "top_p": null, "transformers_version": "4.46.2",
    });
    std::fs::write(dir.path().join("generation_config.json"), keys.to_string()).unwrap();
    let handle = engine(model(dir.path(), None, None), None, Limits::default());
    let run = async |steps: Option<u32>| {
        let remasking = Some(Choice::of(&PRESENT).with(BUDGET.name, 6));
        let prompt = Prompt::Tokens([1, 2, 3].map(TokenId).to_vec());
        let task = Task::Continue { prompt, length: Length::New(12) };
        let request = Request { steps, remasking, seed: Some(1), ..Request::new(task) };
        canvases(handle.submit_unmerged(&request).unwrap(), MASK).await
    };
    let (by_default, as_asked) = (run(None).await, run(Some(12)).await);
    assert_eq!(by_default, as_asked);
    let mut edits = as_asked.windows(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    assert!(edits.any(|(before, now)| *before != MASK && *now == MASK), "nothing was erased");
}

/// With its own `eps` the published sampler fills nothing in its first pass and two cells in its
/// last one. Up to there the runs are the same, as are those of an `eps` next to 0.
#[tokio::test]
async fn runs_are_those_of_the_published_sampler_as_far_as_it_fills_as_many_at_a_time() {
    let traces = serde_json::from_slice::<Value>(&std::fs::read(tiny("traces.json")).unwrap()).unwrap();
    let handle = engine(model(&tiny(""), None, None), None, Limits::default());
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    };
    let mut counts = [0; 2];
    for trace in traces["traces"].as_array().unwrap() {
        let order = match trace["alg"].as_str().unwrap() {
            "maskgit_plus" => &order::CONFIDENCE,
            "topk_margin" => &order::MARGIN,
            _ => &order::ENTROPY,
        };
        let new = usize::try_from(trace["new"].as_u64().unwrap()).unwrap();
        let prompt = Prompt::Tokens(ids(&trace["prompt"]).into_iter().map(TokenId).collect());
        let request = Request {
            order: Some(Choice::of(order)),
            steps: Some(u32::try_from(trace["steps"].as_u64().unwrap()).unwrap()),
            remasking: Some(Choice::of(&OFF)),
            ..Request::new(Task::Continue { prompt, length: Length::New(new) })
        };
        let ours = canvases(handle.submit_unmerged(&request).unwrap(), MASK).await;
        let mut theirs: Vec<Vec<u32>> = trace["canvases"].as_array().unwrap().iter().map(ids).collect();
        let blanks = |canvas: &Vec<u32>| canvas.iter().filter(|id| **id == MASK).count();
        if trace["eps"].as_f64().unwrap() > 0.0 && new > 9 {
            assert_eq!((theirs.len(), ours.len()), (new + 1, new + 1));
            assert_eq!((&theirs[0], blanks(&theirs[new - 1])), (&theirs[1], 2));
            theirs.remove(0);
            theirs.pop();
            assert_eq!(ours[..new - 1], theirs, "{trace}");
            counts[0] += 1;
        } else {
            assert_eq!(ours, theirs, "{trace}");
            counts[1] += 1;
        }
    }
    assert_eq!(counts, [3, 9]);
}
