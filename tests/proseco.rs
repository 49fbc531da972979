//! The corrector loop of ProSeCo, pass for pass: against the traces of the published sampler, and
//! against a second implementation where these have nothing to say.
//!
//! `tests/data/llada-tiny/proseco.json` and `tests/data/fast-dllm-sharp/proseco.json` hold what
//! each forward pass of the published sampler saw, its working copies included, and the result.

mod common;

use common::server::{Server, SseEvent};
use common::{data, engine, finished, llada_tiny, llada_tiny_model, toy};
use remask::diffusion::policy::{CORRECT_EVERY, CORRECTOR_PASSES, Choice, PROSECO, Setting, Settings};
use remask::diffusion::{Canvas, TokenId};
use remask::engine::{Finish, Length, Limits, Prompt, Request, Task};
use remask::model::{Batch, Denoiser, Device, Inspection, ModelError, ModelSpec, Readings, Source, load};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A model that keeps what it is shown.
struct Recorder {
    model: Box<dyn Denoiser>,
    spec: ModelSpec,
    seen: Arc<Mutex<Vec<Canvas>>>,
}

impl Denoiser for Recorder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        self.seen.lock().unwrap().extend(batch.iter().map(|row| row.seen().clone()));
        self.model.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.model.inspect(ids)
    }
}

#[derive(Deserialize)]
struct Traces {
    mask: u32,
    traces: Vec<Trace>,
}

#[derive(Deserialize)]
struct Trace {
    prompt: Vec<u32>,
    gen_length: usize,
    block_length: u32,
    steps: u32,
    max_corrector_steps: u32,
    correct_every: u32,
    threshold: Option<f32>,
    eos: Option<u32>,
    cells_rewritten: u32,
    canvases: Vec<Vec<u32>>,
}

impl Trace {
    fn request(&self) -> Request {
        let prompt = Prompt::Tokens(self.prompt.iter().copied().map(TokenId).collect());
        let threshold = self.threshold.map(|threshold| ("threshold", Setting::Number(threshold)));
        let remasking = Choice::of(&PROSECO)
            .with(CORRECT_EVERY.name, self.correct_every)
            .with(CORRECTOR_PASSES.name, self.max_corrector_steps);
        Request {
            steps: self.threshold.is_none().then_some(self.steps),
            block_length: Some(self.block_length),
            pace: threshold.into_iter().fold(Settings::EMPTY, |all, (name, value)| all.with(name, value)),
            remasking: Some(remasking),
            ..Request::new(Task::Continue { prompt, length: Length::New(self.gen_length) })
        }
    }
}

#[tokio::test]
async fn every_pass_of_the_published_sampler_is_reproduced_token_for_token() {
    for (name, count) in [("llada-tiny", 11), ("fast-dllm-sharp", 6)] {
        let dir = data(name);
        let traces: Traces = serde_json::from_slice(&std::fs::read(dir.join("proseco.json")).unwrap()).unwrap();
        assert_eq!(traces.traces.len(), count);
        for (number, trace) in traces.traces.iter().enumerate() {
            let model =
                load(&Source::Directory { dir: dir.clone(), prism_head: None, adapter: None }, Device::Cpu).unwrap();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let ends = trace.eos.map(TokenId).into_iter().collect();
            let spec = ModelSpec { ends, ..model.spec().clone() };
            let recorder = Recorder { model, spec, seen: Arc::clone(&seen) };
            let handle = engine(Box::new(recorder), None, Limits::default());

            let answer = finished(handle.submit(&trace.request()).unwrap()).await;
            let case = format!("{name}, trace {number}");
            let id = |token: Option<TokenId>| token.map_or(traces.mask, |token| token.0);
            let seen = seen.lock().unwrap();
            let (last, passes) = trace.canvases.split_last().unwrap();
            for (pass, (canvas, theirs)) in seen.iter().zip(passes).enumerate() {
                let ours: Vec<u32> = canvas.cells()[trace.prompt.len()..].iter().map(|cell| id(cell.token())).collect();
                assert_eq!(&ours, theirs, "{case}, pass {pass}");
            }
            assert_eq!(seen.len(), passes.len(), "{case}");
            assert_eq!((answer.forward_passes, answer.steps), (answer.steps, passes.len() as u32), "{case}");
            // where the text ends early, the published sampler fills the rest with the end
            let written: Vec<u32> = answer.written.iter().map(|written| written.token.0).collect();
            assert_eq!(written, last[..written.len()], "{case}");
            assert!(last[written.len()..].iter().all(|token| Some(*token) == trace.eos), "{case}");
            assert_eq!(answer.finish, if trace.eos.is_some() { Finish::Stop } else { Finish::Length }, "{case}");
            assert_eq!((answer.replaced, answer.erased), (trace.cells_rewritten, 0), "{case}");
        }
    }
}

/// A run by the words of the documentation, one matrix of logits after the other, in f64.
struct ByHand {
    model: Box<dyn Denoiser>,
    /// The prompt, then what was written; the mask in blanks.
    ids: Vec<TokenId>,
    prompt: usize,
    guidance: f64,
    biases: Vec<(TokenId, f32)>,
    frequency_penalty: f32,
    passes: u32,
}

impl ByHand {
    /// The most probable token of each cell and its probability, on a canvas of these ids; with the
    /// penalties on what is written if `is_penalised`.
    fn best(&mut self, ids: &[TokenId], is_penalised: bool) -> Vec<(TokenId, f64)> {
        let mask = self.model.spec().mask;
        let without: Vec<TokenId> =
            ids.iter().enumerate().map(|(at, id)| if at < self.prompt { mask } else { *id }).collect();
        let [with, without] = [ids, &without].map(|ids| self.model.inspect(ids).unwrap().logits);
        let best = |(with, without): (&Vec<f32>, &Vec<f32>)| {
            let guided = |(with, without): (&f32, &f32)| {
                f64::from(*without) + (1.0 + self.guidance) * (f64::from(*with) - f64::from(*without))
            };
            let mut logits: Vec<f64> = with.iter().zip(without).map(guided).collect();
            for (token, bias) in &self.biases {
                logits[token.0 as usize] += f64::from(*bias);
            }
            for token in self.ids[self.prompt..].iter().filter(|token| is_penalised && **token != mask) {
                logits[token.0 as usize] -= f64::from(self.frequency_penalty);
            }
            logits[mask.0 as usize] = f64::NEG_INFINITY;
            let token = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            let mass: f64 = logits.iter().map(|logit| logit.exp()).sum();
            (TokenId(u32::try_from(token).unwrap()), logits[token].exp() / mass)
        };
        with.iter().zip(&without).map(best).collect()
    }

    fn run(&mut self, block: usize, steps: usize, every: usize, passes: usize) {
        let mask = self.model.spec().mask;
        let blocks: Vec<usize> = (self.prompt..self.ids.len()).step_by(block).collect();
        let steps = steps / blocks.len();
        for from in blocks {
            let end = (from + block).min(self.ids.len());
            for step in 1.. {
                let now = self.ids.clone();
                let blanks: Vec<usize> = (from..end).filter(|at| now[*at] == mask).collect();
                if blanks.is_empty() {
                    break;
                }
                self.passes += 1;
                let mut proposed = self.best(&now, true);
                if step % every == 0 {
                    let written = |at: usize| if now[at] == mask { proposed[at].0 } else { now[at] };
                    let mut copy: Vec<TokenId> = (0..now.len()).map(written).collect();
                    let mut best = Vec::new();
                    for _ in 0..passes {
                        self.passes += 1;
                        best = self.best(&copy, false);
                        proposed = self.best(&copy, true);
                        let before = copy.clone();
                        (self.prompt..end).for_each(|at| copy[at] = best[at].0);
                        if copy == before {
                            break;
                        }
                    }
                    for at in (self.prompt..end).filter(|at| now[*at] != mask) {
                        self.ids[at] = best[at].0;
                    }
                }
                let count = blanks.len().div_ceil((steps + 1 - step).max(1));
                let mut turns = blanks;
                turns.sort_by(|one, other| proposed[*other].1.total_cmp(&proposed[*one].1));
                for at in turns.into_iter().take(count) {
                    self.ids[at] = proposed[at].0;
                }
            }
        }
    }
}

#[tokio::test]
async fn guidance_biases_and_penalties_act_where_they_are_said_to() {
    let handle = llada_tiny();
    for seed in 0..6u32 {
        let prompt: Vec<TokenId> = (0..7).map(|at| TokenId((at * 31 + seed * 17) % 250)).collect();
        let (new, block, steps, every, passes) = (18, 7, 12, 1 + seed % 3, 1 + seed % 4);
        let biases = vec![(TokenId(40 + seed), 3.0), (TokenId(90), -100.0)];
        let (cfg_scale, frequency_penalty) = ([0.0, 0.6][seed as usize % 2], [0.0, 0.0, 1.5][seed as usize % 3]);
        let remasking = Choice::of(&PROSECO).with(CORRECT_EVERY.name, every).with(CORRECTOR_PASSES.name, passes);
        let task = Task::Continue { prompt: Prompt::Tokens(prompt.clone()), length: Length::New(new) };
        let request = Request {
            steps: Some(steps),
            block_length: Some(block),
            remasking: Some(remasking),
            logit_bias: biases.clone(),
            cfg_scale,
            frequency_penalty,
            ..Request::new(task)
        };
        let answer = finished(handle.submit(&request).unwrap()).await;

        let model = llada_tiny_model();
        let mut ids = prompt.clone();
        ids.resize(prompt.len() + new, model.spec().mask);
        let guidance = f64::from(cfg_scale);
        let mut by_hand = ByHand { model, ids, prompt: prompt.len(), guidance, biases, frequency_penalty, passes: 0 };
        by_hand.run(block as usize, steps as usize, every as usize, passes as usize);
        let ours: Vec<TokenId> = answer.written.iter().map(|written| written.token).collect();
        let end = ours.iter().position(|token| token.0 == 257);
        assert_eq!((&ours[..], end), (&by_hand.ids[prompt.len()..], None), "{request:?}");
        assert_eq!(answer.forward_passes, by_hand.passes, "{request:?}");
    }
}

/// A request to the toy, which is sure of some wrong letters as long as nothing stands beside them.
fn once(new: usize) -> Request {
    let task = Task::Continue { prompt: Prompt::Text("Once".to_owned()), length: Length::New(new) };
    Request { remasking: Some(Choice::of(&PROSECO)), block_length: Some(16), seed: Some(1), ..Request::new(task) }
}

#[tokio::test]
async fn a_text_ends_after_a_block_that_ends_it_and_before_its_stop_string() {
    let handle = toy();
    let whole = finished(handle.submit(&once(160)).unwrap()).await;
    assert_eq!(whole.finish, Finish::Stop);
    // a block that ends in an end of text is the last one
    assert_eq!(whole.written.len() % 16, 0);
    assert!(whole.written.len() < 160 && whole.replaced > 0, "{whole:?}");
    assert!(whole.output.text().len() <= whole.written.len(), "{whole:?}");
    let text = whole.output.text().to_owned();
    let (before, after) = text.split_at(text.len() / 2);
    let stop = after[..3].to_owned();
    let stopped = finished(handle.submit(&Request { stop: vec![stop.clone()], ..once(160) }).unwrap()).await;
    assert_eq!((stopped.output.text(), stopped.finish), (text.split(&stop).next().unwrap(), Finish::Stop), "{before}");
    assert_eq!(stopped.forward_passes, whole.forward_passes, "the stop string is looked for at the end");
    let short = finished(handle.submit(&once(20)).unwrap()).await;
    assert_eq!((short.finish, short.written.len()), (Finish::Length, 20));
}

#[tokio::test]
async fn a_temperature_is_that_of_the_fills() {
    let answers = async |temperature| {
        let mut answers = Vec::new();
        for seed in 0..6 {
            let remasking = Choice::of(&PROSECO).with(CORRECT_EVERY.name, 1);
            let request =
                Request { seed: Some(seed), temperature, remasking: Some(remasking), steps: Some(8), ..once(48) };
            let answer = finished(toy().submit(&request).unwrap()).await;
            assert_eq!(answer, finished(toy().submit(&request).unwrap()).await);
            answers.push(answer);
        }
        answers.dedup();
        answers
    };
    assert_eq!(answers(0.0).await.len(), 1);
    let drawn = answers(3.0).await;
    assert_eq!(drawn.len(), 6);
    // what is drawn is seldom the most probable token, and is corrected later
    assert!(drawn.iter().all(|answer| answer.replaced > 5), "{drawn:?}");
}

#[tokio::test]
async fn edits_are_streamed_at_once_and_text_when_it_is_final() {
    let server = Server::toy().await;
    let remasking = json!({"policy": "proseco", "corrector_passes": 3});
    let diffusion = json!({"block_length": 8, "steps": 30, "remasking": remasking, "stream_edits": true,
                           "end_of_text": "never"});
    let body = json!({"prompt": "Once", "max_tokens": 60, "temperature": 2, "seed": 3, "stream": true,
                      "diffusion": diffusion});
    let events = server.events("/v1/completions", &body).await;
    let chunks: Vec<Value> = events.iter().filter(|event| event.data != "[DONE]").map(SseEvent::json).collect();
    let (mut cells, mut earlier, mut replaced, mut passes) = (BTreeMap::new(), 0, 0, 0u64);
    for chunk in &chunks {
        let Some(edits) = chunk["diffusion"]["edits"].as_array() else { continue };
        assert_eq!(chunk["diffusion"]["step"], passes, "each pass is a step");
        passes += 1;
        let place = |edit: &Value| edit["at"].as_u64().unwrap();
        let fills = edits.iter().filter(|edit| edit["kind"] == "fill").map(place);
        let block = fills.min().map(|at| at / 8);
        for edit in edits {
            let before = cells.insert(place(edit), edit["token"].as_u64().unwrap());
            assert_eq!((before, edit["kind"] == "replace"), (edit["was"].as_u64(), before.is_some()), "{edit}");
            replaced += u64::from(before.is_some());
            earlier += u64::from(block.is_some_and(|block| place(edit) / 8 < block));
        }
    }
    assert!(earlier > 3, "{earlier} tokens of finished blocks were replaced");
    let with_text =
        chunks.iter().position(|chunk| chunk["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()));
    let last_edits = chunks.iter().rposition(|chunk| chunk["diffusion"]["edits"].is_array());
    assert!(with_text > last_edits, "{with_text:?} {last_edits:?}");
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    let bytes: Vec<u8> = cells.values().map(|token| u8::try_from(*token).unwrap()).collect();
    assert_eq!(text, String::from_utf8_lossy(&bytes));

    let summary = &chunks.last().unwrap()["diffusion"];
    let counts =
        ["replaced", "erased", "filled", "steps", "forward_passes"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(counts, [replaced, 0, 60, passes, passes]);
    let mut body = body;
    body["stream"] = json!(false);
    body["diffusion"]["stream_edits"] = json!(false);
    assert_eq!(server.answer("/v1/completions", &body).await["choices"][0]["text"], text);
    server.until(&format!("remask_cells_replaced_total{{model=\"toy\",policy=\"proseco\"}} {}", 2 * replaced)).await;
    server.until(&format!("remask_forward_passes_total{{device=\"cpu\",model=\"toy\"}} {}", 2 * passes)).await;
}
