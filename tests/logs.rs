//! The lines of the log: one for each request, with numbers as numbers and each fact once.

mod common;

use common::process::Process;
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

fn server() -> Process {
    server_with(&[])
}

fn server_with(flags: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    let command = command.args(["serve", "--port", "0", "--model-id", "toy", "--log-format", "json"]).args(flags);
    Process::of(command.env("RUST_LOG", ""))
}

/// The line of the request that ends next, as its fields and its id.
fn line(server: &Process) -> (Value, Value) {
    let line = server.until_said("request ended").pop().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "INFO", "{line}");
    (line["fields"].clone(), line["span"]["id"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_one_line_with_what_it_was_and_what_it_took() {
    let server = server();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |body: &Value| {
        let request = client.post(server.url("/v1/completions")).header("x-request-id", "mine").json(body);
        request.send().await.unwrap().text().await.unwrap()
    };
    client.get(server.url("/health")).send().await.unwrap(); // a probe has no line at level info
    client.get(server.url("/nowhere?secret=1")).send().await.unwrap();
    let (fields, _) = line(&server);
    assert_eq!(
        (&fields["method"], &fields["path"], &fields["status"]),
        (&json!("GET"), &json!("/nowhere"), &json!(404))
    );
    assert_eq!(fields["outcome"], "invalid", "in the metrics' words");
    assert!(fields.get("passes").is_none(), "{fields}");

    for stream in [false, true] {
        post(&json!({"prompt": "Once", "max_tokens": 8, "stream": stream})).await;
        let (fields, id) = line(&server);
        assert_eq!(
            (&fields["status"], &fields["outcome"], &id),
            (&json!(200), &json!("ok"), &json!("mine")),
            "{fields}"
        );
        assert_eq!((&fields["prompt_tokens"], &fields["completion_tokens"]), (&json!(4), &json!(8)), "{fields}");
        assert!(fields["passes"].as_u64() > Some(0) && fields["duration_ms"].as_f64() > Some(0.0), "{fields}");
        let keys: Vec<&String> = fields.as_object().unwrap().keys().collect();
        assert!(!keys.iter().any(|key| ["id", "endpoint", "took"].contains(&key.as_str())), "once each: {keys:?}");
    }
    post(&json!({"prompt": "Once", "max_tokens": -2})).await;
    let (fields, _) = line(&server);
    assert_eq!((&fields["status"], &fields["outcome"]), (&json!(400), &json!("invalid")));
}

/// A request whose client leaves before the answer is cancelled. With an `Idempotency-Key` it goes
/// on and has its answer, which is what the log and the metrics say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_tells_one_story_where_the_client_leaves() {
    let server = server();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |max_tokens: u32, more: Value| {
        let mut body = json!({"prompt": "Once", "max_tokens": max_tokens});
        body["diffusion"] = json!({"block_length": max_tokens, "end_of_text": "never"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (long, whole) = (ask(600, json!({})), ask(150, json!({})));
    let (streamed, many) = (ask(150, json!({"stream": true})), ask(50, json!({"n": 4})));
    let mut keys = 0..;
    let cases = [
        (&long, false, 499, "cancelled"),
        (&whole, true, 200, "ok"),
        (&streamed, true, 200, "ok"),
        (&many, true, 200, "ok"),
    ];
    for (body, is_keyed, status, outcome) in cases {
        let body = body.to_string();
        let key = if is_keyed { format!("Idempotency-Key: {}\r\n", keys.next().unwrap()) } else { String::new() };
        let length = body.len();
        let head = format!("POST /v1/completions HTTP/1.1\r\nHost: h\r\n{key}Content-Length: {length}\r\n\r\n");
        let before = admitted(&client, &server).await;
        let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        while admitted(&client, &server).await == before {}
        drop(stream);
        let (fields, _) = line(&server);
        assert_eq!((&fields["status"], &fields["outcome"]), (&json!(status), &json!(outcome)), "{fields}");
        assert_eq!(fields.get("completion_tokens").is_some(), outcome == "ok", "{fields}");
    }
    let counted = metrics(&client, &server).await;
    for (outcome, count) in [("ok", 3), ("cancelled", 1)] {
        let line = format!("remask_requests_total{{endpoint=\"/v1/completions\",outcome=\"{outcome}\"}} {count}\n");
        assert!(counted.contains(&line), "{line}{counted}");
    }
}

async fn metrics(client: &reqwest::Client, server: &Process) -> String {
    client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

/// The line of the metrics with the requests that were admitted.
async fn admitted(client: &reqwest::Client, server: &Process) -> String {
    let metrics = metrics(client, server).await;
    metrics.lines().find(|line| line.starts_with("remask_sequences_admitted_total")).unwrap().to_owned()
}

/// What fails for each choice of a request is told once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_has_one_warning_however_many_choices_it_has() {
    let server = server_with(&["--max-concurrent-requests", "1"]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    // has the only place until the end
    let first = json!({"prompt": "Once", "max_tokens": 900, "n": 8, "stream": true});
    let _first = client.post(server.url("/v1/completions")).json(&first).send().await.unwrap();
    for stream in [false, true] {
        let body =
            json!({"prompt": "Once", "max_tokens": 900, "n": 128, "stream": stream, "diffusion": {"deadline_ms": 1}});
        let text = client.post(server.url("/v1/completions")).json(&body).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("deadline_exceeded"), "{text}");
        let lines = server.until_said("request ended");
        let warnings: Vec<&String> = lines.iter().filter(|line| line.contains("\"WARN\"")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("the request failed"), "{warnings:#?}");
    }
}

#[test]
fn a_filter_that_cannot_be_read_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    let output = command.args(["serve", "--port", "0", "--model-id", "toy"]).env("RUST_LOG", "a=b=c").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && error.contains("RUST_LOG is \"a=b=c\"; give error, warn, info, debug, trace or off"),
        "{error}"
    );
}
