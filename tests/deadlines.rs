//! Answers that are wanted by a certain time: what is given up, and what is kept whatever the time.

mod common;

use common::server::Server;
use common::{ask, engine, finished, toy_tokenizer};
use remask::diffusion::{
    Canvas, Order, Pace, Policy, Probability, Proofreading, Proposal, Reading, Remask, Review, Seed, Sequence, Stretch,
    TokenId,
};
use remask::engine::{Event, Failure, Limits, Request};
use remask::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Toy};
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::time::Duration;

/// A toy whose passes take a while.
struct Slow(Toy);

impl Denoiser for Slow {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.0.inspect(ids)
    }
}

#[tokio::test]
async fn what_does_not_fit_is_given_up_and_said() {
    let handle = engine(Box::new(Slow(Toy::new())), Some(toy_tokenizer()), Limits::default());
    let patient = Request { deadline: Some(Duration::from_secs(3600)), ..ask("a", 24) };
    let answer = finished(handle.submit(&patient).unwrap()).await;
    assert_eq!((answer.forward_passes, answer.degraded), (24, false));
    for block_length in [8, 300] {
        let hurried =
            Request { block_length: Some(block_length), deadline: Some(Duration::from_millis(400)), ..ask("a", 300) };
        let answer = finished(handle.submit(&hurried).unwrap()).await;
        assert!(answer.degraded, "{answer:?}");
        // passes take 20 ms at least, so that 20 fit at most, and one may be running when the time is up
        assert!((1..=21).contains(&answer.forward_passes), "{}", answer.forward_passes);
        assert!(!answer.output.text().is_empty());
    }
    let at_once = Request { deadline: Some(Duration::from_millis(10)), ..ask("a", 64) };
    let answer = finished(handle.submit(&at_once).unwrap()).await;
    assert_eq!((answer.forward_passes, answer.filled, answer.degraded), (1, 64, true), "all in one go");
}

#[tokio::test]
async fn whose_time_is_up_before_its_turn_is_told() {
    let limits = Limits { running_max: 1, ..Limits::default() };
    let handle = engine(Box::new(Slow(Toy::new())), Some(toy_tokenizer()), limits);
    let long = handle.submit(&ask("a", 200)).unwrap();
    let mut late = handle.submit(&Request { deadline: Some(Duration::from_millis(60)), ..ask("b", 4) }).unwrap();
    let Some(Event::Failed(failure)) = late.next().await else { panic!("an answer") };
    assert_eq!(failure, Failure::TooLate { deadline: Duration::from_millis(60) });
    drop(long);
}

#[tokio::test]
async fn the_wire_says_degraded_or_504() {
    let server = Server::of(Box::new(Slow(Toy::new())), Limits { running_max: 1, ..Limits::default() }).await;
    let body = |deadline: u64| json!({"prompt": "Once", "max_tokens": 200, "diffusion": {"deadline_ms": deadline}});
    let answer = server.answer("/v1/completions", &body(300)).await;
    assert_eq!(answer["diffusion"]["degraded"], true, "{answer}");
    let (url, client) = (server.url("/v1/completions"), server.client.clone());
    let long =
        tokio::spawn(async move { client.post(url).json(&json!({"prompt": "Once", "max_tokens": 400})).send().await });
    server.until("remask_sequences_running 1").await;
    let late = server.post("/v1/completions", &body(50)).await;
    assert_eq!(late.status(), 504);
    let error: Value = late.json().await.unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["type"]),
        (&json!("deadline_exceeded"), &json!("server_error"))
    );
    long.abort();
}

/// Whatever has been planned: the run ends within the passes, and no blank is left.
#[test]
fn a_hurried_run_is_full_in_time() {
    let number = |number: u32| NonZeroU32::new(number).unwrap();
    let tenth = |tenths: u8| Probability::new(f32::from(tenths) / 10.0).unwrap();
    let paces = [Pace::Steps(number(30)), Pace::Threshold { threshold: tenth(9), steps_max: None }];
    let worst = Remask::Quality { budget: 12, below: None, window: Stretch::WHOLE };
    let proofreading = Some(Proofreading { steps: 9, below: tenth(9), most: None });
    for (pace, block_length, proofreading) in paces
        .iter()
        .flat_map(|pace| [4, 9, 24].map(|length| (*pace, length, None)))
        .chain([(paces[0], 24, proofreading)])
    {
        for before in 0..24 {
            for passes in 0..12 {
                let policy = Policy {
                    order: Order::Leftmost,
                    pace,
                    remask: worst,
                    block_length: number(block_length),
                    proofreading,
                };
                let mut sequence = Sequence::new(Canvas::continuing(&[TokenId(1)], 24), policy, Seed(1)).unwrap();
                let mut left = None;
                for step in 0.. {
                    if step == before {
                        sequence.hurry(passes);
                        left = Some(passes.max(1));
                    }
                    let Some(window) = sequence.window() else { break };
                    if let Some(left) = &mut left {
                        assert!(*left > 0, "{pace:?} {block_length} {before} {passes}");
                        *left -= 1;
                    }
                    let (token, confidence) = (TokenId(2), tenth(5));
                    let propose = |at| Proposal { at, token, confidence, margin: confidence, entropy: 1.0 };
                    let review = |(at, _)| Review { at, quality: tenth(2) };
                    let canvas = sequence.canvas();
                    let reading = Reading {
                        proposals: canvas.blanks(window.clone()).map(propose).collect(),
                        reviews: canvas.filled(window).map(review).collect(),
                    };
                    sequence.advance(&reading).unwrap();
                }
                let canvas = sequence.canvas();
                assert_eq!(canvas.blanks(0..canvas.len()).count(), 0);
            }
        }
    }
}
