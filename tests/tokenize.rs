//! `/tokenize` and `/detokenize`: texts and conversations to ids, and back.

mod common;

use common::server::Server;
use remask::api::BODY_MAX;
use remask::diffusion::TokenId;
use remask::engine::Limits;
use remask::model::Toy;
use remask::text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const TOKENIZER: &[u8] = include_bytes!("../models/toy/tokenizer.json");

/// A server whose tokenizer has this chat template.
async fn templated(template: &str) -> Server {
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    let config = json!({"chat_template": template}).to_string();
    let tokenizer = Tokenizer::from_texts(TOKENIZER, Some(config.as_bytes())).unwrap();
    server.load(Box::new(Toy::new()), Some(Arc::new(tokenizer)), Limits::default());
    server
}

/// The text of an answer of `/tokenize`, with the names of special tokens.
fn text(answer: &Value) -> String {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).unwrap();
    let ids = answer["tokens"].as_array().unwrap();
    assert_eq!(answer["count"], ids.len(), "{answer}");
    ids.iter().map(|id| tokenizer.piece(TokenId(u32::try_from(id.as_u64().unwrap()).unwrap()))).collect()
}

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

#[tokio::test]
async fn a_conversation_is_tokenized_as_a_chat_completion_sees_it() {
    let server = Server::toy().await;
    let hi = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi <|end|>"}]);
    let begun = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel "}]);
    let hi_text = "<system> Be brief.<|end|>\n<user> Hi <|end|><|end|>\n";
    for (fields, expected) in [
        (json!({"messages": hi}), format!("{hi_text}<assistant> ")),
        (json!({"messages": hi, "add_generation_prompt": true}), format!("{hi_text}<assistant> ")),
        (json!({"messages": hi, "add_generation_prompt": false}), hi_text.to_owned()),
        // the template trims
        (json!({"messages": begun, "continue_final_message": true}), "<user> Hi<|end|>\n<assistant> Hel".to_owned()),
        (
            json!({"messages": begun, "continue_final_message": true, "add_generation_prompt": false}),
            "<user> Hi<|end|>\n<assistant> Hel".to_owned(),
        ),
        (json!({"messages": hi, "chat_template_kwargs": {"enable_thinking": false}}), format!("{hi_text}<assistant> ")),
        (json!({"messages": hi, "chat_template_kwargs": {}, "tools": []}), format!("{hi_text}<assistant> ")),
    ] {
        let answer = server.answer("/tokenize", &fields).await;
        assert_eq!((text(&answer), &answer["token_strs"]), (expected, &Value::Null), "{fields}");
        assert_eq!(answer["max_model_len"], 1024);
        let mut chat = fields.clone();
        chat["max_tokens"] = json!(1);
        assert_eq!(server.answer(CHAT, &chat).await["usage"]["prompt_tokens"], answer["count"], "{fields}");
    }
    // the name of a special token in a message is text
    let named = server.answer("/tokenize", &json!({"messages": hi, "return_token_strs": true})).await;
    let pieces: Vec<&str> = named["token_strs"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(pieces.iter().filter(|piece| **piece == "<|end|>").count(), 2, "{pieces:?}");
    // it may be longer than a canvas
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(5000)}]});
    assert_eq!(server.answer("/tokenize", &long).await["count"], 5021);
}

#[tokio::test]
async fn a_template_gets_its_variables_and_tools_and_may_keep_spaces() {
    let server = templated(
        "{{ tools | tojson if tools }}{{ style }}{% for message in messages %}[{{ message.content }}]{% endfor %}",
    )
    .await;
    let message = |content: &str| json!([{"role": "user", "content": content}]);
    let tool = json!({"type": "function", "function": {"name": "f"}});
    for (fields, expected) in [
        (json!({"messages": message("a"), "chat_template_kwargs": {"style": "<|end|>"}}), "<|end|>[a]"),
        (json!({"messages": message("a "), "continue_final_message": true}), "[a "),
        (json!({"messages": message(""), "continue_final_message": true}), "["),
        (
            json!({"messages": message("a"), "tools": [tool]}),
            "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}][a]",
        ),
    ] {
        let answer = server.answer("/tokenize", &fields).await;
        assert_eq!(text(&answer), expected, "{fields}");
        assert!(!answer["tokens"].as_array().unwrap().contains(&json!(257)), "a variable is text: {answer}");
    }
    let hidden = templated("{{ messages[0].content }}").await;
    let two = json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
                     "continue_final_message": true});
    let error = hidden.post("/tokenize", &two).await.json::<Value>().await.unwrap()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("does not write the last message"), "{error}");
    let bomb = templated("{{ messages[0].content * 2000 }}").await;
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(1000)}]});
    let error = bomb.post("/tokenize", &body).await.json::<Value>().await.unwrap()["error"].clone();
    assert!(
        error["message"].as_str().unwrap().contains("makes 2000000 bytes of them; there is room for 524288"),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_tokenized_is_refused_by_name() {
    let server = Server::toy().await;
    let hi = json!([{"role": "user", "content": "Hi"}]);
    let untemplated = Server::loading(BODY_MAX, Duration::ZERO).await;
    untemplated.load(
        Box::new(Toy::new()),
        Some(Arc::new(Tokenizer::from_bytes(TOKENIZER).unwrap())),
        Limits::default(),
    );
    for (server, body, param, words) in [
        (&server, json!({}), "prompt", "prompt is missing; give a string, or messages"),
        (&server, json!({"prompt": "a", "messages": hi}), "prompt", "given beside messages; give one of the two"),
        (&server, json!({"messages": []}), "messages", "messages is empty"),
        (&server, json!({"messages": "Hi"}), "messages", "give an array"),
        (&server, json!({"messages": [{"role": "bot", "content": "a"}]}), "messages[0].role", "\"bot\" is no role"),
        (
            &server,
            json!({"messages": [{"role": "user", "content": "x".repeat((512 << 10) + 1)}]}),
            "messages",
            "the messages have 524289 bytes; give at most 524288",
        ),
        (
            &server,
            json!({"messages": hi, "add_generation_prompt": true, "continue_final_message": true}),
            "continue_final_message",
            "leave one of the two out",
        ),
        (
            &server,
            json!({"messages": hi, "chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs.messages",
            "give the field messages",
        ),
        (&server, json!({"messages": hi, "chat_template_kwargs": [1]}), "chat_template_kwargs", "give an object"),
        (&server, json!({"messages": hi, "chat_template": "x"}), "chat_template", "only \"\""),
        (
            &server,
            json!({"prompt": "a", "add_generation_prompt": false}),
            "add_generation_prompt",
            "goes with messages",
        ),
        (
            &server,
            json!({"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}),
            "tools",
            "goes with messages",
        ),
        (&untemplated, json!({"messages": hi}), "messages", "this model has no chat template; give a prompt"),
    ] {
        let response = server.post("/tokenize", &body).await;
        let (status, error) = (response.status(), response.json::<Value>().await.unwrap()["error"].clone());
        assert_eq!((status.as_u16(), &error["param"]), (400, &json!(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    let kwargs = json!({"messages": hi, "chat_template_kwargs": {"tools": []}});
    let error = server.post(CHAT, &kwargs).await.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!(error["param"], "chat_template_kwargs.tools", "chat completions read the same: {error}");
}
