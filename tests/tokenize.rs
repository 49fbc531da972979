//! `/tokenize` and `/detokenize`: texts and conversations to ids, and back.

mod common;

use common::server::Server;
use serde_json::{Value, json};

#[tokio::test]
async fn a_text_to_tokenize_may_be_long_and_is_refused_by_its_length() {
    let server = Server::sudoku().await;
    let most = 512 << 10;
    let response = server.post("/tokenize", &json!({"prompt": "x".repeat(most + 1)})).await;
    let (status, error) = (response.status(), response.json::<Value>().await.unwrap()["error"].clone());
    assert_eq!((status.as_u16(), &error["param"]), (400, &json!("prompt")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("has 524289 bytes; give at most 524288"), "{error}");
    // without a token: refused after one look at each different character
    let response = server.post("/tokenize", &json!({"prompt": "1x".repeat(50_000)})).await;
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("nothing for 'x'"), "{error}");
    let answer = server.answer("/tokenize", &json!({"prompt": "12".repeat(50_000)})).await;
    assert_eq!(answer["count"], 100_000);
}

#[tokio::test]
async fn an_id_that_is_no_token_is_refused_wherever_it_stands() {
    let server = Server::toy().await;
    let message = json!([{"role": "user", "content": "a"}]);
    for (path, body, param, words) in [
        (
            "/detokenize",
            json!({"tokens": [104, 9999, 105]}),
            "tokens",
            "token 1 of the tokens is 9999; ids are below 258",
        ),
        ("/detokenize", json!({"tokens": [4_294_967_295_u32, 1]}), "tokens", "token 0 of the tokens is 4294967295"),
        ("/detokenize", json!({"tokens": [258]}), "tokens", "ids are below 258"),
        (
            "/v1/completions",
            json!({"prompt": [104, 9999]}),
            "prompt",
            "token 1 of the prompt is 9999; ids are below 258",
        ),
        ("/v1/completions", json!({"prompt": [9999], "echo": true}), "prompt", "is 9999; ids are below 258"),
        ("/v1/completions", json!({"prompt": [[1], [9999]]}), "prompt", "is 9999; ids are below 258"),
        (
            "/v1/completions",
            json!({"prompt": "a", "logit_bias": {"9999": 1}}),
            "logit_bias",
            "is 9999; ids are below 258",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "stop_token_ids": [9999]}),
            "stop_token_ids",
            "is 9999; ids are below 258",
        ),
        ("/v1/chat/completions", json!({"messages": message, "logit_bias": {"9999": 1}}), "logit_bias", "is 9999"),
        ("/v1/chat/completions", json!({"messages": message, "stop_token_ids": [9999]}), "stop_token_ids", "is 9999"),
        ("/v1/score", json!({"text": [104, 9999]}), "text", "token 1 of the text is 9999; ids are below 258"),
        ("/v1/repair", json!({"text": [104, 9999]}), "text", "token 1 of the text is 9999; ids are below 258"),
    ] {
        let response = server.post(path, &body).await;
        let (status, error) = (response.status(), response.json::<Value>().await.unwrap()["error"].clone());
        assert_eq!((status.as_u16(), &error["param"]), (400, &json!(param)), "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{body}: {error}");
    }
    let answer = server.answer("/detokenize", &json!({"tokens": [104, 105]})).await;
    assert_eq!(answer, json!({"prompt": "hi"}));
    assert_eq!(server.answer("/detokenize", &json!({"tokens": [104, 257]})).await, json!({"prompt": "h"}));
}
