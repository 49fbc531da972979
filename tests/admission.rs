//! Requests that the engine refuses: the field at fault and the message.

mod common;

use common::{data, engine, llada_tiny, toy, toy_tokenizer};
use remask::diffusion::TokenId;
use remask::diffusion::policy::{self, Choice, QUALITY, REMDM, Settings, THRESHOLD, order::LEFTMOST};
use remask::engine::{DEFAULT_BLANK, Handle, Length, Limits, Prompt, Rejected, Request, Task};
use remask::model::{Device, Source, Toy, load};
use remask::text::Tokenizer;
use std::sync::Arc;

fn text(prompt: &str, length: Length) -> Request {
    Request::new(Task::Continue { prompt: Prompt::Text(prompt.to_owned()), length })
}

fn tokens(ids: &[u32], length: Length) -> Request {
    let prompt = Prompt::Tokens(ids.iter().copied().map(TokenId).collect());
    Request::new(Task::Continue { prompt, length })
}

fn infill(template: &str) -> Request {
    with_blank(template, DEFAULT_BLANK)
}

fn with_blank(template: &str, blank: &str) -> Request {
    Request::new(Task::Infill { template: template.to_owned(), blank: blank.to_owned() })
}

/// Forty new tokens in five blocks.
fn plain() -> Request {
    Request { block_length: Some(8), ..text("hello", Length::New(40)) }
}

fn quality(budget: Option<u32>, below: Option<f32>, window: Option<[f32; 2]>) -> Request {
    Request {
        remasking: Some(
            Choice::of(&QUALITY).with_some("budget", budget).with_some("below", below).with_some("window", window),
        ),
        ..plain()
    }
}

fn random(budget: Option<u32>, window: Option<[f32; 2]>) -> Request {
    Request {
        remasking: Some(Choice::of(&policy::random::RANDOM).with_some("budget", budget).with_some("window", window)),
        ..plain()
    }
}

fn confidence(budget: Option<u32>, below: Option<f32>) -> Request {
    Request {
        remasking: Some(
            Choice::of(&policy::confidence::CONFIDENCE).with_some("budget", budget).with_some("below", below),
        ),
        ..plain()
    }
}

fn remdm(budget: Option<u32>) -> Request {
    Request { remasking: Some(Choice::of(&REMDM).with_some("budget", budget)), ..plain() }
}

/// Every blank whose confidence reaches this is filled.
fn pace(threshold: f32) -> Settings {
    Choice::of(&THRESHOLD).with(THRESHOLD.name, threshold).settings
}

fn stopping(stop: &[&str]) -> Vec<String> {
    stop.iter().map(|&stop| stop.to_owned()).collect()
}

/// A request, the field at fault, and a part of the message.
type Case = (Request, &'static str, &'static str);

#[track_caller]
fn check(handle: &Handle, cases: Vec<Case>) {
    for (number, (request, param, fragment)) in cases.into_iter().enumerate() {
        match handle.submit(&request) {
            Err(Rejected::Invalid { param: found, message } | Rejected::TooLong { param: found, message }) => {
                assert_eq!(found, param, "case {number}: {message}");
                assert!(message.contains(fragment), "case {number}: {message:?} does not say {fragment:?}");
            }
            Err(other @ (Rejected::Full { .. } | Rejected::Draining | Rejected::GivenUp)) => {
                panic!("case {number}: {other}")
            }
            Ok(_) => panic!("case {number} was admitted: {request:?}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_written_on_is_refused() {
    let long = "x".repeat(1024);
    check(
        &toy(),
        vec![
            (text("", Length::New(4)), "prompt", "the prompt is empty"),
            (tokens(&[], Length::New(4)), "prompt", "the prompt is empty"),
            (text(&long, Length::Default), "prompt", "takes 1024 cells; the canvas has 1024, new tokens included"),
            (tokens(&[1, 258], Length::New(4)), "prompt", "token 1 of the prompt is 258; ids are below 258"),
            (tokens(&[u32::MAX], Length::New(4)), "prompt", "token 0 of the prompt is 4294967295"),
            (tokens(&[1, 2, 256], Length::New(4)), "prompt", "may not be the mask, 256"),
            (text("hello", Length::New(0)), "max_tokens", "max_tokens is 0"),
            (text("hello", Length::New(1020)), "max_tokens", "prompt has 5 tokens and the canvas 1024 cells"),
            (text("hello", Length::New(usize::MAX)), "max_tokens", "ask for at most 1019"),
            (text("hello", Length::Total(5)), "total_length", "must be above the prompt's 5 tokens"),
            (text("hello", Length::Total(1025)), "total_length", "and at most 1024"),
            (text("hello", Length::Total(usize::MAX)), "total_length", "total_length 18446744073709551615"),
            (
                Request { stop: stopping(&["x", ""]), ..plain() },
                "stop",
                "stop has an empty string, which would end every answer",
            ),
            (Request { stop: stopping(&["x"; 65]), ..plain() }, "stop", "stop has 65 strings; give at most 64"),
            (
                Request { stop: vec!["x".repeat(600); 28], ..plain() },
                "stop",
                "the strings of stop have 16800 bytes; give at most 16384 in all",
            ),
        ],
    );
}

#[tokio::test]
async fn a_plan_that_cannot_be_is_refused() {
    let (steps, block) = ("diffusion.steps", "diffusion.block_length");
    let threshold = |threshold| Request { pace: pace(threshold), ..plain() };
    check(
        &toy(),
        vec![
            (Request { steps: Some(0), ..plain() }, steps, "steps is 0; give 1 to 65536"),
            (Request { steps: Some(65_537), ..plain() }, steps, "steps is 65537; give 1 to 65536"),
            (Request { steps: Some(4), ..plain() }, steps, "4 steps are too few for 5 blocks"),
            (Request { steps: Some(4), ..threshold(0.9) }, steps, "4 steps are too few for 5 blocks"),
            (Request { block_length: Some(0), ..plain() }, block, "block_length is 0"),
            (threshold(1.01), "diffusion.unmasking.threshold", "threshold is 1.01; give a number from 0 to 1"),
            (threshold(-0.5), "diffusion.unmasking.threshold", "threshold is -0.5"),
            (threshold(f32::NAN), "diffusion.unmasking.threshold", "threshold is NaN"),
        ],
    );
}

#[tokio::test]
async fn impossible_sampling_is_refused() {
    let at = |temperature| Request { temperature, ..plain() };
    let guided = |cfg_scale| Request { cfg_scale, ..plain() };
    check(
        &toy(),
        vec![
            (at(f32::NAN), "temperature", "temperature is NaN; give a number from 0 to 3.4e38"),
            (at(f32::INFINITY), "temperature", "temperature is inf"),
            (at(-0.1), "temperature", "temperature is -0.1"),
            (guided(-1.0), "diffusion.cfg_scale", "cfg_scale is -1; give a number from 0 to 100"),
            (guided(100.5), "diffusion.cfg_scale", "cfg_scale is 100.5; give a number from 0 to 100"),
            (guided(3e38), "diffusion.cfg_scale", "from 0 to 100"),
            (guided(f32::NAN), "diffusion.cfg_scale", "cfg_scale is NaN"),
        ],
    );
}

#[tokio::test]
async fn impossible_remasking_is_refused() {
    let (budget, below) = ("diffusion.remasking.budget", "diffusion.remasking.below");
    let window = "diffusion.remasking.window";
    check(
        &toy(),
        vec![
            (quality(Some(65_537), None, None), budget, "budget is 65537; give 0 to 65536"),
            (random(Some(u32::MAX), None), budget, "give 0 to 65536"),
            (confidence(Some(65_537), None), budget, "budget is 65537"),
            (confidence(None, Some(1.5)), below, "below is 1.5; give a number from 0 to 1"),
            (remdm(Some(65_537)), budget, "budget is 65537"),
            (quality(None, Some(f32::NAN), None), below, "below is NaN; give a number from 0 to 1"),
            (quality(None, Some(1.5), None), below, "below is 1.5"),
            (quality(None, None, Some([0.8, 0.2])), window, "window is [0.8, 0.2]; its end must lie after its start"),
            (random(None, Some([0.5, 0.5])), window, "its end must lie after its start"),
            (random(None, Some([0.0, 1.1])), window, "window is [0, 1.1]; give two numbers from 0 to 1"),
            (quality(None, None, Some([f32::NAN, 1.0])), window, "window is [NaN, 1]; give two numbers"),
        ],
    );
}

/// A program that uses the library can put any rule anywhere.
#[tokio::test]
async fn a_rule_of_another_kind_is_refused() {
    let (unmasking, remasking) = ("diffusion.unmasking", "diffusion.remasking");
    let ordered = |rule| Request { order: Some(Choice::of(rule)), ..plain() };
    let remasked = |rule| Request { remasking: Some(Choice::of(rule)), ..plain() };
    let repaired = |order: Choice| {
        let (text, pinned) = (Prompt::Text("hello".to_owned()), Vec::new());
        Request { order: Some(order), ..Request::new(Task::Repair { text, pinned }) }
    };
    let names = "\"quality\" is no order of unmasking; give one of confidence, margin, entropy, random, leftmost";
    check(
        &toy(),
        vec![
            (ordered(&QUALITY), unmasking, names),
            (ordered(&THRESHOLD), unmasking, "\"threshold\" is no order"),
            (repaired(Choice::of(&QUALITY)), unmasking, names),
            (
                repaired(Choice::of(&LEFTMOST).with("budget", 1)),
                "diffusion.unmasking.budget",
                "budget goes with no order of unmasking; with \"leftmost\" give credit",
            ),
            (
                remasked(&LEFTMOST),
                remasking,
                "\"leftmost\" is no remasking; give one of off, quality, exact, confidence",
            ),
            (remasked(&THRESHOLD), remasking, "\"threshold\" is no remasking"),
        ],
    );
}

#[tokio::test]
async fn a_template_that_cannot_be_filled_is_refused() {
    check(
        &toy(),
        vec![
            (infill("nothing to fill"), "template", "the template holds no \"<blank>\""),
            (infill(""), "template", "holds no \"<blank>\""),
            (infill("a<blank:0>b"), "template", "holds no \"<blank>\""),
            (infill("<blank:0x2>"), "template", "holds no \"<blank>\""),
            (with_blank("a_b", ""), "blank", "blank is empty"),
            (with_blank("a_b", "?"), "template", "holds no \"?\""),
            (infill("<blank:1025>"), "template", "takes 1025 cells; the canvas has 1024"),
            (infill("<blank:1000><blank:1000>"), "template", "takes 2000 cells"),
            (infill("<blank:99999999999999999999>"), "template", "takes 18446744073709551615 cells"),
            (infill("<blank:1020>hello"), "template", "takes 1025 cells"),
            (infill(&format!("{}<blank>", "x".repeat(1024))), "template", "takes 1025 cells"),
            (Request { stop: stopping(&["x"]), ..infill("a <blank>") }, "stop", "does not go with a template"),
            (Request { steps: Some(1), block_length: Some(1), ..infill("<blank:3>") }, "diffusion.steps", "3 blocks"),
        ],
    );
}

#[tokio::test]
async fn the_operators_limit_counts_like_the_models() {
    let limits = Limits { canvas_max: Some(16), ..Limits::default() };
    let handle = engine(Box::new(Toy::new()), Some(toy_tokenizer()), limits);
    assert_eq!(handle.canvas_max(), 16);
    check(
        &handle,
        vec![
            (text("hello", Length::New(12)), "max_tokens", "ask for at most 11"),
            (text(&"x".repeat(16), Length::Default), "prompt", "the canvas has 16"),
            (infill("<blank:17>"), "template", "the canvas has 16"),
        ],
    );
    let limits = Limits { canvas_max: Some(usize::MAX), ..Limits::default() };
    assert_eq!(engine(Box::new(Toy::new()), None, limits).canvas_max(), 1024, "never more than the model's");
}

#[tokio::test]
async fn what_needs_a_head_is_refused_without_one() {
    let handle = engine(Box::new(Toy::without_head()), Some(toy_tokenizer()), Limits::default());
    check(
        &handle,
        vec![
            (quality(None, None, None), "diffusion.remasking", "this model does not have"),
            (Request { return_quality: true, ..plain() }, "diffusion.return_quality", "needs a quality head"),
        ],
    );
    handle.submit(&random(Some(3), None)).unwrap();
    handle.submit(&plain()).unwrap();
}

#[tokio::test]
async fn text_is_refused_without_a_tokenizer() {
    let message = "loaded without a tokenizer.json; give token ids instead";
    let handle = llada_tiny();
    check(
        &handle,
        vec![
            (text("hello", Length::New(4)), "prompt", message),
            (infill("hello <blank>"), "template", "loaded without a tokenizer.json"),
            (tokens(&[263], Length::New(4)), "prompt", "may not be the mask, 263"),
        ],
    );
    handle.submit(&tokens(&[1], Length::New(4))).unwrap();
}

#[tokio::test]
async fn what_the_vocabulary_cannot_say_is_refused() {
    let dir = data("../../models/sudoku");
    let tokenizer = Tokenizer::from_dir(&dir).unwrap().map(Arc::new);
    let model = load(&Source::Directory { dir, prism_head: None, adapter: None }, Device::Cpu).unwrap();
    let handle = engine(model, tokenizer, Limits::default());
    check(
        &handle,
        vec![
            (text("5 3", Length::New(4)), "prompt", "prompt: the model's vocabulary has nothing for ' '; leave it out"),
            (with_blank("5x_", "_"), "template", "nothing for 'x'"),
            (text("53.", Length::New(4)), "prompt", "token 2 of the prompt is the model's mask (\".\")"),
            (with_blank("53._", "_"), "template", "blanks are asked for with /v1/infill and \"blank\": \".\""),
            (with_blank(&".".repeat(90), "."), "template", "takes 90 cells; the canvas has 89"),
        ],
    );
    handle.submit(&with_blank("53..", ".")).unwrap();
}

#[tokio::test]
async fn what_lies_on_a_limit_is_admitted() {
    let handle = toy();
    let all = [
        text("hello", Length::New(1019)),
        text("hello", Length::Total(1024)),
        text("hello", Length::Total(6)),
        text(&"x".repeat(1023), Length::Default),
        tokens(&[0, 255, 257], Length::New(1)),
        Request { steps: Some(5), ..plain() },
        Request { steps: Some(65_536), ..plain() },
        Request { block_length: Some(u32::MAX), ..plain() },
        Request { pace: pace(1.0), ..plain() },
        Request { pace: pace(0.0), ..plain() },
        Request { cfg_scale: -0.0, temperature: -0.0, ..plain() },
        Request { cfg_scale: 100.0, temperature: 3.4e38, ..plain() },
        Request { stop: stopping(&["x"; 16]), ..plain() },
        quality(Some(0), Some(0.0), Some([0.0, 1.0])),
        quality(Some(65_536), Some(1.0), None),
        infill("<blank:1024>"),
        infill("<blank:1019>hello"),
    ];
    for request in all {
        let session = handle.submit(&request).unwrap_or_else(|rejected| panic!("{rejected}: {request:?}"));
        assert!(session.start.offset + session.start.cells.len() <= 1024);
    }
}
