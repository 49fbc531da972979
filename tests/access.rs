//! API keys, the limits of each key, and requests from pages of other origins.

mod common;

use common::server::{Gated, Server};
use common::toy_tokenizer;
use remask::api::{Access, BODY_MAX, Guard, GuardError};
use remask::engine::Limits;
use remask::model::Toy;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const COMPLETIONS: &str = "/v1/completions";

async fn guarded(guard: Guard, origins: &[&str]) -> Server {
    let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
    let server = Server::guarded(BODY_MAX, PATIENCE, Access { guard: Some(guard), origins }).await;
    server.load(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    server
}

fn keys(keys: &[&str]) -> Guard {
    let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    Guard::new(&keys, None, None).unwrap().unwrap()
}

async fn status(server: &Server, path: &str, header: Option<(&str, &str)>) -> u16 {
    let mut request = server.client.get(server.url(path));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn only_a_key_of_the_servers_own_opens_it() {
    let server = guarded(keys(&["first", "second", "two words"]), &[]).await;
    for (header, expected) in [
        (None, 401),
        (Some(("authorization", "Bearer first")), 200),
        (Some(("authorization", "bearer  second")), 200),
        (Some(("x-api-key", "second")), 200),
        (Some(("authorization", "Bearer two words")), 200),
        (Some(("x-api-key", "two words")), 200),
        (Some(("x-api-key", "two")), 401),
        (Some(("authorization", "Bearer third")), 401),
        (Some(("authorization", "Bearer firs")), 401),
        (Some(("authorization", "Bearer firstfirst")), 401),
        (Some(("authorization", "Bearer ")), 401),
        (Some(("authorization", "Basic first")), 401),
        (Some(("x-api-key", "")), 401),
    ] {
        assert_eq!(status(&server, "/v1/models", header).await, expected, "{header:?}");
    }
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(status(&server, path, None).await, 200, "{path}: probes have no key");
    }
    assert_eq!(status(&server, "/v1/nothing", None).await, 401, "nor do strangers learn what there is");
    let refused = server.post(COMPLETIONS, &json!({"prompt": "a"})).await;
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "invalid_api_key");
    assert!(error["error"]["message"].as_str().unwrap().contains("Authorization: Bearer KEY"), "{error}");
    assert_eq!(server.post("/tokenize", &json!({"prompt": "a"})).await.status(), 401);
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    fs::write(&file, "# ours\nold\n\n").unwrap();
    let server = guarded(Guard::new(&[], Some(&file), None).unwrap().unwrap(), &[]).await;
    assert_eq!(status(&server, "/v1/models", Some(("x-api-key", "old"))).await, 200);
    assert_eq!(status(&server, "/v1/models", Some(("x-api-key", "# ours"))).await, 401);
    fs::write(&file, "newer\n").unwrap();
    let mut looks = 0;
    while status(&server, "/v1/models", Some(("x-api-key", "newer"))).await != 200 {
        looks += 1;
        assert!(looks < 200, "the new key is not known");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(&server, "/v1/models", Some(("x-api-key", "old"))).await, 401);
    fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(status(&server, "/v1/models", Some(("x-api-key", "newer"))).await, 200, "what was in force stays");
}

#[tokio::test]
async fn a_file_of_keys_from_windows_has_the_keys_that_one_sees() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    for (text, keys) in [
        ("\u{feff}first\nsecond\n", ["first", "second"]),
        ("\u{feff}# ours\r\nfirst\r\n\r\nsecond\r\n", ["first", "second"]),
        ("first\r\n  second", ["first", "second"]),
    ] {
        fs::write(&file, text).unwrap();
        let server = guarded(Guard::new(&[], Some(&file), None).unwrap().unwrap(), &[]).await;
        for key in keys {
            assert_eq!(status(&server, "/v1/models", Some(("x-api-key", key))).await, 200, "{key} of {text:?}");
        }
        assert_eq!(status(&server, "/v1/models", Some(("x-api-key", "third"))).await, 401, "{text:?}");
    }
}

#[test]
fn a_guard_without_a_key_is_no_guard() {
    assert!(Guard::new(&[], None, Some(3)).unwrap().is_none());
    assert!(matches!(Guard::new(&["a".to_owned(), " ".to_owned()], None, None), Err(GuardError::EmptyKey)));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    // nobody could send these
    for key in ["naïve", "a\nb", "a\tb"] {
        let error = Guard::new(&["a".to_owned(), key.to_owned()], None, None).unwrap_err().to_string();
        assert!(error.starts_with("the API key number 2 of --api-key has '") && !error.contains(key), "{error}");
        assert!(error.contains("give visible ASCII characters and spaces"), "{error}");
    }
    fs::write(&file, "# ours\ngood\nschlüssel\n").unwrap();
    let error = Guard::new(&[], Some(&file), None).unwrap_err().to_string();
    assert!(error.contains("the API key in line 3 has 'ü'"), "{error}");
    fs::remove_file(&file).unwrap();
    let error = Guard::new(&[], Some(&file), None).unwrap_err().to_string();
    assert!(error.contains("cannot read the keys in") && error.contains("keys: "), "{error}");
    fs::write(&file, "# nobody\n").unwrap();
    assert!(matches!(Guard::new(&[], Some(&file), None), Err(GuardError::NoKeys { .. })));
}

#[tokio::test]
async fn a_key_has_no_more_under_way_than_it_may() {
    let guard = Guard::new(&["busy".to_owned(), "other".to_owned()], None, Some(1)).unwrap().unwrap();
    let server = Server::guarded(BODY_MAX, PATIENCE, Access { guard: Some(guard), origins: Vec::new() }).await;
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits::default());
    let ask = |key: &str| {
        let body = json!({"prompt": "a", "max_tokens": 2, "stream": true});
        server.client.post(server.url(COMPLETIONS)).header("x-api-key", key).json(&body).send()
    };
    let first = ask("busy").await.unwrap();
    assert_eq!(first.status(), 200);
    let second = ask("busy").await.unwrap();
    assert_eq!((second.status().as_u16(), second.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(second.json::<Value>().await.unwrap()["error"]["code"], "key_limit");
    let other = ask("other").await.unwrap();
    assert_eq!(other.status(), 200, "another key's places are its own");
    gate.open();
    assert!(first.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    assert!(other.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(ask("busy").await.unwrap().status(), 200, "the place came back with the last byte");
}

/// What is asked of a path does not depend on a slash more.
#[tokio::test]
async fn a_slash_more_opens_no_path_without_a_key() {
    let guard = Guard::new(&["key".to_owned()], None, None).unwrap().unwrap();
    let server = Server::guarded(BODY_MAX, PATIENCE, Access { guard: Some(guard), origins: Vec::new() }).await;
    server.load(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    let body = json!({"prompt": "a", "max_tokens": 2});
    for path in ["/v1/completions/", "//v1/completions", "/v1/completions//", "/tokenize/", "//tokenize//"] {
        assert_eq!(server.post(path, &body).await.status(), 401, "{path}");
        let request = server.client.post(server.url(path)).header("x-api-key", "key").json(&body);
        assert_ne!(request.send().await.unwrap().status(), 401, "{path}");
    }
}

/// Limits of 16 places, of which a key that is not the only one may hold 12.
async fn crowded(keys: &[&str]) -> (Server, std::sync::Arc<common::server::Gate>) {
    let server =
        Server::guarded(BODY_MAX, PATIENCE, Access { guard: Some(self::keys(keys)), origins: Vec::new() }).await;
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits { running_max: 4, queue_max: 12, ..Limits::default() });
    (server, gate)
}

async fn stream(server: &Server, key: &str, n: u32) -> reqwest::Response {
    let body = json!({"prompt": "a", "max_tokens": 2, "stream": true, "n": n});
    server.client.post(server.url(COMPLETIONS)).header("x-api-key", key).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn a_key_that_floods_the_queue_leaves_room_for_others() {
    let (server, gate) = crowded(&["flood", "other"]).await;
    let first = stream(&server, "flood", 12).await;
    assert_eq!(first.status(), 200);
    let more = stream(&server, "flood", 1).await;
    assert_eq!((more.status().as_u16(), more.headers().contains_key("retry-after")), (429, true));
    let error: Value = more.json().await.unwrap();
    assert_eq!(error["error"]["code"], "queue_full");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("this API key holds 12 of the 12 places"), "{message}");
    assert!(message.contains("that are its share") && message.contains("1 more does not fit"), "{message}");
    let others = [stream(&server, "other", 1).await, stream(&server, "other", 2).await];
    gate.open();
    for response in others.into_iter().chain([first]) {
        assert_eq!(response.status(), 200);
        assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn the_only_key_may_hold_every_place() {
    let (server, gate) = crowded(&["only"]).await;
    let first = stream(&server, "only", 16).await;
    assert_eq!(first.status(), 200);
    let error: Value = stream(&server, "only", 8).await.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("16 of 16 places for running and waiting requests are taken, 8 more"), "{message}");
    gate.open();
    assert!(first.text().await.unwrap().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn pages_of_the_origins_named_may_send_a_key() {
    let server = guarded(keys(&["first"]), &["https://example.org"]).await;
    let preflight = async |origin: &str| {
        let request = server.client.request(Method::OPTIONS, server.url(COMPLETIONS)).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let request = request.header("access-control-request-headers", "authorization,content-type,x-stainless-lang");
        request.send().await.unwrap()
    };
    let allowed = preflight("https://example.org").await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://example.org");
    assert_eq!(allowed.headers()["access-control-allow-headers"], "authorization,content-type,x-stainless-lang");
    assert!(!preflight("https://example.com").await.headers().contains_key("access-control-allow-origin"));
    let request = server.client.get(server.url("/v1/models")).header("origin", "https://example.org");
    let answer = request.header("authorization", "Bearer first").send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://example.org");
    assert!(answer.headers()["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
}
