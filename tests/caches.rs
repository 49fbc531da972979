//! Keys and values that are kept from pass to pass: the logits of Fast-dLLM's prefix and dual
//! caches against its published code, and that an answer does not depend on what happens to be
//! kept. Whole runs are in `reference.rs`.

mod common;

use candle_core::Device as Cpu;
use candle_core::safetensors::load as load_tensors;
use common::golden::{near, tiny};
use common::{data, engine, finished};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use remask::diffusion::policy::{Choice, DUAL, Kind, LOCK, NO_CACHE, OFF, PREFIX, QUALITY, REFRESH, Rule};
use remask::diffusion::policy::{SUFFIX_WINDOW, find};
use remask::diffusion::{Canvas, Cell, Reuse, TokenId};
use remask::engine::{Answer, Handle, Length, Limits, Prompt, Rejected, Request, Session, Task, start};
use remask::model::{Denoiser, Device, LoadOptions, Row, SequenceName, Source, load_with};
use remask::telemetry::Metrics;
use std::path::PathBuf;
use std::sync::Arc;

const MASK: u32 = 263;

/// A model that keeps at most so many bytes; `None` is as many as there is room for.
fn model(dir: PathBuf, cache_bytes: Option<u64>) -> Box<dyn Denoiser> {
    let source = Source::Directory { dir, prism_head: None, adapter: None };
    load_with(&source, Device::Cpu, LoadOptions { cache_bytes, ..LoadOptions::default() }).unwrap()
}

/// Bytes of the keys and values of a token of llada-tiny: two layers of 64 numbers each.
const TOKEN_BYTES: u64 = 2 * 2 * 64 * 4;
/// Tokens of a page.
const PAGE: u64 = 16;

#[test]
fn logits_of_cached_passes_are_those_of_the_published_code() {
    let tensors = load_tensors(tiny("cached.safetensors"), &Cpu::Cpu).unwrap();
    let number = |name: &str| tensors[name].to_vec1::<i64>().unwrap()[0] as usize;
    let [prompt, start, end] = ["prompt_len", "block_start", "block_end"].map(number);
    let canvas = |name: String| {
        let ids = tensors[&name].to_vec1::<i64>().unwrap().into_iter().map(|id| u32::try_from(id).unwrap());
        let cell = |(at, id): (usize, u32)| match id {
            MASK => Cell::Blank,
            id if at < prompt => Cell::Fixed(TokenId(id)),
            id => Cell::Filled(TokenId(id)),
        };
        Canvas::new(ids.enumerate().map(cell).collect())
    };
    let mut model = model(tiny(""), None);
    for (number, kind) in (1..).zip(["prefix", "dual"]) {
        let base = canvas(format!("{kind}.0.input_ids"));
        let until = if kind == "prefix" { base.len() } else { end };
        let (seen, run) = (vec![0..base.len()], vec![start..until]);
        for pass in 0..4 {
            let now = canvas(format!("{kind}.{pass}.input_ids"));
            let run = if pass == 0 { seen.clone() } else { run.clone() };
            let reuse = Some((SequenceName(number), Reuse { base: &base, run, seen: seen.clone() }));
            let row = Row { reuse, distributions: true, ..Row::plain(&now, start..end) };
            assert_eq!(model.tokens(&row), row.tokens(), "all that it reuses is kept");
            assert_eq!(row.tokens(), if pass == 0 { base.len() } else { until - start });
            let reading = model.read(&[row]).unwrap().remove(0).unwrap();
            if pass == 0 {
                continue;
            }
            assert!(reading.distributions.len() > 8);
            let logits = tensors[&format!("{kind}.{pass}.logits")].to_vec2::<f32>().unwrap();
            for distribution in &reading.distributions {
                let logits = &logits[distribution.at.index() - start][..MASK as usize];
                let mass: f32 = logits.iter().map(|logit| logit.exp()).sum();
                let expected: Vec<f32> = logits.iter().map(|logit| logit - mass.ln()).collect();
                near(kind, &distribution.log_probabilities, &expected, 1e-5);
            }
        }
    }
}

/// What guidance of weight `w` is defined as: `l_u + (1 + w) (l - l_u)` up to a constant, and its
/// most probable entry.
fn guided(own: &[f32], unguided: &[f32], weight: f32) -> (usize, f32) {
    let logits: Vec<f32> = own.iter().zip(unguided).map(|(l, u)| u + (1.0 + weight) * (l - u)).collect();
    let mass: f32 = logits.iter().map(|logit| logit.exp()).sum();
    let (best, logit) = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap();
    (best, logit.exp() / mass)
}

#[test]
fn guidance_over_kept_states_is_what_two_sequences_with_caches_of_their_own_give() {
    const WEIGHT: f32 = 1.5;
    let mut model = model(tiny(""), None);
    // an answer of three blocks of eight, of which the second is refined
    let canvas = |prompt: &dyn Fn(u32) -> Cell, step: usize| {
        let answer = |at: u32| match at {
            0..8 => Cell::Filled(TokenId(at * 5 + 2)),
            8..16 if (at as usize) < 8 + step => Cell::Filled(TokenId(at * 3 + 1)),
            _ => Cell::Blank,
        };
        Canvas::new((0..12).map(prompt).chain((0..24).map(answer)).collect())
    };
    let own = |at: u32| Cell::Fixed(TokenId(at * 7 + 3));
    let masked = |_| Cell::Blank;
    let window = 20..28;
    for (kind, run) in [("prefix", 20..36), ("dual", 20..28)] {
        let name = |sequence: u64| SequenceName(sequence + if kind == "dual" { 10 } else { 0 });
        let bases = [canvas(&own, 0), canvas(&masked, 0)];
        for step in 0..4 {
            let now = [canvas(&own, step), canvas(&masked, step)];
            let run = if step == 0 { 0..36 } else { run.clone() };
            let mut read = |sequence: u64, prompt: usize, guidance: Option<f32>| {
                let reuse = Reuse { base: &bases[prompt], run: vec![run.clone()], seen: vec![0..36] };
                let reuse = Some((name(sequence), reuse));
                let row = Row { reuse, guidance, distributions: true, ..Row::plain(&now[prompt], window.clone()) };
                let whole = if guidance.is_some() { 2 * run.len() } else { run.len() };
                assert_eq!(model.tokens(&row), whole, "{kind}, step {step}: all that it reuses is kept");
                model.read(&[row]).unwrap().remove(0).unwrap()
            };
            let [together, alone, unguided] = [read(1, 0, Some(WEIGHT)), read(2, 0, None), read(3, 1, None)];
            assert_eq!(together.proposals.len(), 8 - step);
            for (at, proposal) in together.proposals.iter().enumerate() {
                let [alone, unguided] = [&alone, &unguided].map(|read| &read.distributions[at].log_probabilities);
                let (token, confidence) = guided(alone, unguided, WEIGHT);
                assert_eq!(proposal.token, TokenId(u32::try_from(token).unwrap()), "{kind}, step {step}");
                near(kind, &[proposal.confidence.get()], &[confidence], 1e-4);
            }
        }
    }
}

/// A request over blocks of `block` cells, with erasures by quality where `erases`.
fn request(prompt: &[u32], new: usize, block: u32, erases: bool, cache: Choice, seed: u64) -> Request {
    let prompt = Prompt::Tokens(prompt.iter().copied().map(TokenId).collect());
    Request {
        steps: Some(u32::try_from(new).unwrap()),
        block_length: Some(block),
        remasking: Some(if erases { Choice::of(&QUALITY).with("budget", 5) } else { Choice::of(&OFF) }),
        cache: Some(cache),
        temperature: 0.7,
        seed: Some(seed),
        ..Request::new(Task::Continue { prompt, length: Length::New(new) })
    }
}

/// An engine with its metrics.
struct Tiny {
    handle: Handle,
    metrics: Arc<Metrics>,
}

impl Tiny {
    fn new(cache_bytes: Option<u64>) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let limits = Limits { batch_tokens_max: 200, ..Limits::default() };
        let handle = start(model(tiny(""), cache_bytes), None, limits, metrics.model("tiny").unwrap()).unwrap();
        Self { handle, metrics }
    }

    /// The value of a metric of the only device.
    fn metric(&self, name: &str) -> u64 {
        let metrics = self.metrics.render();
        let prefix = format!("remask_{name}{{device=\"cpu\",model=\"tiny\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().parse().unwrap()
    }
}

/// What the answer consists of, without what it cost.
fn text(answer: &Answer) -> Vec<(u32, f32)> {
    answer.written.iter().map(|written| (written.token.0, written.confidence.get())).collect()
}

fn caches() -> impl Strategy<Value = Choice> {
    let rule = prop::sample::select(vec![&PREFIX, &DUAL, &LOCK]);
    let knobs = (prop::option::of(1u32..6), prop::option::of(0u32..20), 0.3f32..0.7);
    (rule, knobs).prop_map(|(rule, (refresh, window, above)): (&'static Rule, _)| {
        let choice = Choice::of(rule).with_some(REFRESH.name, refresh).with_some(SUFFIX_WINDOW.name, window);
        if rule == &LOCK { choice.with("above", above) } else { choice }
    })
}

#[test]
fn an_answer_is_the_same_alone_together_and_whatever_is_evicted() {
    let guidance = prop::sample::select(vec![0.0f32, 0.5, 2.0]);
    let seeds = (guidance, any::<u64>());
    let one = (prop::collection::vec(0u32..250, 1..30), 8usize..40, 4u32..20, any::<bool>(), caches(), seeds);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let runs = Runs { cases: 8, failure_persistence: None, ..Runs::default() };
    let evictions = std::cell::Cell::new(0);
    TestRunner::new(runs)
        .run(&prop::collection::vec(one, 5), |all| {
            let requests: Vec<Request> = all
                .into_iter()
                .map(|(prompt, new, block, erases, cache, (cfg_scale, seed))| Request {
                    cfg_scale,
                    ..request(&prompt, new, block, erases, cache, seed)
                })
                .collect();
            let together = |bytes: Option<u64>| {
                runtime.block_on(async {
                    let tiny = Tiny::new(bytes);
                    let sessions: Vec<Session> = requests.iter().map(|ask| tiny.handle.submit(ask).unwrap()).collect();
                    let mut answers = Vec::new();
                    for session in sessions {
                        answers.push(text(&finished(session).await));
                    }
                    (answers, tiny.metric("cache_evictions_total"))
                })
            };
            let alone: Vec<_> = requests
                .iter()
                .map(|ask| {
                    runtime.block_on(async { text(&finished(Tiny::new(None).handle.submit(ask).unwrap()).await) })
                })
                .collect();
            for pages in [None, Some(0), Some(3), Some(9)] {
                let (answers, evicted) = together(pages.map(|pages| pages * PAGE * TOKEN_BYTES));
                prop_assert_eq!(&answers, &alone, "{:?} pages", pages);
                evictions.set(evictions.get() + evicted);
            }
            Ok(())
        })
        .unwrap();
    assert!(evictions.get() > 0);
}

#[tokio::test]
async fn a_pass_costs_the_tokens_that_it_runs() {
    let prompt: Vec<u32> = (0..30).collect();
    for (cache, of_block) in [
        (Choice::of(&NO_CACHE), [54; 3]),
        (Choice::of(&PREFIX), [24, 16, 8]),
        (Choice::of(&DUAL), [8; 3]),
        // the block, two cells behind it, and the last one
        (Choice::of(&PREFIX).with(SUFFIX_WINDOW.name, 2), [11, 11, 8]),
    ] {
        let has_window = cache.settings.count(SUFFIX_WINDOW.name).is_some();
        let tiny = Tiny::new(None);
        let answer = finished(tiny.handle.submit(&request(&prompt, 24, 8, false, cache, 1)).unwrap()).await;
        assert_eq!(answer.steps, 24);
        let first: u64 = if has_window { 41 + 49 + 54 } else { 3 * 54 };
        let rest: u64 = of_block.into_iter().map(|tokens| 7 * tokens).sum();
        assert_eq!(tiny.metric("token_forwards_total"), first + rest, "{cache:?}");
    }
}

#[tokio::test]
async fn cells_behind_the_window_cost_nothing_however_many_they_are() {
    let tokens = |new: usize, steps: u32| async move {
        let tiny = Tiny::new(None);
        let cache = Choice::of(&PREFIX).with(SUFFIX_WINDOW.name, 8);
        let mut session = tiny.handle.submit(&request(&prompt_of(10), new, 8, false, cache, 1)).unwrap();
        for _ in 0..steps {
            session.next().await.unwrap();
        }
        tiny.metric("token_forwards_total")
    };
    // a pass may be over before its step is read
    let (few, many) = (tokens(64, 8).await, tokens(400, 8).await);
    assert!(many <= few + 60, "{few} {many}");
}

fn prompt_of(length: u32) -> Vec<u32> {
    (0..length).collect()
}

#[tokio::test]
async fn memory_stays_within_the_budget_and_nothing_is_left_when_requests_end_or_go() {
    let most = 40 * PAGE * TOKEN_BYTES;
    let tiny = Tiny::new(Some(most));
    let ask = |seed| request(&prompt_of(20), 24, 8, true, Choice::of(&DUAL), seed);
    let mut sessions: Vec<Session> = (0..200).map(|seed| tiny.handle.submit(&ask(seed)).unwrap()).collect();
    for session in sessions.drain(100..) {
        drop(session);
    }
    let mut largest = 0;
    for session in sessions {
        finished(session).await;
        largest = largest.max(tiny.metric("cache_bytes"));
    }
    assert!((most / 2..=most).contains(&largest), "{largest} of {most}");
    assert!(tiny.metric("cache_evictions_total") > 0);
    // the last answer is sent before its pass ends
    for _ in 0..200 {
        if tiny.metric("cache_bytes") == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!([tiny.metric("cache_bytes"), tiny.metric("cache_sequences")], [0, 0]);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let tiny = Tiny::new(None).handle;
    let ask = |cache: Choice, remasking: &str| Request {
        remasking: Some(Choice::of(find(Kind::Remasking, remasking).unwrap())),
        cache: Some(cache),
        ..request(&[1], 4, 4, false, cache, 1)
    };
    let refused = |handle: &Handle, asked: &Request| match handle.submit(asked).unwrap_err() {
        Rejected::Invalid { param, message } => {
            assert_eq!(param, "diffusion.cache");
            message
        }
        other => panic!("{other}"),
    };
    assert_eq!(
        refused(&tiny, &ask(Choice::of(&DUAL), "exact")),
        "cache \"dual\" does not go with the remasking \"exact\", which reads a row for each filled cell; give \"off\""
    );
    assert_eq!(
        refused(&tiny, &ask(Choice::of(&PREFIX), "proseco")),
        "cache \"prefix\" does not go with the remasking \"proseco\", which reads a working copy of the canvas; give \"off\""
    );
    assert_eq!(
        refused(&common::toy(), &ask(Choice::of(&PREFIX), "off")),
        "cache \"prefix\" keeps keys and values, which a model of the family \"toy\" does not; give \"off\""
    );
    let headless = engine(model(data("fast-dllm-sharp"), None), None, Limits::default());
    let message = refused(&headless, &ask(Choice::of(&LOCK), "off"));
    assert!(message.starts_with("cache \"lock\" needs a quality head, which this model does not have"), "{message}");
    finished(tiny.submit(&ask(Choice::of(&NO_CACHE), "exact")).unwrap()).await;
}
