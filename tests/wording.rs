//! The exact messages of refused requests: each line of `tests/data/refusals.jsonl` has a request
//! and its error. `REMASK_WRITE_CASES=1` writes the present messages to the file; review the diff.
//! `tests/grpc` checks that gRPC has the same messages.

mod common;

use common::{data, server::Server};
use serde_json::{Value, json};

#[tokio::test]
async fn every_refusal_is_word_for_word() {
    let (server, file) = (Server::toy().await, data("refusals.jsonl"));
    let text = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= 120, "{}", rows.len());
    let mut written = String::new();
    for row in &rows {
        let (path, body) = (row["path"].as_str().unwrap(), row["body"].as_str().unwrap());
        let request = server.client.post(server.url(path)).header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.unwrap();
        let status = response.status().as_u16();
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        let told = json!({"path": path, "body": body, "status": status, "type": error["type"], "param": error["param"],
                          "code": error["code"], "message": error["message"]});
        written.push_str(&format!("{told}\n"));
        if std::env::var_os("REMASK_WRITE_CASES").is_none() {
            assert_eq!(told, *row, "{path} {body}");
        }
        assert_eq!(
            (status, told["message"].as_str().is_some_and(|message| !message.is_empty())),
            (400, true),
            "{told}"
        );
    }
    if std::env::var_os("REMASK_WRITE_CASES").is_some() {
        std::fs::write(file, written).unwrap();
    }
}
