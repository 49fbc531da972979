//! Bodies as real clients send them: what is answered, and which field a refusal names.

mod common;

use common::server::Server;
use serde_json::{Value, json};

/// Each line of `tests/data/bodies.jsonl` is a client, what it sends (as JSON, or as a text that no
/// JSON library would write), the status, and the field that a refusal names.
#[tokio::test]
async fn what_clients_send_is_answered_or_refused_by_name() {
    let rows: Vec<Value> =
        include_str!("data/bodies.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let server = Server::toy().await;
    for row in rows {
        let body = row["raw"].as_str().map_or_else(|| row["body"].to_string(), str::to_owned);
        let path = row["path"].as_str().unwrap();
        let response = server.client.post(server.url(path)).body(body).send().await.unwrap();
        assert_eq!(row["status"], response.status().as_u16(), "{row}: {}", response.text().await.unwrap());
        if row["status"] != 200 {
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["error"]["param"], row["param"], "{row}: {error}");
            let message = error["error"]["message"].as_str().unwrap();
            let field = row["param"].as_str().unwrap().rsplit('.').next().unwrap();
            assert!(message.contains(field), "{row}: {message}");
        } else if row["body"]["stream"] == json!(true) {
            let text = response.text().await.unwrap();
            assert!(text.ends_with("data: [DONE]\n\n") && !text.contains("\"error\""), "{row}: {text}");
        } else if path == "/tokenize" {
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["count"].as_u64(), Some(answer["tokens"].as_array().unwrap().len() as u64), "{row}");
        } else {
            let answer: Value = response.json().await.unwrap();
            assert!(answer["choices"][0]["finish_reason"].is_string(), "{row}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_body_is_skipped() {
    let server = Server::toy().await;
    for (path, body, status) in [
        ("/v1/completions", "\u{feff}{\"prompt\": \"a\", \"max_tokens\": 2}", 200),
        ("/v1/chat/completions", "\u{feff}\r\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", 200),
        ("/v1/infill", "\u{feff}{\"template\": \"a<blank>\"}", 200),
        ("/tokenize", "\u{feff}{\"prompt\": \"a\"}", 200),
        ("/v1/completions", "\u{feff}", 400),
        ("/v1/completions", "\u{feff}[]", 400),
        ("/v1/completions", "\u{feff}\u{feff}{\"prompt\": \"a\"}", 400),
    ] {
        let response = server.client.post(server.url(path)).body(body).send().await.unwrap();
        assert_eq!(response.status(), status, "{path} {body:?}");
    }
}
