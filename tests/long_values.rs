//! An error repeats the beginning of a value, never a value of a megabyte. The fields are those of
//! the OpenAPI document, so that a new one is tried as well.

mod common;

use common::server::Server;
use futures_util::{StreamExt, stream};
use remask::engine::Limits;
use remask::model::Toy;
use reqwest::Response;
use serde_json::{Map, Value, json};

/// Bytes of the error object at most.
const ERROR_MAX: usize = 1024;
/// Levels of a body that are looked into.
const DEPTH_MAX: usize = 5;

fn long() -> String {
    "x".repeat(1 << 20)
}

/// Checks an error; true if it is one.
async fn is_refused(what: &str, response: Response) -> bool {
    if response.status().is_success() {
        return false;
    }
    let body = response.text().await.unwrap();
    let beginning: String = body.chars().take(ERROR_MAX).collect();
    assert!(body.len() < ERROR_MAX, "{what}: the error has {} bytes: {beginning}", body.len());
    let error: Value = serde_json::from_str(&body).unwrap();
    assert!(error["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{what}: {error}");
    true
}

/// The schemas that a schema is made of, references followed.
fn parts<'a>(document: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let reference = schema["$ref"].as_str().and_then(|reference| document.pointer(reference.trim_start_matches('#')));
    let all = ["anyOf", "oneOf", "allOf"].iter().filter_map(|word| schema[*word].as_array()).flatten();
    let inner = reference.into_iter().chain(all).flat_map(|part| parts(document, part));
    [schema].into_iter().chain(inner).collect()
}

/// The paths of all fields below a schema, as JSON pointers, and of one unknown field in each
/// object.
fn paths(document: &Value, schema: &Value, at: &str, depth: usize, found: &mut Vec<String>) {
    if depth == DEPTH_MAX {
        return;
    }
    for part in parts(document, schema) {
        if let Some(properties) = part["properties"].as_object() {
            found.push(format!("{at}/{}", long()));
            for (name, schema) in properties {
                found.push(format!("{at}/{name}"));
                paths(document, schema, &format!("{at}/{name}"), depth + 1, found);
            }
        }
        if part["items"].is_object() {
            found.push(format!("{at}/0"));
            paths(document, &part["items"], &format!("{at}/0"), depth + 1, found);
        }
    }
    found.sort();
    found.dedup();
}

/// Sets the value at a path; what is no object or array on the way becomes one.
fn set(body: &mut Value, path: &[&str], value: Value) {
    match path.split_first() {
        None => *body = value,
        Some((&"0", rest)) => {
            if !body.is_array() {
                *body = json!([null]);
            }
            set(&mut body[0], rest, value);
        }
        Some((name, rest)) => {
            if !body.is_object() {
                *body = json!({});
            }
            let object: &mut Map<String, Value> = body.as_object_mut().unwrap();
            set(object.entry(*name).or_insert(Value::Null), rest, value);
        }
    }
}

#[tokio::test]
async fn an_error_repeats_the_beginning_of_a_long_value() {
    let server = Server::toy().await;
    let document: Value = server.get("/openapi.json").await.json().await.unwrap();
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let message = json!({"role": "user", "content": "a", "tool_calls": [call]});
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let mut cases = Vec::new();
    for (path, base) in [
        ("/v1/completions", json!({"prompt": "a", "max_tokens": 1})),
        ("/v1/chat/completions", json!({"messages": [message], "tools": [tool], "max_tokens": 1})),
        ("/v1/infill", json!({"template": "<blank>"})),
        ("/v1/score", json!({"text": "a"})),
        ("/v1/repair", json!({"text": "a"})),
        ("/tokenize", json!({"prompt": "a"})),
        ("/detokenize", json!({"tokens": [97]})),
    ] {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let mut found = Vec::new();
        paths(&document, schema, "", 0, &mut found);
        assert!(found.len() > 3, "{path} has the fields {found:.100?}");
        for pointer in found {
            let mut body = base.clone();
            set(&mut body, &pointer.split('/').skip(1).collect::<Vec<_>>(), json!(long()));
            let pointer: String = pointer.chars().take(60).collect();
            cases.push((format!("{path} {pointer}"), path, body));
        }
    }
    let format = |format: Value| json!({"prompt": "a", "max_tokens": 9, "response_format": format});
    let schema = |schema: Value| format(json!({"type": "json_schema", "json_schema": {"schema": schema}}));
    let medium = "y".repeat(100_000); // a format may have so many bytes
    for body in [
        json!({"prompt": "a", "logit_bias": {(long()): 1}}),
        json!({"prompt": "a", "stop": ["b", long()]}),
        format(json!({"type": &medium})),
        format(json!({"type": "json_object", (medium.as_str()): 1})),
        format(json!({"type": "json_skeleton", "skeleton": {"a": format!("<{medium}>")}})),
        format(json!({"type": "json_skeleton", "skeleton": {"a": format!("<string:{medium}>")}})),
        schema(json!({"type": &medium})),
        schema(json!({(medium.as_str()): 1})),
        schema(json!({"type": "object", "properties": {(medium.as_str()): 1}})),
        schema(json!({"type": "object", "properties": {"a": {"type": "null"}}, "required": [&medium]})),
        schema(json!({"$ref": &medium})),
        schema(json!({"type": "string", "pattern": format!("({medium}")})),
        schema(json!({"type": "string", "format": &medium})),
    ] {
        let what: String = body.to_string().chars().take(120).collect();
        cases.push((what, "/v1/completions", body));
    }
    let choice = json!({"type": "function", "function": {"name": long()}});
    let many: Vec<Value> = (0..128)
        .map(|at| json!({"type": "function", "function": {"name": format!("{}{at:03}", "z".repeat(61))}}))
        .collect();
    let messages = json!([{"role": "user", "content": "a"}]);
    let body = json!({"messages": messages, "tools": many, "tool_choice": choice});
    cases.push(("tool_choice".to_owned(), "/v1/chat/completions", body));

    let all = cases.len();
    let send = |(what, path, body): (String, &'static str, Value)| {
        let server = &server;
        async move { is_refused(&what, server.post(path, &body).await).await }
    };
    let refused = stream::iter(cases).map(send).buffer_unordered(2).filter(|refused| std::future::ready(*refused));
    let refused = refused.count().await;
    assert!(refused > all / 2, "{refused} of {all} were refused");
}

#[tokio::test]
async fn an_error_repeats_the_beginning_of_a_long_header_or_path() {
    let server = Server::of(Box::new(Toy::new()), Limits::default()).await;
    let long = "x".repeat(20_000);
    let post = |path: &str| server.client.post(server.url(path)).body("{\"prompt\": \"a\"}");
    for (what, request) in [
        ("type", post("/v1/completions").header("content-type", &long)),
        ("encoding", post("/v1/completions").header("content-encoding", &long)),
        ("last id", post("/v1/infill").header("last-event-id", &long)),
        ("path", post(&format!("/v1/{long}"))),
        ("method", server.client.put(server.url(&format!("/v1/models/{long}")))),
        ("model", server.client.get(server.url(&format!("/v1/models/{long}")))),
        ("stream", server.client.get(server.url(&format!("/v1/requests/{long}/events")))),
        ("cancel", server.client.delete(server.url(&format!("/v1/requests/{long}")))),
    ] {
        assert!(is_refused(what, request.send().await.unwrap()).await, "{what}");
    }
}

#[tokio::test]
async fn a_template_that_repeats_a_message_repeats_its_beginning() {
    let server = Server::loading(remask::api::BODY_MAX, std::time::Duration::from_secs(1)).await;
    let config = json!({"chat_template": "{{ raise_exception('not this: ' + messages[0].content) }}"}).to_string();
    let json = include_bytes!("../models/toy/tokenizer.json");
    let tokenizer = remask::text::Tokenizer::from_texts(json, Some(config.as_bytes())).unwrap();
    server.load(Box::new(Toy::new()), Some(tokenizer.into()), Limits::default());
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(1024)}]});
    let response = server.post("/v1/chat/completions", &body).await;
    assert!(is_refused("template", response).await);
}
