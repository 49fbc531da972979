//! The lines of the log: one for each request, with numbers as numbers and each fact once.

mod common;

use common::process::Process;
use serde_json::{Value, json};
use std::process::Command;

fn server() -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    Process::of(command.args(["serve", "--port", "0", "--model-id", "toy", "--log-format", "json"]).env("RUST_LOG", ""))
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
    post(&json!({"prompt": "Once", "max_tokens": -1})).await;
    let (fields, _) = line(&server);
    assert_eq!((&fields["status"], &fields["outcome"]), (&json!(400), &json!("invalid")));
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
