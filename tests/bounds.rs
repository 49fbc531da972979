//! What one request may take at most: forward passes, bytes of text, and what its choices share.

mod common;

use common::server::Server;
use common::{ask, engine, finished, toy, toy_tokenizer};
use remask::diffusion::TokenId;
use remask::diffusion::policy::{CORRECT_EVERY, CORRECTOR_PASSES, Choice, PROSECO, QUALITY, THRESHOLD};
use remask::engine::{DEFAULT_BLANK, Event, Length, Limits, Prompt, Proofreading, Rejected, Request, Task};
use remask::model::Toy;
use remask::text::{Conversation, Message, TextError};
use serde_json::{Value, json};

/// Twenty new tokens in blocks of this many.
fn blocks_of(length: u32, tokens: usize) -> Request {
    Request { block_length: Some(length), ..ask("a", tokens) }
}

fn proofread(steps: u32, request: Request) -> Request {
    let proofreading = Some(Proofreading { steps: Some(steps), ..Proofreading::default() });
    Request { proofreading, remasking: Some(Choice::of(&QUALITY)), ..request }
}

fn erasing(budget: u32, request: Request) -> Request {
    Request { remasking: Some(Choice::of(&QUALITY).with("budget", budget)), ..request }
}

fn correcting(every: u32, passes: u32, request: Request) -> Request {
    let remasking = Choice::of(&PROSECO).with(CORRECT_EVERY.name, every).with(CORRECTOR_PASSES.name, passes);
    Request { remasking: Some(remasking), ..request }
}

fn repair(steps: u32) -> Request {
    let proofreading = Some(Proofreading { steps: Some(steps), ..Proofreading::default() });
    let task = Task::Repair { text: Prompt::Text("some text".to_owned()), pinned: Vec::new() };
    Request { proofreading, ..Request::new(task) }
}

#[track_caller]
fn refused(request: &Request, param: &str, fragments: &[&str]) {
    match toy().submit(request).err() {
        Some(Rejected::Invalid { param: found, message } | Rejected::TooLong { param: found, message }) => {
            assert_eq!(found, param, "{message}");
            for fragment in fragments {
                assert!(message.contains(fragment), "{message:?} does not say {fragment:?}");
            }
        }
        other => panic!("{other:?}: {request:?}"),
    }
}

#[tokio::test]
async fn the_passes_of_a_whole_request_are_bounded_and_the_field_is_named() {
    let (steps, proofreading) = ("diffusion.steps", "diffusion.proofreading.steps");
    let long = proofread(65_536, blocks_of(1, 4));
    refused(&long, proofreading, &["262148 forward passes", "65536 are allowed", "give at most 16383"]);
    refused(&proofread(16_384, blocks_of(1, 4)), proofreading, &["65540 forward passes", "give at most 16383"]);
    refused(&proofread(128, blocks_of(1, 1000)), proofreading, &["129000 forward passes", "give at most 64"]);
    let judged = Request { return_quality: true, ..repair(65_536) };
    refused(&judged, "steps", &["65537 forward passes", "give at most 65535"]);
    let unbounded = Request { pace: Choice::of(&THRESHOLD).with(THRESHOLD.name, 1.0).settings, ..blocks_of(8, 40) };
    refused(&erasing(65_536, unbounded.clone()), "diffusion.remasking.budget", &["327720 forward passes"]);
    let many = Request { steps: Some(65_536), return_quality: true, ..erasing(65_536, ask("a", 20)) };
    refused(&many, steps, &["65537 forward passes", "give at most 65535"]);
    // 500 blocks of two steps, one of which corrects
    let blocks = correcting(2, 65_536, blocks_of(2, 1000));
    let message = ["32769000 forward passes (1000 to fill 500 blocks, 32768000 to correct", "give at most 129"];
    refused(&blocks, "diffusion.remasking.corrector_passes", &message);
    refused(&correcting(2, 130, blocks_of(2, 1000)), "diffusion.remasking.corrector_passes", &["give at most 129"]);
    refused(&correcting(1, 65_536, ask("a", 1)), "diffusion.remasking.corrector_passes", &["give at most 65535"]);
    for request in [
        correcting(2, 129, blocks_of(2, 1000)),
        correcting(1, 65_535, ask("a", 1)),
        correcting(2, 65_536, ask("a", 1)), // its only step does not correct
        proofread(16_383, blocks_of(1, 4)),
        proofread(64, blocks_of(1, 1000)),
        repair(65_536),
        Request { steps: Some(65_536), ..erasing(65_536, ask("a", 20)) },
        Request { steps: Some(65_536), return_quality: true, ..ask("a", 20) }, // it ends after twenty
        erasing(65_536, Request { steps: Some(65_536), ..unbounded }),
    ] {
        toy().submit(&request).unwrap();
    }
}

#[tokio::test]
async fn the_passes_of_all_choices_are_bounded_together() {
    let request = Request { steps: Some(9000), ..erasing(9000, ask("a", 20)) };
    let admit = |choices| toy().admit_all(request.clone(), vec![request.task.clone()], choices);
    match admit(128).unwrap_err() {
        Rejected::Invalid { param, message } => {
            assert_eq!(param, "n");
            assert!(message.contains("1152000 forward passes together"), "{message}");
            assert!(message.ends_with("give at most 116"), "{message}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(admit(116).unwrap().len(), 116);
    let prompts = toy().admit_all(request.clone(), vec![request.task.clone(); 117], 1);
    assert!(prompts.is_err_and(|error| error.to_string().starts_with("prompt: ")));
}

#[tokio::test]
async fn a_text_too_long_for_any_tokens_is_refused_by_its_bytes() {
    let long = "x".repeat(2_000_000);
    let text = || Prompt::Text(long.clone());
    let said = ["2000000 bytes; the canvas has 1024 cells, at most 2048 bytes"];
    let continued = Request::new(Task::Continue { prompt: text(), length: Length::Default });
    refused(&continued, "prompt", &said);
    let messages = vec![remask::text::Message::new("user", long.clone())];
    let chat = Prompt::Chat(messages.into());
    refused(&Request::new(Task::Continue { prompt: chat, length: Length::Default }), "messages", &said);
    let infill = Task::Infill { template: format!("{long}<blank>"), blank: DEFAULT_BLANK.to_owned() };
    refused(&Request::new(infill), "template", &said);
    let between = Task::Between { before: "a".to_owned(), cells: 3, after: long.as_str().into() };
    refused(&Request::new(between), "suffix", &said);
    refused(&Request::new(Task::Score { text: text(), likelihood: true }), "text", &said);
    refused(&Request::new(Task::Repair { text: text(), pinned: Vec::new() }), "text", &said);
    let stop = Request { stop: vec![long.clone()], ..ask("a", 4) };
    refused(&stop, "stop", &["2000000 bytes; give at most 16384 in all"]);
    let stop = Request { stop: vec!["x".repeat(16_000)], ..ask("a", 4) };
    refused(&stop, "stop", &["16000 bytes; the canvas has 1024 cells, at most 2048 bytes"]);
    let fits = Request::new(Task::Continue { prompt: Prompt::Text("x".repeat(1023)), length: Length::Default });
    toy().submit(&fits).unwrap();
}

#[tokio::test]
async fn a_bias_is_given_once() {
    let twice = Request { logit_bias: vec![(TokenId(97), 1.0), (TokenId(98), 1.0), (TokenId(97), 2.0)], ..ask("a", 1) };
    refused(&twice, "logit_bias", &["has token 97 twice"]);
}

#[tokio::test]
async fn choices_count_their_seeds_up_and_are_admitted_all_or_none() {
    let limits = Limits { running_max: 2, queue_max: 3, ..Limits::default() };
    let handle = engine(Box::new(Toy::new()), Some(toy_tokenizer()), limits);
    let request = Request { seed: Some(u64::MAX), temperature: 1.5, ..ask("a", 12) };
    let tasks = |count: usize| vec![request.task.clone(); count];
    assert!(matches!(handle.admit_all(request.clone(), tasks(2), 3), Err(Rejected::Full { .. })), "six of five places");
    let admitted = handle.admit_all(request.clone(), tasks(1), 5).unwrap();
    assert!(matches!(handle.submit(&request), Err(Rejected::Full { .. })));
    let mut sessions: Vec<_> = admitted.into_iter().map(|admitted| handle.queue(admitted).unwrap()).collect();
    let mut texts = Vec::new();
    for session in sessions.drain(..) {
        texts.push(finished(session).await.output);
    }
    for (choice, text) in texts.iter().enumerate() {
        let seed = Some(u64::MAX.wrapping_add(choice as u64));
        let alone = finished(toy().submit(&Request { seed, ..request.clone() }).unwrap()).await;
        assert_eq!(&alone.output, text, "choice {choice}");
    }
    texts.dedup();
    assert!(texts.len() > 1);
}

#[tokio::test]
async fn who_waits_for_the_answer_only_gets_no_steps() {
    let handle = toy();
    let admitted = handle.admit(&ask("a", 200)).unwrap();
    let mut session = handle.queue_for_answer(admitted).unwrap();
    assert!(matches!(session.next().await, Some(Event::Finished(_))), "the first event is the last");
    assert_eq!(session.next().await, None);
}

#[tokio::test]
async fn over_http_the_bounds_hold_for_all_choices() {
    let server = Server::toy().await;
    let passes = json!({"prompt": "a", "max_tokens": 4, "diffusion": {"block_length": 1,
                        "proofreading": {"steps": 65_536}}});
    let echoed = json!({"prompt": ["ab", "cd"], "n": 2, "echo": true, "max_tokens": 3});
    let response = server.post("/v1/completions", &passes).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "diffusion.proofreading.steps");
    let long = json!({"prompt": "x".repeat(2_000_000), "n": 128});
    let error = server.post("/v1/completions", &long).await.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!((&error["param"], &error["code"]), (&json!("prompt"), &json!("context_length_exceeded")));
    let answer = server.answer("/v1/completions", &echoed).await;
    let texts: Vec<&str> =
        answer["choices"].as_array().unwrap().iter().map(|it| it["text"].as_str().unwrap()).collect();
    let starts: Vec<&str> = texts.iter().map(|text| &text[..2]).collect();
    assert_eq!(starts, ["ab", "ab", "cd", "cd"]);
}

#[test]
fn a_conversation_that_cannot_fit_is_not_encoded() {
    let tokenizer = toy_tokenizer();
    let many: Conversation = vec![Message::new("user", ""); 50_000].into();
    assert_eq!((many.bytes(), many.weight() > 50_000_000), (0, true));
    let error = tokenizer.encode_chat_within(&many, 1024).unwrap_err();
    assert!(matches!(error, TextError::TooLong { bytes, most } if bytes > most), "{error}");
    let few: Conversation = vec![Message::new("user", "Hello"); 3].into();
    assert_eq!(tokenizer.encode_chat_within(&few, 1024), tokenizer.encode_chat(&few));
}
