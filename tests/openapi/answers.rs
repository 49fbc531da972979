//! Answers and errors match the document.

use super::document::{Document, Operation};
use crate::common::server::{Failing, Gated, Server};
use crate::common::{sudoku_model, sudoku_tokenizer, toy_tokenizer};
use remask::api::{Access, BODY_MAX, Guard, Service, with_presets};
use remask::engine::{Limits, start};
use remask::model::Toy;
use remask::telemetry::Metrics;
use serde_json::{Value, json};
use std::time::Duration;

/// A server of the default model.
async fn sudoku() -> Server {
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    let metrics = Metrics::new().unwrap().model("sudoku").unwrap();
    let handle = start(sudoku_model(), Some(sudoku_tokenizer()), Limits::default(), metrics).unwrap();
    let handle = with_presets(&handle).unwrap();
    server.state.loaded(vec![Service { handle, name: "sudoku".to_owned(), created: 1_700_000_000 }]).unwrap();
    server
}

#[tokio::test]
async fn its_examples_work_and_are_answered_as_it_says() {
    let server = sudoku().await;
    let document = Document::of(&server).await;
    let mut bodies = 0;
    let by_name = |operation: &Operation<'_>| operation.path == "/v1/requests/{id}";
    for operation in document.operations().into_iter().filter(|operation| !by_name(operation)) {
        for body in operation.examples() {
            let response = operation.ask(&server, &document, body).await;
            let status = response.status();
            let answer = document.check_response(&operation, response).await;
            assert_eq!(status, 200, "{} {}: {answer}", operation.path, body.unwrap_or(&Value::Null));
            bodies += usize::from(body.is_some());
        }
    }
    assert!(bodies > 12, "only {bodies} examples were found");
    // these two need a request of that id
    let (model, gate) = Gated::new();
    let gated = Server::of(model, Limits::default()).await;
    for method in ["get", "delete"] {
        let body = json!({"template": "<blank:3>", "stream": true});
        let named = gated.client.post(gated.url("/v1/infill")).header("x-request-id", "my-request").json(&body);
        let stream = named.send().await.unwrap();
        if method == "get" {
            gate.open();
            stream.text().await.unwrap();
            gate.close();
        }
        let operation = document.operation(method, "/v1/requests/{id}");
        let response = operation.ask(&gated, &document, None).await;
        assert_eq!(response.status(), 200, "{method}");
        document.check_response(&operation, response).await;
    }
    let named = gated.client.post(gated.url("/v1/score")).header("x-request-id", "my-request");
    named.json(&json!({})).send().await.unwrap(); // it is no stream
    let operation = document.operation("get", "/v1/requests/{id}");
    document.check_response(&operation, gated.get("/v1/requests/my-request").await).await;
    // forms of answers that no example asks for
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "12", "max_tokens": 3, "logprobs": 1, "echo": true})),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "1"}]}],
            "max_tokens": 3, "logprobs": true, "n": 2, "diffusion": {"return_quality": true}}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "1"}], "max_tokens": 3, "logprobs": true,
            "stream": true, "stream_options": {"include_usage": true}, "diffusion": {"stream_edits": true}}),
        ),
        (
            "/v1/completions",
            json!({"prompt": [[1, 2], [3.0]], "max_tokens": 3, "logprobs": 0, "echo": true, "stream": true}),
        ),
        ("/v1/infill", json!({"template": "1<blank:3>2", "stream": true, "diffusion": {"return_quality": true}})),
        ("/v1/repair", json!({"text": "123123123", "diffusion": {"return_quality": true}})),
        ("/tokenize", json!({"prompt": "123"})),
    ] {
        let operation = document.operation("post", path);
        let response = operation.ask(&server, &document, Some(&body)).await;
        assert_eq!(response.status(), 200, "{path} {body}");
        document.check_response(&operation, response).await;
    }
}

#[tokio::test]
async fn calls_of_tools_are_as_it_says() {
    let server = Server::toy().await;
    let document = Document::of(&server).await;
    let operation = document.operation("post", "/v1/chat/completions");
    let tool = json!({"type": "function", "function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a": {"type": "boolean"}}}}});
    for stream in [false, true] {
        let body = json!({"messages": [{"role": "user", "content": "1"}], "tools": [tool], "tool_choice": "required",
                          "stream": stream});
        let response = operation.ask(&server, &document, Some(&body)).await;
        assert_eq!(response.status(), 200);
        document.check_response(&operation, response).await;
    }
}

/// Sends the first example of each operation that documents `status`, changed by `change`, and
/// checks that the status comes and its body matches.
async fn check_refusals(server: &Server, document: &Document, status: u16, mut change: impl FnMut(&mut Value)) {
    let mut asked = 0;
    for operation in document.operations().iter().filter(|operation| operation.has_status(status)) {
        let mut body = operation.examples()[0].cloned();
        let is_file = |path: &&str| ["/docs/{file}", "/playground/{file}"].contains(path);
        let Some(path) = Some(operation.path).filter(|path| !is_file(path)) else { continue };
        if status == 400 && body.is_none() {
            continue; // of a header
        }
        body.as_mut().map(&mut change);
        let response = operation.ask(server, document, body.as_ref()).await;
        assert_eq!(response.status(), status, "{path}");
        document.check_response(operation, response).await;
        asked += 1;
    }
    assert!(asked > 0, "{status} is nowhere");
}

#[tokio::test]
async fn its_refusals_are_as_it_says() {
    let nothing = |_: &mut Value| {};
    let server = Server::toy().await;
    let document = Document::of(&server).await;
    check_refusals(&server, &document, 400, |body| *body = json!({})).await;
    let operation = document.operation("get", "/v1/requests/{id}");
    let malformed = server.client.get(server.url("/v1/requests/r")).header("last-event-id", "malformed");
    let response = malformed.send().await.unwrap();
    assert_eq!(response.status(), 400);
    document.check_response(&operation, response).await;
    check_refusals(&server, &document, 404, |body| body["model"] = json!("nobody")).await;
    for operation in document.operations().iter().filter(|operation| operation.has_status(415)) {
        let request = server.client.post(server.url(operation.path)).header("content-type", "image/png");
        let response = request.body("{}").send().await.unwrap();
        assert_eq!(response.status(), 415);
        document.check_response(operation, response).await;
    }

    let small = Server::loading(8, Duration::ZERO).await;
    check_refusals(&small, &document, 503, nothing).await;
    small.load(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    check_refusals(&small, &document, 413, nothing).await;

    let guard = Guard::new(&["key".to_owned()], None, None).unwrap();
    let guarded = Server::guarded(BODY_MAX, Duration::ZERO, Access { guard, origins: Vec::new() }).await;
    check_refusals(&guarded, &document, 401, nothing).await;

    let failing = Server::of(Box::new(Failing { toy: Toy::new(), passes: 0 }), Limits::default()).await;
    check_refusals(&failing, &document, 500, nothing).await;
}

#[tokio::test]
async fn it_says_what_a_busy_server_answers() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits { running_max: 1, queue_max: 1, ..Limits::default() }).await;
    let document = Document::of(&server).await;
    let body = json!({"prompt": "a", "max_tokens": 2, "stream": true});
    let (first, second) = (server.post("/v1/completions", &body).await, server.post("/v1/completions", &body).await);
    for operation in document.operations().iter().filter(|operation| operation.has_status(500)) {
        let response = operation.ask(&server, &document, operation.examples()[0]).await;
        assert_eq!(response.status(), 429, "{}", operation.path);
        document.check_response(operation, response).await;
    }
    gate.open();
    for stream in [first, second] {
        assert!(stream.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }

    let server = Server::of(Box::new(Toy::new()), Limits { running_max: 1, ..Limits::default() }).await;
    let long = json!({"prompt": "a", "max_tokens": 1000, "stream": true,
                      "diffusion": {"end_of_text": "never", "block_length": 1000, "remasking": "off"}});
    let long = server.post("/v1/completions", &long).await; // a thousand passes, in which no other request gets its turn
    let late = json!({"prompt": "a", "max_tokens": 2, "diffusion": {"deadline_ms": 1}});
    let late = server.post("/v1/completions", &late).await;
    assert_eq!(late.status(), 504);
    document.check_response(&document.operation("post", "/v1/completions"), late).await;
    drop(long);
}
