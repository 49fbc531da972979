//! Calls that end without an answer: cancelled, refused under load, failed or late.

use super::calls::{
    COMPLETIONS, Call, PATIENCE, asked, carrying, client, diffusing, framed, judged, mended, metadata, refused,
    template, told,
};
use super::proto;
use super::proto::generate_event::Event;
use crate::common::server::{Failing, Gate, Gated, Server};
use prost::Message as _;
use remask::api::{BODY_MAX, Patience};
use remask::diffusion::TokenId;
use remask::engine::Limits;
use remask::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Readings, Toy};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn a_caller_that_cancels_drops_its_sequence() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let mut client = client(&server);
    let long = proto::GenerateRequest { max_tokens: Some(900), ..asked("Once") };
    for (number, call) in [
        Call::Generate(long),
        Call::Infill(template("a<blank:60>")),
        Call::Repair(mended("some text")),
        Call::Score(judged("some text")),
    ]
    .into_iter()
    .enumerate()
    {
        if number > 0 {
            gate.close();
        }
        let method = match call {
            Call::Generate(asked) => {
                let stream = client.generate(asked).await.unwrap();
                gate.reached().await;
                drop(stream);
                "Generate"
            }
            Call::Infill(asked) => {
                let stream = client.infill(asked).await.unwrap();
                gate.reached().await;
                drop(stream);
                "Infill"
            }
            Call::Repair(asked) => {
                let stream = client.repair(asked).await.unwrap();
                gate.reached().await;
                drop(stream);
                "Repair"
            }
            Call::Score(asked) => {
                let mut client = client.clone();
                let waiting = tokio::spawn(async move { client.score(asked).await });
                gate.reached().await;
                waiting.abort();
                "Score"
            }
        };
        let ended = format!("remask_requests_total{{endpoint=\"/remask.v1.Remask/{method}\",outcome=\"cancelled\"}} 1");
        server.until(&ended).await;
        gate.open();
        if method != "Score" {
            // its only pass may be over before the server notices that the client has gone
            server.until(&format!("remask_sequences_cancelled_total{{model=\"toy\"}} {}", number + 1)).await;
        }
        server.until("remask_sequences_running{device=\"cpu\",model=\"toy\"} 0").await;
    }
}

async fn busy() -> (Server, Arc<Gate>) {
    let (model, gate) = Gated::new();
    (Server::of(model, Limits { running_max: 1, queue_max: 0, ..Limits::default() }).await, gate)
}

#[tokio::test]
async fn a_refusal_for_lack_of_room_says_when_to_try_again() {
    let (server, gate) = busy().await;
    let mut client = client(&server);
    let first = client.generate(asked("a")).await.unwrap();
    // the time to a place grows while the pass before it goes on
    let over_http = async || -> u64 {
        let refused = server.post(COMPLETIONS, &json!({"prompt": "a"})).await;
        refused.headers()["retry-after"].to_str().unwrap().parse().unwrap()
    };
    for call in [Call::Generate(asked("a")), Call::Infill(template("<blank>")), Call::Score(judged("a"))] {
        let before = over_http().await;
        let status = refused(&mut client, call).await;
        assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::ResourceExhausted, Some("queue_full")));
        let seconds: u64 = metadata(&status, "retry-after").unwrap().parse().unwrap();
        let after = over_http().await;
        assert!((before..=after).contains(&seconds), "{seconds} s, over HTTP {before} to {after} s");
        assert_eq!(metadata(&status, "grpc-retry-pushback-ms"), Some(&*format!("{}", seconds * 1000)));
    }
    gate.open();
    told(first.into_inner()).await;
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Score\",outcome=\"refused\"} 1").await;

    let loading = Server::loading(BODY_MAX, PATIENCE).await;
    let status = refused(&mut self::client(&loading), Call::Generate(asked("a"))).await;
    assert_eq!((status.code(), metadata(&status, "retry-after")), (Code::Unavailable, Some("5")));
    assert!(status.message().contains("still being loaded"), "{status:?}");
}

#[tokio::test]
async fn a_model_that_fails_amid_a_stream_is_a_status() {
    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 3 }), Limits::default()).await;
    let mut client = client(&server);
    let diffusion = proto::Diffusion { stream_edits: true, ..Default::default() };
    let mut stream = client.generate(diffusing(diffusion)).await.unwrap().into_inner();
    let mut events = 0;
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => events += 1,
            Ok(None) => panic!("no status"),
            Err(status) => break status,
        }
    };
    assert_eq!((events, status.code(), metadata(&status, "remask-code")), (4, Code::Internal, Some("model_failure")));
    assert!(status.message().contains("the device is on fire"), "{status:?}");
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"failed\"} 1").await;
    let status = refused(&mut client, Call::Score(judged("a"))).await;
    assert_eq!(status.code(), Code::Internal);
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Score\",outcome=\"failed\"} 1").await;
}

#[tokio::test]
async fn a_call_is_stopped_by_its_name_and_has_no_more_time_than_others() {
    let (model, gate) = Gated::new();
    let patience = Patience { timeout: Some(Duration::from_secs(20)), ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    let mut client = client(&server);
    let mut stream = client.generate(carrying(asked("Once"), &[("x-request-id", "g")])).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "the start");
    gate.reached().await;
    let again = client.score(carrying(judged("a"), &[("x-request-id", "g")])).await.unwrap_err();
    assert_eq!((again.code(), metadata(&again, "remask-code")), (Code::AlreadyExists, Some("request_id_in_use")));
    let stopped = server.client.delete(server.url("/v1/requests/g")).send().await.unwrap();
    assert_eq!(stopped.status(), 200);
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::Cancelled, Some("cancelled")));
    gate.open();
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"cancelled\"} 1").await;

    let (model, _gate) = Gated::new();
    let patience = Patience { timeout: Some(Duration::from_millis(30)), ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    let status = self::client(&server).score(judged("a")).await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::DeadlineExceeded, Some("timeout")));
}

/// A toy with slow passes.
struct Slow(Toy);

impl Denoiser for Slow {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.0.inspect(ids)
    }
}

/// Sent without tonic's client, which would enforce the timeout itself.
#[tokio::test]
async fn who_waits_only_so_long_gets_the_best_answer_by_then() {
    let server = Server::of(Box::new(Slow(Toy::new())), Limits::default()).await;
    let ask = async |diffusion: proto::Diffusion, timeout: &str| {
        let asked = proto::GenerateRequest { max_tokens: Some(200), ..diffusing(diffusion) };
        let request = server.client.post(server.url("/remask.v1.Remask/Generate")).header("grpc-timeout", timeout);
        let request = request.header("content-type", "application/grpc").body(framed(&asked.encode_to_vec()));
        let bytes = request.send().await.unwrap().bytes().await.unwrap();
        let (mut rest, mut last) = (&bytes[..], None);
        while let [0, a, b, c, d, body @ ..] = rest {
            let (message, after) = body.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            last = proto::GenerateEvent::decode(message).unwrap().event;
            rest = after;
        }
        let Some(Event::Done(done)) = last else { panic!("{last:?}") };
        done.diffusion.unwrap()
    };
    let hurried = ask(proto::Diffusion::default(), "300m").await;
    assert!(hurried.degraded && hurried.forward_passes <= 15, "{hurried:?}");
    let asked_for =
        ask(proto::Diffusion { deadline_ms: Some(3_600_000), steps: Some(20), ..Default::default() }, "1m").await;
    assert!(!asked_for.degraded, "what a request says itself stands: {asked_for:?}");
}

#[tokio::test]
async fn whose_time_is_up_before_its_turn_is_told() {
    let server = Server::of(Box::new(Slow(Toy::new())), Limits { running_max: 1, ..Limits::default() }).await;
    let mut client = client(&server);
    let long = client.generate(proto::GenerateRequest { max_tokens: Some(400), ..asked("a") }).await.unwrap();
    server.until("remask_sequences_running{device=\"cpu\",model=\"toy\"} 1").await;
    let late = diffusing(proto::Diffusion { deadline_ms: Some(50), ..Default::default() });
    let mut late = client.generate(late).await.unwrap().into_inner();
    assert!(matches!(late.message().await.unwrap().unwrap().event, Some(Event::Start(_))));
    let status = late.message().await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::DeadlineExceeded, Some("deadline_exceeded")));
    drop(long);
}
