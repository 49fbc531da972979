//! Requests that are sent again: with an `Idempotency-Key` they are one request under several ids,
//! with a `Last-Event-ID` they read on the stream of the same request.

mod common;

use common::server::{Gated, Server, SseEvent, events};
use common::{sudoku_model, sudoku_tokenizer};
use remask::api::BODY_MAX;
use remask::engine::Limits;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const INFILL: &str = "/v1/infill";
const REPAIR: &str = "/v1/repair";

fn named(server: &Server, id: &str, path: &str, body: &Value) -> RequestBuilder {
    server.client.post(server.url(path)).header("x-request-id", id).json(body)
}

fn infill(text: &str) -> Value {
    json!({"template": format!("{text} <blank:4>"), "stream": true, "diffusion": {"steps": 4}})
}

async fn read(response: Response) -> Vec<SseEvent> {
    assert_eq!(response.status(), 200);
    events(&response.text().await.unwrap())
}

/// The status of an answer, the code and the message of its error.
async fn refused(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (status, field("code"), field("message"))
}

async fn delete(server: &Server, id: &str) -> u16 {
    server.client.delete(server.url(&format!("/v1/requests/{id}"))).send().await.unwrap().status().as_u16()
}

/// Waits until a request with an id is under way.
async fn until_named(server: &Server, id: &str) {
    let probe = || named(server, id, COMPLETIONS, &json!({"prompt": ""})).send();
    while probe().await.unwrap().status() != 409 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_keyed_request_is_cancelled_by_either_id_and_stays_cancelled() {
    for (stream, cancelled_by) in [(false, "first"), (false, "second"), (true, "first"), (true, "second")] {
        let (model, gate) = Gated::new();
        let server = Server::of(model, Limits::default()).await;
        let body = json!({"prompt": "Once", "max_tokens": 6, "stream": stream});
        let send = |id: &str| {
            let request = named(&server, id, COMPLETIONS, &body).header("idempotency-key", "a");
            tokio::spawn(async move { request.send().await.unwrap() })
        };
        let first = send("first");
        gate.reached().await;
        let second = send("second");
        until_named(&server, "second").await;
        assert_eq!(delete(&server, cancelled_by).await, 200);
        for response in [first.await.unwrap(), second.await.unwrap()] {
            if stream {
                assert_eq!(read(response).await.last().unwrap().json()["error"]["code"], "cancelled");
            } else {
                assert_eq!(refused(response).await.1, "cancelled");
            }
        }
        for id in ["first", "second"] {
            assert_eq!(delete(&server, id).await, 404, "both ids are free");
        }
        gate.open();
        server.until("remask_sequences_running{device=\"cpu\",model=\"toy\"} 0").await;
        let (status, code, message) = refused(send("third").await.unwrap()).await;
        assert_eq!((status, code.as_str()), (499, "cancelled"));
        assert!(
            message.contains("with this Idempotency-Key was cancelled") && message.contains("a new one"),
            "{message}"
        );
        server.until("remask_sequences_admitted_total{model=\"toy\"} 1").await;
        let other = named(&server, "third", COMPLETIONS, &body).header("idempotency-key", "b").send().await.unwrap();
        assert_eq!(other.status(), 200);
    }
}

#[tokio::test]
async fn the_second_id_names_the_request_also_when_its_connection_is_lost() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let send = |id: &str| {
        let client = reqwest::Client::new(); // of its own, whose connection ends with it
        let request = client.post(server.url(INFILL)).header("x-request-id", id).header("idempotency-key", "a");
        let request = request.json(&infill("Once"));
        tokio::spawn(async move { request.send().await.unwrap() })
    };
    drop(send("first").await.unwrap());
    gate.reached().await;
    drop(send("second").await.unwrap());
    let (status, code, _) = refused(named(&server, "second", INFILL, &infill("b")).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (409, "request_id_in_use"), "it names the keyed request");
    let by_second = tokio::spawn(server.client.get(server.url("/v1/requests/second")).send());
    gate.open();
    let by_second = read(by_second.await.unwrap().unwrap()).await;
    assert_eq!(by_second.last().unwrap().name, "done");
    for (id, last) in [("first", ""), ("second", ""), ("second", "first:1"), ("first", "second:1")] {
        let again = server.client.get(server.url(&format!("/v1/requests/{id}"))).header("last-event-id", last);
        let again = read(again.send().await.unwrap()).await;
        assert_eq!(again, by_second[if last.is_empty() { 0 } else { 2 }..], "{id} {last}");
    }
}

#[tokio::test]
async fn a_stream_is_resumed_by_the_same_request_only() {
    let server = Server::loading(BODY_MAX, Duration::from_secs(30)).await;
    server.load(sudoku_model(), Some(sudoku_tokenizer()), Limits::default());
    let (filled, repaired) = (
        json!({"template": "53467.912\n", "blank": ".", "stream": true}),
        json!({"text": "534678912\n", "stream": true}),
    );
    let filled_events = read(named(&server, "f", INFILL, &filled).send().await.unwrap()).await;
    let repaired_events = read(named(&server, "r", REPAIR, &repaired).send().await.unwrap()).await;
    let resume =
        |path: &str, last: &str, body: &Value| named(&server, "again", path, body).header("last-event-id", last).send();
    let not_streamed = json!({"template": "53467.912\n", "blank": "."});
    for (path, last, body, said) in [
        (REPAIR, "f:0", &repaired, "is of a stream of POST /v1/infill, not of /v1/repair; send that request again"),
        (REPAIR, "f:0", &filled, "is of a stream of POST /v1/infill, not of /v1/repair"),
        (INFILL, "r:0", &filled, "is of a stream of POST /v1/repair, not of /v1/infill"),
        (
            INFILL,
            "f:0",
            &not_streamed,
            "is of a request with another body; send that request again as it was, or GET /v1/requests/f",
        ),
        (REPAIR, "r:0", &json!({}), "is of a request with another body"),
        (COMPLETIONS, "f:0", &json!({"prompt": "5"}), "the events of /v1/completions have no ids"),
        ("/v1/chat/completions", "f:0", &json!({"messages": []}), "the events of /v1/chat/completions have no ids"),
        ("/v1/score", "f:0", &repaired, "leave out Last-Event-ID"),
    ] {
        let (status, _, message) = refused(resume(path, last, body).await.unwrap()).await;
        assert!(status == 400 && message.contains(said), "{path} {last}: {status} {message}");
    }
    assert_eq!(read(resume(INFILL, "f:0", &filled).await.unwrap()).await, filled_events[1..]);
    assert_eq!(read(resume(REPAIR, "r:0", &repaired).await.unwrap()).await, repaired_events[1..]);
}

/// A retry is a request that says the same, however its JSON is written.
#[tokio::test]
async fn a_request_is_known_again_by_what_it_says() {
    let server = Server::toy().await;
    let send = async |path: &str, header: &str, value: &str, body: &'static str| {
        let request = server.client.post(server.url(path)).header("x-request-id", "f").header(header, value);
        request.body(body).send().await.unwrap()
    };
    let first = "{\"prompt\": \"Once é\", \"max_tokens\": 4, \"diffusion\": {\"steps\": 2, \"deadline_ms\": 90000}}";
    let again = "{ \"diffusion\":{\"deadline_ms\":90000,\n\"steps\":2},\"max_tokens\":4,\"prompt\":\"Once \\u00e9\"}";
    let answer = send(COMPLETIONS, "idempotency-key", "k", first).await.text().await.unwrap();
    let replayed = send(COMPLETIONS, "idempotency-key", "k", again).await;
    assert_eq!((replayed.status().as_u16(), replayed.headers().contains_key("idempotent-replayed")), (200, true));
    assert_eq!(replayed.text().await.unwrap(), answer);
    for other in [
        "{\"prompt\": \"Once é\", \"max_tokens\": 4, \"diffusion\": {\"steps\": 3, \"deadline_ms\": 90000}}",
        "{\"prompt\": \"Once é\", \"max_tokens\": 4}",
        "",
    ] {
        let refusal = refused(send(COMPLETIONS, "idempotency-key", "k", other).await).await;
        assert_eq!((refusal.0, &*refusal.1), (422, "idempotency_key_reused"), "{other}");
    }
    let (filled, again) = (
        "{\"template\": \"5.4\", \"blank\": \".\", \"stream\": true}",
        "{\"stream\":true,\"blank\":\".\",\"template\":\"5.4\"}",
    );
    let events = read(send(INFILL, "x-other", "-", filled).await).await;
    assert_eq!(read(send(INFILL, "last-event-id", "f:0", again).await).await, events[1..]);
}
