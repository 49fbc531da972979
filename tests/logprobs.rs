//! Logprobs: together the tokens are the text, whatever was asked for and written.

mod common;

use common::server::Server;
use remask::engine::Limits;
use remask::model::Toy;
use remask::text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn joined(tokens: &Value) -> String {
    tokens.as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect()
}

/// Checks the choices of a completion, and returns the tokens of the first.
fn check_completion(answer: &Value, body: &Value) -> Value {
    for choice in answer["choices"].as_array().unwrap() {
        let logprobs = &choice["logprobs"];
        assert_eq!(joined(&logprobs["tokens"]), choice["text"], "{body}: {choice}");
        let mut characters = 0;
        let offsets: Vec<usize> = logprobs["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| {
                let start = characters;
                characters += token.as_str().unwrap().chars().count();
                start
            })
            .collect();
        assert_eq!(logprobs["text_offset"], json!(offsets), "{body}: {choice}");
        assert_eq!(logprobs["token_logprobs"].as_array().unwrap().len(), offsets.len(), "{body}: {choice}");
    }
    answer["choices"][0]["logprobs"].clone()
}

/// Checks the choices of a chat completion, whose texts are `content` or the arguments of a call.
fn check_chat(answer: &Value, body: &Value) {
    for choice in answer["choices"].as_array().unwrap() {
        let message = &choice["message"];
        let text = message["content"].as_str().or(message["tool_calls"][0]["function"]["arguments"].as_str()).unwrap();
        let content = choice["logprobs"]["content"].as_array().unwrap();
        let tokens = content.iter().map(|token| token["token"].as_str().unwrap()).collect::<String>();
        assert_eq!(tokens, text, "{body}: {choice}");
        let bytes = content.iter().map(|token| token["bytes"].as_array()).collect::<Option<Vec<_>>>();
        let bytes = bytes.map(|all| all.into_iter().flatten().map(|byte| byte.as_u64().unwrap() as u8).collect());
        if let Some(bytes) = bytes {
            assert_eq!(String::from_utf8_lossy(&Vec::<u8>::from_iter::<Vec<u8>>(bytes)), text, "{body}: {choice}");
        }
    }
}

/// Answers of the demo model with halves of characters, and bytes that make none.
fn bytes() -> Value {
    let likely = [0xc3, 0xa9, 0xf0, 0x9f, 0xa6, 0x80, 0xff, 0x20, 0x22, 0x7d];
    let bias: serde_json::Map<String, Value> =
        likely.iter().map(|byte| (byte.to_string(), json!(if *byte < 0x80 { 4 } else { 8 }))).collect();
    json!({"logit_bias": bias, "temperature": 2.0})
}

fn formats() -> Vec<Value> {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "x-tokens": 6},
        "age": {"type": "integer", "minimum": 3, "maximum": 120},
        "score": {"type": "number"},
        "kind": {"enum": ["red", "green", "a \"quoted\" one"]},
        "code": {"type": "string", "pattern": "^[A-C]{2,4}$"},
        "list": {"type": "array", "items": {"type": "string", "x-tokens": 3}, "minItems": 1, "maxItems": 3},
        "flag": {"type": "boolean"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string", "x-tokens": 3}]},
        "set": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": true, "minItems": 1},
        "map": {"additionalProperties": {"type": "boolean"}, "propertyNames": {"type": "string", "pattern": "^[ab]$"},
                "type": "object", "minProperties": 1, "maxProperties": 3}}});
    vec![
        Value::Null,
        json!({"type": "text"}),
        json!({"type": "json_object"}),
        json!({"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}),
    ]
}

fn merged(parts: &[&Value]) -> Value {
    let mut all = json!({});
    for part in parts {
        all.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    all
}

#[tokio::test]
async fn together_the_tokens_are_the_text() {
    let server = Server::toy().await;
    let mut texts = String::new();
    let stops = [json!({}), json!({"stop": ["e", "é", "\u{fffd}\u{fffd}"]}), json!({"stop": " t"})];
    for seed in 0..2 {
        for format in formats() {
            for how in [json!({}), bytes()] {
                for stop in &stops {
                    if !format.is_null() && format["type"] != "text" && stop.get("stop").is_some() {
                        continue; // these do not go together
                    }
                    let mut body = merged(&[&json!({"max_tokens": 240, "seed": seed, "n": 2}), &how, stop]);
                    body["response_format"] = format.clone();
                    let chat =
                        merged(&[&body, &json!({"messages": [{"role": "user", "content": "é"}], "logprobs": true})]);
                    check_chat(&server.answer(CHAT, &chat).await, &chat);
                    for echo in [false, true] {
                        let body = merged(&[&body, &json!({"prompt": "Où é?", "logprobs": 1, "echo": echo})]);
                        let answer = server.answer(COMPLETIONS, &body).await;
                        check_completion(&answer, &body);
                        texts.push_str(answer["choices"][0]["text"].as_str().unwrap());
                    }
                }
            }
        }
    }
    assert!(texts.contains('é') && texts.contains('\u{fffd}'), "halves of characters were written");
}

#[tokio::test]
async fn json_has_the_tokens_that_were_fixed_and_what_the_server_added() {
    let server = Server::toy().await;
    let body = json!({"prompt": "Who?", "max_tokens": 12, "logprobs": 1, "response_format": {"type": "json_object"}});
    let answer = server.answer(COMPLETIONS, &body).await;
    let logprobs = check_completion(&answer, &body);
    assert_eq!((&logprobs["tokens"][0], &logprobs["token_logprobs"][0]), (&json!("{"), &Value::Null));
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "closed by the server: {text}");
    assert_eq!(logprobs["token_logprobs"].as_array().unwrap().last(), Some(&Value::Null), "{logprobs}");

    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "it", "schema": schema}});
    let body = json!({"prompt": "Who?", "logprobs": 1, "response_format": format});
    let logprobs = check_completion(&server.answer(COMPLETIONS, &body).await, &body);
    let fixed = "{\"a\": ".len();
    let logprob = |at: usize| logprobs["token_logprobs"][at].is_null();
    assert!((0..fixed).all(logprob) && !logprob(fixed), "{logprobs}");
    assert_eq!(logprobs["token_logprobs"].as_array().unwrap().last(), Some(&Value::Null), "the closing bracket");
}

#[tokio::test]
async fn a_call_of_a_tool_has_the_tokens_of_its_arguments() {
    let server = Server::toy().await;
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    for (tools, choice) in [
        (json!([tool("f")]), json!({"type": "function", "function": {"name": "f"}})),
        (json!([tool("f"), tool("g")]), json!("required")),
    ] {
        let messages = json!([{"role": "user", "content": "Rome"}]);
        let body = json!({"messages": messages, "tools": tools, "tool_choice": choice, "logprobs": true});
        check_chat(&server.answer(CHAT, &body).await, &body);
    }
}

#[tokio::test]
async fn an_echo_is_its_tokens_also_where_these_spell_another_text() {
    const TOY: &[u8] = include_bytes!("../models/toy/tokenizer.json");
    let server = Server::toy().await;
    // an end of text, halves of a character and a byte that makes none
    let ids = json!([72, 257, 0xc3, 0xa9, 0xc3, 105, 0xff]);
    for (prompt, suffix) in [(ids, None), (json!("é"), Some("yz")), (json!(""), Some("é")), (json!("x"), Some(""))] {
        let mut body = json!({"prompt": prompt, "max_tokens": 9, "echo": true, "logprobs": 1});
        body["suffix"] = json!(suffix);
        let logprobs = check_completion(&server.answer(COMPLETIONS, &body).await, &body);
        if suffix.is_none() {
            let tokens: Vec<&str> = vec!["H", "", "", "é", "\u{fffd}", "i", "\u{fffd}"];
            assert_eq!(&logprobs["tokens"].as_array().unwrap()[..7], &json!(tokens).as_array().unwrap()[..]);
        }
    }
    // composed accents, small letters
    let normaliser = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]});
    let mut json: Value = serde_json::from_slice(TOY).unwrap();
    json["normalizer"] = normaliser;
    let tokenizer = Arc::new(Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap());
    let server = Server::loading(1 << 20, std::time::Duration::from_secs(60)).await;
    server.load(Box::new(Toy::default()), Some(tokenizer), Limits::default());
    for prompt in ["Cafe\u{301} OK?", "E\u{301}", "no"] {
        let body = json!({"prompt": prompt, "max_tokens": 3, "echo": true, "logprobs": 1});
        let logprobs = check_completion(&server.answer(COMPLETIONS, &body).await, &body);
        let given = logprobs["token_logprobs"].as_array().unwrap().iter().take_while(|given| given.is_null()).count();
        assert_eq!(given, prompt.chars().count(), "one byte for each, and é is two: {logprobs}");
        let tokens = joined(&json!(logprobs["tokens"].as_array().unwrap()[..given]));
        assert_eq!(tokens, prompt);
    }
}

#[tokio::test]
async fn a_text_that_a_stop_string_ends_has_no_token_behind_its_end() {
    let server = Server::toy().await;
    let plain = json!({"prompt": "Once", "max_tokens": 40, "logprobs": 1});
    let text = server.answer(COMPLETIONS, &plain).await["choices"][0]["text"].as_str().unwrap().to_owned();
    let stop = &text[10..12];
    let body = merged(&[&plain, &json!({"stop": stop})]);
    let answer = server.answer(COMPLETIONS, &body).await;
    let tokens = check_completion(&answer, &body)["tokens"].as_array().unwrap().len();
    assert_eq!(tokens, answer["choices"][0]["text"].as_str().unwrap().len(), "one for each byte");
}

#[tokio::test]
async fn token_ids_are_those_of_the_text_and_of_the_prompt() {
    let server = Server::toy().await;
    let asked = json!({"max_tokens": 40, "n": 2, "return_token_ids": true, "stop": "e"});
    let prompts = json!(["Once", "On"]);
    let body = merged(&[&asked, &json!({"prompt": prompts, "logprobs": 1})]);
    let answer = server.answer(COMPLETIONS, &body).await;
    check_completion(&answer, &body);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (index, choice) in choices.iter().enumerate() {
        let prompt = [json!([79, 110, 99, 101]), json!([79, 110])][index / 2].clone();
        assert_eq!(choice["prompt_token_ids"], prompt, "{choice}");
        // the demo model has a token for each byte
        let bytes: Vec<u8> = choice["text"].as_str().unwrap().bytes().collect();
        assert_eq!(choice["token_ids"], json!(bytes), "{choice}");
    }

    let chat = merged(&[&asked, &json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true})]);
    let mut ids = vec![Value::Null; 2];
    for event in server.events(CHAT, &chat).await.iter().filter(|event| event.data != "[DONE]") {
        for choice in event.json()["choices"].as_array().unwrap() {
            assert_eq!(choice.get("token_ids").is_some(), !choice["finish_reason"].is_null(), "{choice}");
            if let Some(own) = choice.get("token_ids") {
                ids[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()] = own.clone();
            }
        }
    }
    let whole = server.answer(CHAT, &merged(&[&chat, &json!({"stream": false})])).await;
    assert_eq!(ids, [0, 1].map(|index| whole["choices"][index]["token_ids"].clone()));
    let prompt = server.answer("/tokenize", &json!({"messages": chat["messages"]})).await;
    assert_eq!(whole["choices"][0]["prompt_token_ids"], prompt["tokens"]);

    let plain = server.answer(COMPLETIONS, &json!({"prompt": "Once", "return_token_ids": false})).await;
    let choice = plain["choices"][0].as_object().unwrap();
    assert!(!choice.contains_key("token_ids") && !choice.contains_key("prompt_token_ids"));
}
