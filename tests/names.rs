//! Names of requests: an id belongs to the API key that sent it, and is in use once at a time.

mod common;

use common::server::{Gated, Server, events};
use common::toy_tokenizer;
use remask::api::{Access, Guard};
use remask::engine::Limits;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const INFILL: &str = "/v1/infill";

fn infill(text: &str) -> Value {
    json!({"template": format!("{text} <blank:4>"), "stream": true, "diffusion": {"steps": 4}})
}

fn named(server: &Server, id: &str, path: &str, body: &Value) -> RequestBuilder {
    server.client.post(server.url(path)).header("x-request-id", id).json(body)
}

async fn refused(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    let field = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (status, field("code"), field("message"))
}

#[tokio::test]
async fn two_keys_may_use_one_id_and_neither_touches_the_others_request() {
    let keys = ["mine".to_owned(), "yours".to_owned()];
    let guard = Guard::new(&keys, None, None).unwrap();
    let server = Server::guarded(1 << 20, Duration::from_secs(30), Access { guard, origins: Vec::new() }).await;
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits::default());
    let send = |key: &str, text: &str| named(&server, "x", INFILL, &infill(text)).bearer_auth(key).send();
    let ask =
        |key: &str, method: Method| server.client.request(method, server.url("/v1/requests/x")).bearer_auth(key).send();
    let mine = send("mine", "Once").await.unwrap();
    gate.reached().await;
    let yours = send("yours", "Twice").await.unwrap();
    assert_eq!((mine.status().as_u16(), yours.status().as_u16()), (200, 200));
    assert_eq!(ask("mine", Method::DELETE).await.unwrap().status(), 200);
    let ended = events(&mine.text().await.unwrap());
    assert_eq!(ended.last().unwrap().json()["error"]["code"], "cancelled");
    gate.open();
    let done = events(&yours.text().await.unwrap());
    assert_eq!(done.last().unwrap().name, "done", "it was not cancelled by the other key");
    let again = events(&send("mine", "Once").await.unwrap().text().await.unwrap());
    assert_eq!(again.last().unwrap().name, "done");
    for (key, whole) in [("mine", &again), ("yours", &done)] {
        let read = ask(key, Method::GET).await.unwrap().text().await.unwrap();
        assert_eq!(&events(&read), whole, "{key} reads its own stream");
    }
}

#[tokio::test]
async fn an_id_is_in_use_once_at_a_time() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let body = json!({"prompt": "Once", "max_tokens": 2});
    let first = tokio::spawn(named(&server, "x", COMPLETIONS, &body).send());
    gate.reached().await;
    for (path, body) in [(COMPLETIONS, &body), (INFILL, &infill("a"))] {
        let (status, code, message) = refused(named(&server, "x", path, body).send().await.unwrap()).await;
        assert_eq!((status, code.as_str()), (409, "request_id_in_use"));
        assert!(message.contains("\"x\" is under way; give each request an X-Request-Id of its own"), "{message}");
    }
    let tokens = named(&server, "x", "/tokenize", &json!({"prompt": "a"})).send().await.unwrap();
    assert_eq!(tokens.status(), 200, "what runs no model has no name of this kind");
    let other = tokio::spawn(named(&server, "y", COMPLETIONS, &body).send());
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(other.await.unwrap().unwrap().status(), 200);
    for _ in 0..20 {
        let streamed = named(&server, "x", INFILL, &infill("a")).send().await.unwrap();
        assert!(streamed.text().await.unwrap().contains("event: done"), "free again with the last byte");
    }
}

#[tokio::test]
async fn a_stream_is_read_on_under_its_own_id() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let stream = named(&server, "s", INFILL, &infill("a")).send().await.unwrap();
    gate.reached().await;
    drop(stream); // it goes on for a while
    let resumed = named(&server, "s", INFILL, &infill("a")).header("last-event-id", "s:0").send().await.unwrap();
    assert_eq!(resumed.status(), 200);
    gate.open();
    assert_eq!(events(&resumed.text().await.unwrap()).last().unwrap().name, "done");
}

#[tokio::test]
async fn an_idempotent_request_is_repeated_under_its_own_id() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let keyed = || {
        let request = named(&server, "k", COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 2}));
        tokio::spawn(request.header("idempotency-key", "a").send())
    };
    let first = keyed();
    gate.reached().await;
    let second = keyed();
    let stranger = named(&server, "k", COMPLETIONS, &json!({"prompt": "Once"})).send().await.unwrap();
    assert_eq!(stranger.status(), 409, "without the key it is another request");
    gate.open();
    let [first, second] = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    assert_eq!(first.text().await.unwrap(), second.text().await.unwrap());
}
