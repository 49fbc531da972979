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

/// JSON of a text that was cut in the middle of an emoji.
#[tokio::test]
async fn half_of_a_character_is_told_as_what_it_is() {
    let server = Server::toy().await;
    for (body, param) in [
        (r#"{"prompt": "a", "stop": "\ud83d"}"#, "stop"),
        (r#"{"prompt": "a\ud83d b"}"#, "prompt"),
        (r#"{"prompt": "\ude00"}"#, "prompt"),
    ] {
        let response = server.client.post(server.url("/v1/completions")).body(body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{body}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("is half of a character, so give both halves"), "{body}: {message}");
    }
    let response = server.client.post(server.url("/tokenize")).body(r#"{"prompt": "\ud83d\ude00"}"#);
    assert_eq!(response.send().await.unwrap().status(), 200);
}

/// What has several forms names the part that has none of them.
#[tokio::test]
async fn an_error_of_a_list_says_what_was_given_and_where() {
    let server = Server::toy().await;
    let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let picture = json!({"type": "image_url", "image_url": {"url": "data:"}});
    let format = |schema: Value| json!({"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
    for (path, body, words) in [
        ("/v1/completions", json!({"prompt": "a", "stop": [null]}), "stop: given null at [0]; give a string"),
        ("/v1/completions", json!({"prompt": "a", "stop": ["b", 3]}), "stop: given 3 at [1]; give a string"),
        ("/v1/completions", json!({"prompt": ["a", 1]}), "prompt: given 1 at [1]; give a string"),
        ("/v1/completions", json!({"prompt": [[1], [2, -1]]}), "prompt: given -1 at [1][1]; give a string"),
        ("/v1/repair", json!({"text": [1, "a"]}), "text: given \"a\" at [1]; give a string or an array"),
        (
            "/v1/chat/completions",
            message(json!([{"type": "text", "text": "a"}, picture])),
            "messages[0].content: given {\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}} at [1]; give a text",
        ),
        ("/v1/chat/completions", message(json!({"a": 1})), "messages[0].content: given {\"a\":1}; give a text"),
        ("/v1/completions", format(json!(false)), "schema: given false; no value is allowed here"),
        ("/v1/completions", format(json!("x")), "schema: given \"x\"; give a schema, as"),
        (
            "/v1/completions",
            json!({"prompt": "a", "response_format": "json"}),
            "response_format: given \"json\"; give an object",
        ),
    ] {
        let error: Value = server.post(path, &body).await.json().await.unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{body}: {error} lacks {words}");
    }
}
