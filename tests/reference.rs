//! Whole runs against the published samplers: every trace, token for token, through the front door.
//!
//! `tests/data/llada-tiny/traces.json` holds the canvas each forward pass of LLaDA's `generate.py`
//! and of PRISM's LLaDA sampler saw, and the result; `tests/data/illada-tiny/traces.json` those of
//! `generate.py` on a model with grouped heads and tied embeddings; and
//! `tests/data/fast-dllm-sharp/traces.json` those of Fast-dLLM's sampler without a cache, on a
//! model that is surer of its tokens. `cached.json` has those of its prefix and dual caches.

mod common;

use common::golden::canvases;
use common::{data, engine, finished, llada_tiny};
use remask::diffusion::policy::{BUDGET, Choice, Kind, OFF, QUALITY, Setting, Settings, find};
use remask::diffusion::{Cell, TokenId};
use remask::engine::{Length, Limits, Prompt, Request, Session, Task};
use remask::model::{Device, LoadOptions, Source, load, load_with};
use serde::Deserialize;

#[derive(Deserialize)]
struct Traces {
    mask: u32,
    traces: Vec<Trace>,
}

#[derive(Deserialize)]
struct Trace {
    sampler: String,
    prompt: Vec<u32>,
    temperature: f32,
    steps: u32,
    block_length: u32,
    #[serde(default)]
    cfg_scale: f32,
    /// PRISM's sampler only.
    total_length: Option<u32>,
    #[serde(default)]
    remasks_per_block: u32,
    canvases: Vec<Vec<u32>>,
}

impl Trace {
    fn request(&self) -> Request {
        let new = self.canvases[0].len();
        let prompt = Prompt::Tokens(self.prompt.iter().copied().map(TokenId).collect());
        // PRISM's sampler divides its steps by the blocks of prompt and answer together
        let blocks = u32::try_from(new).unwrap().div_ceil(self.block_length);
        let steps = self.total_length.map_or(self.steps, |total| self.steps / (total / self.block_length) * blocks);
        let remasking = match self.remasks_per_block {
            0 => Choice::of(&OFF),
            budget => Choice::of(&QUALITY).with(BUDGET.name, budget),
        };
        Request {
            temperature: self.temperature,
            steps: Some(steps),
            block_length: Some(self.block_length),
            cfg_scale: self.cfg_scale,
            remasking: Some(remasking),
            ..Request::new(Task::Continue { prompt, length: Length::New(new) })
        }
    }

    /// The canvases, without the last pass if that only found nothing left to do: the published
    /// sampler makes such a pass, ours does not.
    fn canvases(&self) -> Vec<Vec<u32>> {
        let mut canvases = self.canvases.clone();
        canvases.dedup();
        assert!(canvases.len() + 1 >= self.canvases.len());
        canvases
    }
}

#[derive(Deserialize)]
struct FastTraces {
    mask: u32,
    traces: Vec<FastTrace>,
}

/// Of `steps`, `threshold` and `factor`, each trace has one.
#[derive(Deserialize)]
struct FastTrace {
    #[serde(default)]
    cache: Option<String>,
    prompt: Vec<u32>,
    gen_length: usize,
    block_length: u32,
    steps: Option<u32>,
    threshold: Option<f32>,
    factor: Option<f32>,
    canvases: Vec<Vec<u32>>,
}

impl FastTrace {
    fn request(&self) -> Request {
        let prompt = Prompt::Tokens(self.prompt.iter().copied().map(TokenId).collect());
        let knobs = [("threshold", self.threshold), ("factor", self.factor)];
        let given = knobs.into_iter().filter_map(|(name, value)| Some((name, Setting::Number(value?))));
        Request {
            steps: self.steps,
            block_length: Some(self.block_length),
            pace: given.fold(Settings::EMPTY, |settings, (name, value)| settings.with(name, value)),
            remasking: Some(Choice::of(&OFF)),
            cache: self.cache.as_ref().map(|name| Choice::of(find(Kind::Cache, name).unwrap())),
            ..Request::new(Task::Continue { prompt, length: Length::New(self.gen_length) })
        }
    }
}

#[tokio::test]
async fn every_published_trace_is_reproduced_token_for_token() {
    for (name, count) in [("llada-tiny", 14), ("illada-tiny", 6)] {
        let (dir, prism_head, adapter) = (data(name), None, None);
        let traces: Traces = serde_json::from_slice(&std::fs::read(dir.join("traces.json")).unwrap()).unwrap();
        assert_eq!(traces.traces.len(), count);
        let model = load(&Source::Directory { dir, prism_head, adapter }, Device::Cpu).unwrap();
        let handle = engine(model, None, Limits::default());
        for (number, trace) in traces.traces.iter().enumerate() {
            let session = handle.submit_unmerged(&trace.request()).unwrap();
            assert!(session.start.cells.iter().all(|cell| *cell == Cell::Blank));
            let ours = canvases(session, traces.mask).await;
            let theirs = trace.canvases();
            for (pass, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!(ours, theirs, "{name}: trace {number} ({}), canvas {pass}", trace.sampler);
            }
            assert_eq!(ours.len(), theirs.len(), "{name}: trace {number} ({})", trace.sampler);
        }
    }
}

#[tokio::test]
async fn all_traces_together_are_what_they_are_alone() {
    let traces: Traces = serde_json::from_slice(&std::fs::read(data("llada-tiny/traces.json")).unwrap()).unwrap();
    let handle = llada_tiny();
    let sessions: Vec<Session> = traces.traces.iter().map(|trace| handle.submit(&trace.request()).unwrap()).collect();
    for (trace, session) in traces.traces.iter().zip(sessions) {
        let tokens: Vec<u32> = finished(session).await.written.iter().map(|written| written.token.0).collect();
        assert_eq!(&tokens, trace.canvases.last().unwrap(), "{}", trace.sampler);
    }
}

#[tokio::test]
async fn every_trace_of_fast_dllm_is_reproduced_token_for_token() {
    // with all that a cache is to keep, and with nothing of it, so that each pass computes it anew
    for (dir, file, cache_bytes, expected) in [
        ("fast-dllm-sharp", "traces.json", None, [4, 16, 12]),
        ("fast-dllm-sharp", "cached.json", None, [8, 32, 24]),
        ("fast-dllm-sharp", "cached.json", Some(0), [8, 32, 24]),
        ("llada-tiny", "cached.json", None, [2, 10, 6]),
    ] {
        let path = data(dir).join(file);
        let traces: FastTraces = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let source = Source::Directory { dir: data(dir), prism_head: None, adapter: None };
        let options = LoadOptions { cache_bytes, ..LoadOptions::default() };
        let handle = engine(load_with(&source, Device::Cpu, options).unwrap(), None, Limits::default());
        let mut paces = [0; 3];
        for (number, trace) in traces.traces.iter().enumerate() {
            let ours = canvases(handle.submit_unmerged(&trace.request()).unwrap(), traces.mask).await;
            let FastTrace { cache, steps, threshold, factor, .. } = trace;
            let case =
                format!("{path:?}, trace {number}: {cache:?} {steps:?} {threshold:?} {factor:?}, {cache_bytes:?}");
            for (pass, (ours, theirs)) in ours.iter().zip(&trace.canvases).enumerate() {
                assert_eq!(ours, theirs, "{case}, canvas {pass}");
            }
            assert_eq!(ours.len(), trace.canvases.len(), "{case}");
            let kinds = [steps.is_some(), threshold.is_some(), factor.is_some()];
            paces.iter_mut().zip(kinds).for_each(|(count, is_one)| *count += usize::from(is_one));
        }
        assert_eq!(paces, expected, "{path:?}: traces by steps, threshold and factor");
    }
}
