//! Requests by id: a broken stream is resumed, a request is cancelled, an idempotent request is
//! computed once, and a timeout ends a request.

mod common;

use common::server::{Failing, Gated, Server, SseEvent, events};
use futures_util::StreamExt;
use remask::api::{Access, Guard, Patience};
use remask::engine::Limits;
use remask::model::Toy;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const INFILL: &str = "/v1/infill";

fn named(server: &Server, id: &str, path: &str, body: &Value) -> RequestBuilder {
    server.client.post(server.url(path)).header("x-request-id", id).json(body)
}

fn infill() -> Value {
    json!({"template": "Once <blank:24> there", "seed": 3, "temperature": 1, "stream": true})
}

async fn read(response: Response) -> Vec<SseEvent> {
    assert_eq!(response.status(), 200);
    events(&response.text().await.unwrap())
}

/// The first `count` events; then the connection is closed.
async fn read_some(response: Response, count: usize) -> Vec<SseEvent> {
    let (mut chunks, mut text) = (response.bytes_stream(), String::new());
    while text.matches("\n\n").count() < count {
        text.push_str(std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap());
    }
    let mut read = events(&text[..=text.rfind("\n\n").unwrap() + 1]);
    read.truncate(count);
    read
}

async fn refused(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    (status, error["code"].as_str().unwrap_or_default().to_owned())
}

async fn delete(server: &Server, id: &str) -> Response {
    server.client.request(Method::DELETE, server.url(&format!("/v1/requests/{id}"))).send().await.unwrap()
}

#[tokio::test]
async fn a_stream_that_is_cut_is_read_on_to_the_same_end() {
    let server = Server::toy().await;
    let whole = read(named(&server, "r", INFILL, &infill()).send().await.unwrap()).await;
    assert!(whole.len() > 20 && whole.last().unwrap().name == "done", "{whole:?}");
    for cut in [1, 7, whole.len() - 1] {
        let (model, gate) = Gated::new();
        let server = Server::of(model, Limits::default()).await;
        if cut > 1 {
            gate.open();
        }
        let begun = read_some(named(&server, "r", INFILL, &infill()).send().await.unwrap(), cut).await;
        assert_eq!(begun, whole[..cut]);
        gate.open();
        let again = named(&server, "other", INFILL, &infill()).header("last-event-id", &begun[cut - 1].id);
        assert_eq!(read(again.send().await.unwrap()).await, whole[cut..], "cut behind {cut} events");
        assert_eq!(read(server.get("/v1/requests/r").await).await, whole, "as long as it is kept");
        server.until("remask_requests_total{endpoint=\"/v1/infill\",outcome=\"ok\"} 2").await;
    }
}

#[tokio::test]
async fn what_is_not_kept_is_not_there() {
    let key = |key: &str| Guard::new(&[key.to_owned(), "other".to_owned()], None, None).unwrap();
    let server =
        Server::guarded(1 << 20, Duration::from_secs(30), Access { guard: key("mine"), origins: Vec::new() }).await;
    server.load(Box::new(Toy::new()), Some(common::toy_tokenizer()), Limits::default());
    let with = |key: &str, last: &str| {
        let request = named(&server, "r", INFILL, &infill()).bearer_auth(key);
        if last.is_empty() { request } else { request.header("last-event-id", last) }
    };
    read(with("mine", "").send().await.unwrap()).await;
    let unknown = (404, "request_not_found".to_owned());
    for (whose, last) in [("mine", "r:999"), ("mine", "s:1"), ("other", "r:1")] {
        assert_eq!(refused(with(whose, last).send().await.unwrap()).await, unknown, "{whose} {last}");
    }
    for last in ["r:x", "r:-1", "r:", "r", "nonsense", "r:99999999999999999999"] {
        let (status, code) = refused(with("mine", last).send().await.unwrap()).await;
        assert_eq!((status, code == unknown.1), (400, false), "{last}: {code}");
    }
    let resumed = |last: &str| {
        let request = server.client.get(server.url("/v1/requests/r")).bearer_auth("mine");
        request.header("last-event-id", last).send()
    };
    for last in ["s:1", "r:x", "r", "nonsense", ":1"] {
        assert_eq!(refused(resumed(last).await.unwrap()).await.0, 400, "{last}");
    }
    assert_eq!(refused(resumed("r:999").await.unwrap()).await, unknown);
    assert_eq!(read(resumed("r:3").await.unwrap()).await[0].id, "r:4");
    assert_eq!(read(resumed("").await.unwrap()).await[0].id, "r:0");
    for path in ["/v1/requests/%ff", "/v1/requests/r%2fs"] {
        let nobody = server.client.get(server.url(path)).bearer_auth("mine").send().await.unwrap();
        assert_eq!(refused(nobody).await, (404, "request_not_found".to_owned()), "{path}");
    }
    assert!(!read(with("mine", "r:3").send().await.unwrap()).await.is_empty());
    let stopped = server.client.delete(server.url("/v1/requests/r")).bearer_auth("mine").send().await.unwrap();
    assert_eq!(stopped.status(), 404, "it has ended");
}

#[tokio::test]
async fn a_stream_nobody_comes_back_to_is_given_up() {
    let (model, gate) = Gated::new();
    let patience = Patience { resume: Duration::from_millis(20), ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    let begun = read_some(named(&server, "r", INFILL, &infill()).send().await.unwrap(), 1).await;
    server.until("remask_requests_total{endpoint=\"/v1/infill\",outcome=\"cancelled\"} 1").await;
    gate.open();
    server.until("remask_sequences_cancelled_total{model=\"toy\"} 1").await;
    let again = named(&server, "r", INFILL, &infill()).header("last-event-id", &begun[0].id);
    assert_eq!(refused(again.send().await.unwrap()).await.0, 404);
}

#[tokio::test]
async fn a_request_is_stopped_by_its_name() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let body = json!({"prompt": "Once", "max_tokens": 64});
    let waiting = tokio::spawn(named(&server, "w", COMPLETIONS, &body).send());
    gate.reached().await;
    let streamed = named(&server, "s", COMPLETIONS, &json!({"prompt": "Once", "stream": true})).send().await.unwrap();
    let told = named(&server, "t", INFILL, &infill()).send().await.unwrap();
    for id in ["w", "s", "t"] {
        let answer = delete(&server, id).await.json::<Value>().await.unwrap();
        assert_eq!(answer, json!({"id": id, "object": "request", "cancelled": true}));
    }
    assert_eq!(refused(waiting.await.unwrap().unwrap()).await, (499, "cancelled".to_owned()));
    for response in [streamed, told] {
        assert_eq!(read(response).await.last().unwrap().json()["error"]["code"], "cancelled");
    }
    gate.open();
    server.until("remask_sequences_cancelled_total{model=\"toy\"} 3").await;
    server.until("remask_sequences_running{device=\"cpu\",model=\"toy\"} 0").await;
    assert_eq!(refused(delete(&server, "w").await).await, (404, "request_not_found".to_owned()));
    server.until("remask_requests_total{endpoint=\"/v1/completions\",outcome=\"cancelled\"} 2").await;
}

#[tokio::test]
async fn every_request_can_be_asked_how_far_it_is() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let body = |stream: bool| json!({"prompt": "Once", "max_tokens": 4, "stream": stream});
    let status = async |id: &str| {
        let answer = server.get(&format!("/v1/requests/{id}")).await.json::<Value>().await.unwrap();
        assert!(answer["created"].as_u64().unwrap() > 1_700_000_000, "{answer}");
        assert_eq!((&answer["id"], &answer["object"]), (&json!(id), &json!("request")));
        answer["status"].as_str().unwrap().to_owned()
    };
    let waiting = ["a", "b"].map(|id| tokio::spawn(named(&server, id, COMPLETIONS, &body(false)).send()));
    gate.reached().await;
    let streamed = named(&server, "s", COMPLETIONS, &body(true)).send().await.unwrap();
    while server.get("/v1/requests/a").await.status() != 200 || server.get("/v1/requests/b").await.status() != 200 {}
    for id in ["a", "b", "s"] {
        assert_eq!(status(id).await, "in_progress");
    }
    let resumed = server.client.get(server.url("/v1/requests/a")).header("last-event-id", "a:0").send().await.unwrap();
    assert_eq!(refused(resumed).await.0, 400, "it has no events");
    assert_eq!(delete(&server, "b").await.status(), 200);
    assert_eq!(status("b").await, "cancelled", "also before its client has the answer");
    gate.open();
    assert!(streamed.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    for (request, code) in waiting.into_iter().zip([200, 499]) {
        assert_eq!(request.await.unwrap().unwrap().status().as_u16(), code);
    }
    assert_eq!(named(&server, "x", COMPLETIONS, &json!({"prompt": 1.5})).send().await.unwrap().status(), 400);
    for (id, wanted) in [("a", "completed"), ("b", "cancelled"), ("s", "completed"), ("x", "failed")] {
        assert_eq!(status(id).await, wanted, "{id}");
    }
    let message = delete(&server, "a").await.json::<Value>().await.unwrap()["error"]["message"].clone();
    assert!(message.as_str().unwrap().contains("\"a\" has ended"), "{message}");
    assert_eq!(refused(server.get("/v1/requests/y").await).await, (404, "request_not_found".to_owned()));
}

#[tokio::test]
async fn a_request_that_is_sent_twice_is_served_once() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let send = |key: &str, body: &Value| {
        tokio::spawn(server.client.post(server.url(COMPLETIONS)).header("idempotency-key", key).json(body).send())
    };
    let body = json!({"prompt": "Once", "max_tokens": 6, "temperature": 1});
    let first = send("a", &body);
    gate.reached().await;
    let second = send("a", &body);
    assert_eq!(refused(send("a", &json!({"prompt": "Twice"})).await.unwrap().unwrap()).await.0, 422);
    gate.open();
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert!(!first.headers().contains_key("idempotent-replayed"));
    assert_eq!((&second.headers()["idempotent-replayed"], second.status().as_u16()), (&"true".parse().unwrap(), 200));
    let (first, second) = (first.text().await.unwrap(), second.text().await.unwrap());
    assert_eq!(first, second);
    server.until("remask_forward_passes_total{device=\"cpu\",model=\"toy\"} 6").await;

    let streamed = json!({"prompt": "Once", "max_tokens": 6, "temperature": 1, "stream": true});
    let texts = [
        send("b", &streamed).await.unwrap().unwrap().text().await.unwrap(),
        send("b", &streamed).await.unwrap().unwrap().text().await.unwrap(),
    ];
    assert!(texts[0] == texts[1] && texts[0].ends_with("data: [DONE]\n\n"), "{texts:?}");
    server.until("remask_forward_passes_total{device=\"cpu\",model=\"toy\"} 12").await;
    // the rest of a stream is not stored as a whole answer
    let begun = named(&server, "r", INFILL, &infill()).header("idempotency-key", "d").send().await.unwrap();
    drop(read_some(begun, 2).await);
    let rest = named(&server, "s", INFILL, &infill()).header("idempotency-key", "d").header("last-event-id", "r:1");
    assert_eq!(read(rest.send().await.unwrap()).await[0].id, "r:2");
    let again = named(&server, "t", INFILL, &infill()).header("idempotency-key", "d").send().await.unwrap();
    assert_eq!(read(again).await[0].name, "start");

    let other = send("c", &body).await.unwrap().unwrap();
    assert_ne!(other.text().await.unwrap(), first, "another key, another answer");
    assert_eq!(refused(send(&"k".repeat(256), &body).await.unwrap().unwrap()).await.0, 400);
}

#[tokio::test]
async fn a_request_with_a_key_outlives_its_connection() {
    const OK: &str = "remask_requests_total{endpoint=\"/v1/completions\",outcome=\"ok\"}";
    let patience = Patience { timeout: None, resume: Duration::ZERO };
    for (stream, comes_back_in_time) in [(false, true), (true, true), (false, false), (true, false)] {
        let (model, gate) = Gated::new();
        let server = Server::patient(model, Limits::default(), patience).await;
        let body = json!({"prompt": "Once", "max_tokens": 6, "temperature": 1, "stream": stream});
        let send = || {
            // a client of its own, whose connection ends with it
            let request =
                reqwest::Client::new().post(server.url(COMPLETIONS)).header("idempotency-key", "a").json(&body);
            tokio::spawn(async move { request.send().await.unwrap() })
        };
        let lost = send();
        gate.reached().await;
        lost.abort();
        drop(lost.await); // of a stream, the head may have come
        let retried = if comes_back_in_time {
            let retries = (send(), send());
            gate.open();
            [retries.0.await.unwrap(), retries.1.await.unwrap()]
        } else {
            gate.open();
            server.until(&format!("{OK} 1")).await;
            [send().await.unwrap(), send().await.unwrap()]
        };
        let mut texts = Vec::new();
        for response in retried {
            assert_eq!(response.headers()["idempotent-replayed"], "true");
            texts.push(response.text().await.unwrap());
        }
        assert!(texts[0] == texts[1] && texts[0].contains("\"finish_reason\":\"length\""), "{texts:?}");
        assert!(!stream || texts[0].ends_with("data: [DONE]\n\n"), "{texts:?}");
        server.until(&format!("{OK} 3")).await; // the lost one, too
        let metrics = server.get("/metrics").await.text().await.unwrap();
        for line in [
            "remask_forward_passes_total{device=\"cpu\",model=\"toy\"} 6",
            "remask_sequences_cancelled_total{model=\"toy\"} 0",
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }
}

#[tokio::test]
async fn what_failed_is_not_kept() {
    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 3 }), Limits::default()).await;
    for stream in [false, true] {
        let body = json!({"prompt": "Once", "max_tokens": 8, "stream": stream});
        for _ in 0..2 {
            let response = server
                .client
                .post(server.url(COMPLETIONS))
                .header("idempotency-key", "a")
                .json(&body)
                .send()
                .await
                .unwrap();
            assert!(!response.headers().contains_key("idempotent-replayed"));
            assert!(response.text().await.unwrap().contains("model_failure"));
        }
    }
}

#[tokio::test]
async fn no_request_takes_longer_than_it_may() {
    let (model, gate) = Gated::new();
    let patience = Patience { timeout: Some(Duration::from_millis(300)), ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    let whole = server.post(COMPLETIONS, &json!({"prompt": "Once"})).await;
    assert_eq!(refused(whole).await, (504, "timeout".to_owned()));
    let streamed = server.post(COMPLETIONS, &json!({"prompt": "Once", "stream": true})).await;
    assert_eq!(read(streamed).await.last().unwrap().json()["error"]["code"], "timeout");
    gate.open();
    server.until("remask_sequences_cancelled_total{model=\"toy\"} 2").await;
}
