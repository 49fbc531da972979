//! Bodies as real clients send them: what is answered, and which field a refusal names.

mod common;

use common::server::Server;
use common::toy_tokenizer;
use remask::api::{Access, Guard};
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

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

/// As `requests`, httpx and curl do: sends all of a request before it reads the answer.
fn exchange(address: &str, head: &str, body: &[u8]) -> (u16, Value) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(socket, "{head}\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    body.chunks(1 << 16).for_each(|piece| socket.write_all(piece).expect("the server reads on"));
    let mut answer = BufReader::new(socket);
    let (mut lines, mut line) = (Vec::new(), String::new());
    while answer.read_line(&mut line).expect("an answer") > 2 {
        lines.push(std::mem::take(&mut line).to_ascii_lowercase());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or_else(|| panic!("{lines:?}"))];
    answer.read_exact(&mut body).unwrap();
    (lines[0].split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_whole_body_reaches_a_client_that_sends_it_all_first() {
    let access = Access { guard: Guard::new(&["secret".to_owned()], None, None).unwrap(), origins: Vec::new() };
    let server = Server::guarded(1 << 20, Duration::from_secs(30), access).await;
    server.load(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let key = "\r\nAuthorization: Bearer secret";
    let cases = [
        (format!("POST /v1/completions HTTP/1.1{key}"), 413, "body_too_large"),
        (format!("POST /v1/completions HTTP/1.1\r\nConnection: close{key}"), 413, "body_too_large"),
        (format!("POST /v1/completions HTTP/1.1\r\nContent-Encoding: gzip{key}"), 415, "unsupported_media_type"),
        (format!("POST /v1/completions HTTP/1.1\r\nIdempotency-Key: k{key}"), 413, "body_too_large"),
        ("POST /v1/completions HTTP/1.1".to_owned(), 401, "invalid_api_key"),
        ("POST /tokenize HTTP/1.0".to_owned(), 401, "invalid_api_key"),
        ("POST /nothing HTTP/1.1".to_owned(), 404, "unknown_url"),
        ("PUT /version HTTP/1.1".to_owned(), 405, "method_not_supported"),
    ];
    let asked = tokio::task::spawn_blocking(move || {
        let body = vec![b'5'; 8 << 20];
        for (head, status, code) in cases {
            for _ in 0..3 {
                let (got, answer) = exchange(&address, &head, &body);
                assert_eq!((got, &answer["error"]["code"]), (status, &json!(code)), "{head}: {answer}");
            }
        }
    });
    asked.await.unwrap();
}

/// A tree of JSON takes many times the memory of its text.
#[tokio::test]
async fn values_of_free_json_are_counted_before_they_are_kept() {
    let server = Server::toy().await;
    let list = |item: &str, count: usize| vec![item; count].join(",");
    let message = "\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]";
    for (path, field, body) in [
        ("/v1/chat/completions", "chat_template_kwargs", format!("{{\"a\": [{}]}}", list("{}", 40_000))),
        ("/tokenize", "tools", format!("[{{\"function\": {{\"parameters\": [{}]}}}}]", list("1", 40_000))),
        ("/v1/chat/completions", "tool_choice", format!("[{}]", list("[]", 40_000))),
        ("/v1/chat/completions", "response_format", format!("{{\"type\": [{}]}}", list("null", 40_000))),
        ("/v1/chat/completions", "metadata", format!("[{}]", list("\"\"", 40_000))),
    ] {
        let body = format!("{{{message}, \"{field}\": {body}}}");
        let response = server.client.post(server.url(path)).body(body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{field}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["param"], *field, "{error}");
        assert!(error["message"].as_str().unwrap().contains("more than 32768 values"), "{error}");
    }
    let ids = json!({"tokens": vec![1; 100_000]});
    assert_eq!(server.post("/detokenize", &ids).await.status(), 200, "ids are no free JSON");
}

/// Half-sent long bodies take the room of other long ones, and nothing from short ones.
#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_under_way_have_a_common_limit() {
    let server = Server::toy().await;
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let half = |_| {
        let mut half = TcpStream::connect(&address).unwrap();
        let head =
            "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2097152";
        half.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
        half.write_all(&[b' '; 80 << 10]).unwrap();
        half
    };
    let halves: Vec<TcpStream> = (0..64).map(half).collect();
    let long = json!({"prompt": "a", "max_tokens": 1, "user": "u".repeat(100 << 10)}).to_string();
    let send = |body: String| server.client.post(server.url("/v1/completions")).body(body).send();
    tokio::time::sleep(Duration::from_millis(500)).await; // until they are read
    let refused = tokio::spawn(send(long.clone()));
    let short = send(json!({"prompt": "a", "max_tokens": 1}).to_string()).await.unwrap();
    assert_eq!(short.status(), 200);
    let refused = refused.await.unwrap().unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().unwrap()), (503, "5"));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "bodies_full");
    drop(halves);
    assert_eq!(send(long).await.unwrap().status(), 200, "there is room again");
}
