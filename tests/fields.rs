//! Errors name the field that the caller sent, not the one that the engine has for it.

mod common;

use common::server::Server;
use serde_json::{Value, json};

#[tokio::test]
async fn an_error_of_a_completion_with_a_suffix_names_a_field_of_it() {
    let server = Server::toy().await;
    for (prompt, suffix, max_tokens, param) in [
        ("a", "b".repeat(1022), 2, "max_tokens"),
        ("a", "b".repeat(1023), 1, "suffix"),
        ("a", "b".repeat(9000), 1, "suffix"),
        ("", "b".repeat(1024), 1, "suffix"),
        (&*"a".repeat(1024), "b".to_owned(), 1, "prompt"),
        (&*"a".repeat(9000), "b".to_owned(), 1, "prompt"),
        ("", String::new(), 1025, "max_tokens"),
    ] {
        let body = json!({"prompt": prompt, "suffix": suffix, "max_tokens": max_tokens});
        let response = server.post("/v1/completions", &body).await;
        assert_eq!(response.status(), 400, "{param}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            (&error["error"]["param"], &error["error"]["code"]),
            (&json!(param), &json!("context_length_exceeded"))
        );
        assert!(error["error"]["message"].as_str().unwrap().contains(param), "{error}");
    }
    let body = json!({"prompt": "a", "suffix": "b".repeat(1022), "max_tokens": 1});
    assert_eq!(server.answer("/v1/completions", &body).await["usage"]["prompt_tokens"], 1023);
}

#[tokio::test]
async fn an_error_of_a_chat_names_what_was_sent() {
    let server = Server::toy().await;
    for (body, param, words) in [
        (
            json!({"messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 1000}),
            "max_completion_tokens",
            "max_completion_tokens 1000 does not fit",
        ),
        (
            json!({"messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 1, "response_format": {"type": "json_object"}}),
            "response_format",
            "ask for more max_completion_tokens",
        ),
        (json!({"messages": [{"role": "bot", "content": "x"}]}), "messages[0].role", "\"bot\" is no role; give one of"),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "function", "content": "x", "name": "f"}]}),
            "messages[1].role",
            "system, developer, user, assistant, tool",
        ),
        (json!({"messages": [{"role": "", "content": "x"}]}), "messages[0].role", "is no role"),
    ] {
        let response = server.post("/v1/chat/completions", &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{body}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{body}: {error}");
    }
}
