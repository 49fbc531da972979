//! The sampler of `RemeDi` as a policy: against the traces of its published code, and the rules for
//! models and requests that it does not go with.
//!
//! `tests/data/remedi-tiny/traces.json` holds the canvas before each pass of the published sampler
//! over a block, and the result. Its passes that store keys and values are not among them.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::golden::canvases;
use common::{data, engine, finished, llada_tiny, toy};
use remask::diffusion::TokenId;
use remask::diffusion::policy::{Choice, NO_CACHE, REMEDI, REMEDI_LOGIT, Rule, Setting, Settings};
use remask::engine::{EndOfText, Handle, Length, Limits, Prompt, Proofreading, Request, Task};
use remask::model::{Device, Source, load};
use serde::Deserialize;

#[derive(Deserialize)]
struct Traces {
    mask: u32,
    traces: Vec<Trace>,
}

#[derive(Deserialize)]
struct Trace {
    rank: String,
    prompt: Vec<u32>,
    steps: u32,
    max_length: usize,
    block_length: u32,
    remasked: u32,
    canvases: Vec<Vec<u32>>,
}

impl Trace {
    fn rule(&self) -> &'static Rule {
        match self.rank.as_str() {
            "confidence" => &REMEDI,
            "logit" => &REMEDI_LOGIT,
            rank => panic!("{rank}"),
        }
    }

    fn request(&self) -> Request {
        let prompt = Prompt::Tokens(self.prompt.iter().copied().map(TokenId).collect());
        let blocks = u32::try_from(self.max_length).unwrap() / self.block_length;
        Request {
            steps: Some(self.steps * blocks),
            block_length: Some(self.block_length),
            remasking: Some(Choice::of(self.rule())),
            ..Request::new(Task::Continue { prompt, length: Length::New(self.max_length) })
        }
    }

    /// The canvases without the passes that changed nothing: where there are more steps than cells,
    /// the first steps keep none. Ours are skipped.
    fn canvases(&self) -> Vec<Vec<u32>> {
        let mut canvases = self.canvases.clone();
        canvases.dedup();
        canvases
    }
}

fn traces() -> Traces {
    serde_json::from_slice(&std::fs::read(data("remedi-tiny/traces.json")).unwrap()).unwrap()
}

fn remedi_tiny() -> Handle {
    let source = Source::Directory { dir: data("remedi-tiny"), prism_head: None, adapter: None };
    engine(load(&source, Device::Cpu).unwrap(), None, Limits::default())
}

#[tokio::test]
async fn every_published_trace_is_reproduced_token_for_token() {
    let Traces { mask, traces } = traces();
    assert_eq!(traces.len(), 30);
    let handle = remedi_tiny();
    for (number, trace) in traces.iter().enumerate() {
        let case = format!("trace {number}: by {}, {} steps, {} cells", trace.rank, trace.steps, trace.max_length);
        // without a cache, and with the exact one that is the default
        let cache = (number % 2 == 0).then(|| Choice::of(&NO_CACHE));
        let request = Request { cache, ..trace.request() };
        let ours = canvases(handle.submit_unmerged(&request).unwrap(), mask).await;
        let theirs = trace.canvases();
        for (pass, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours, theirs, "{case}, canvas {pass}");
        }
        assert_eq!(ours.len(), theirs.len(), "{case}");
        let pairs = ours.windows(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
        let erased = pairs.filter(|(before, after)| **before != mask && **after == mask).count();
        assert_eq!(erased, trace.remasked as usize, "{case}");
    }
}

#[tokio::test]
async fn all_traces_together_are_what_they_are_alone() {
    let traces: Vec<Trace> = traces().traces.into_iter().filter(|trace| trace.steps == 20).collect();
    let handle = remedi_tiny();
    let sessions: Vec<_> = traces.iter().map(|trace| handle.submit(&trace.request()).unwrap()).collect();
    for (trace, session) in traces.iter().zip(sessions) {
        let tokens: Vec<u32> = finished(session).await.written.iter().map(|written| written.token.0).collect();
        assert_eq!(&tokens, trace.canvases.last().unwrap());
    }
}

fn ask(handle: &Handle, change: impl FnOnce(Request) -> Request) -> Result<remask::engine::Session, String> {
    let task = Task::Continue { prompt: Prompt::Tokens(vec![TokenId(7)]), length: Length::New(24) };
    let request = change(Request { steps: Some(9), remasking: Some(Choice::of(&REMEDI)), ..Request::new(task) });
    handle.submit(&request).map_err(|rejected| rejected.to_string())
}

#[tokio::test]
async fn a_run_takes_its_steps_and_leaves_no_blank() {
    // steps in which no cell is kept take no pass: the last block of 7 has 3 cells and 6 steps
    for (rule, steps, block, passes) in
        [(&REMEDI, 9, 24, 9), (&REMEDI_LOGIT, 6, 10, 6), (&REMEDI, 24, 7, 21), (&REMEDI_LOGIT, 40, 24, 24)]
    {
        let session = ask(&toy(), |request| Request {
            steps: Some(steps),
            block_length: Some(block),
            remasking: Some(Choice::of(rule)),
            end_of_text: Some(EndOfText::Never),
            ..request
        });
        let answer = finished(session.unwrap()).await;
        assert_eq!(answer.written.len(), 24);
        assert_eq!(answer.forward_passes, passes, "{} {steps}", rule.name);
    }
}

#[tokio::test]
async fn with_a_pace_it_keeps_as_many_cells_more_as_are_ready() {
    let handle = toy();
    for (threshold, most) in [(0.0, 1), (0.6, 23), (1.0, 24)] {
        let pace = Settings::EMPTY.with("threshold", Setting::Number(threshold));
        let answer = finished(ask(&handle, |request| Request { steps: None, pace, ..request }).unwrap()).await;
        assert!((1..=most).contains(&answer.forward_passes), "{threshold}: {}", answer.forward_passes);
    }
}

#[tokio::test]
async fn what_it_does_not_go_with_is_refused() {
    let error = ask(&llada_tiny(), |request| request).unwrap_err();
    assert!(error.contains("remasking by remedi needs a model that judges blanks as well as tokens"), "{error}");
    assert!(ask(&llada_tiny(), |r| Request { remasking: Some(Choice::of(&REMEDI_LOGIT)), ..r }).is_ok());
    let error = ask(&toy(), |r| Request { remasking: Some(Choice::of(&REMEDI).with("budget", 3)), ..r }).unwrap_err();
    assert!(error.contains("\"remedi\" takes no knobs"), "{error}");
}

#[tokio::test]
async fn the_family_has_its_sampler_as_a_preset() {
    let trace = traces().traces.into_iter().find(|trace| trace.rank == "confidence" && trace.steps == 8).unwrap();
    let handle = remedi_tiny();
    let preset = Request { remasking: None, block_length: None, preset: Some("remedi".to_owned()), ..trace.request() };
    let tokens: Vec<u32> =
        finished(handle.submit(&preset).unwrap()).await.written.iter().map(|written| written.token.0).collect();
    assert_eq!(&tokens, trace.canvases.last().unwrap());
}

#[tokio::test]
async fn texts_are_scored_and_repaired_without_a_head() {
    let handle = remedi_tiny();
    let text = || Prompt::Tokens((0..70).map(|id| TokenId(id * 3 % 250)).collect());
    let request = Request::new(Task::Score { text: text(), likelihood: false });
    let scored = finished(handle.submit(&request).unwrap()).await;
    let qualities: Vec<f32> = scored.written.iter().map(|written| written.quality.unwrap().get()).collect();
    assert_eq!(qualities.len(), 70);
    let mut sorted = qualities.clone();
    sorted.sort_by(f32::total_cmp);
    let below = Proofreading { steps: Some(20), below: Some(sorted[5]), ..Proofreading::default() };
    let request =
        Request { proofreading: Some(below), ..Request::new(Task::Repair { text: text(), pinned: Vec::new() }) };
    let repaired = finished(handle.submit(&request).unwrap()).await;
    assert!(repaired.erased >= 5, "{}", repaired.erased);
    assert_eq!(repaired.written.len(), 70);
}
