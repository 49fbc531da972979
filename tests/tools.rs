//! Tools: calls that must be made, whole and streamed, and what the model's template is shown.

mod common;

use common::server::Server;
use remask::api::BODY_MAX;
use remask::engine::Limits;
use remask::model::Toy;
use remask::text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

fn tool(name: &str, properties: &Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}})
}

fn user() -> Value {
    tool("User", &json!({"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 0}}))
}

fn ask(tools: &[Value], choice: &Value) -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "tool_choice": choice, "seed": 4})
}

fn named(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

/// The arguments of a user, which must keep the schema.
#[track_caller]
fn check_user(arguments: &Value) {
    let user: Value = serde_json::from_str(arguments.as_str().unwrap()).unwrap();
    let keys: Vec<&String> = user.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["name", "age"], "{user}");
    assert!(user["name"].is_string() && user["age"].as_i64().is_some_and(|age| age >= 0), "{user}");
}

#[tokio::test]
async fn a_function_that_must_be_called_is_called_with_its_arguments() {
    let server = Server::toy().await;
    for (tools, choice, finish) in [
        (vec![user()], named("User"), "stop"),
        (vec![tool("Pet", &json!({"kind": {"enum": ["cat", "dog"]}})), user()], named("User"), "stop"),
        (vec![user()], json!("required"), "tool_calls"),
    ] {
        let answer = server.answer(CHAT, &ask(&tools, &choice)).await;
        let (message, choice) = (&answer["choices"][0]["message"], &answer["choices"][0]);
        assert_eq!((&message["content"], &message["role"]), (&Value::Null, &json!("assistant")), "{answer}");
        assert_eq!(choice["finish_reason"], finish);
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(
            (calls.len(), &calls[0]["type"], &calls[0]["function"]["name"]),
            (1, &json!("function"), &json!("User"))
        );
        assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
        check_user(&calls[0]["function"]["arguments"]);
    }
    let empty = json!({"type": "object", "properties": {}, "additionalProperties": false});
    for parameters in [Value::Null, json!({}), json!({"type": "object"}), empty] {
        let now = json!({"type": "function", "function": {"name": "now", "parameters": parameters}});
        let answer = server.answer(CHAT, &ask(&[now], &named("now"))).await;
        let function = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(function, &json!({"name": "now", "arguments": "{}"}), "{parameters}");
    }
}

#[tokio::test]
async fn arguments_may_be_constant_free_or_a_union() {
    let server = Server::toy().await;
    let with = |parameters: Value| json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
    let constant = with(json!({"type": "object", "properties": {"a": {"const": "x"}, "b": {"enum": [2]}}}));
    for stream in [false, true] {
        let mut body = ask(std::slice::from_ref(&constant), &named("f"));
        body["stream"] = json!(stream);
        let text = server.post(CHAT, &body).await.text().await.unwrap();
        assert!(text.contains(r#"{\"a\": \"x\", \"b\": 2}"#), "{text}");
        assert!(text.contains(r#""forward_passes":0"#), "{text}");
    }
    let free = with(json!({"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1}));
    let (cat, dog) = (
        json!({"properties": {"kind": {"const": "cat"}, "age": {"type": "integer"}}, "type": "object"}),
        json!({"properties": {"kind": {"const": "dog"}, "good": {"type": "boolean"}}, "type": "object"}),
    );
    let union = with(json!({"oneOf": [cat, dog], "type": "object"}));
    for tool in [free, union] {
        let answer = server.answer(CHAT, &ask(std::slice::from_ref(&tool), &json!("required"))).await;
        let arguments = &answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
        let arguments: Value = serde_json::from_str(arguments.as_str().unwrap()).unwrap();
        assert!(!arguments.as_object().unwrap().is_empty(), "{arguments}");
        if tool["function"]["parameters"]["oneOf"].is_array() {
            let is_cat = arguments["kind"] == "cat" && arguments["age"].is_i64();
            assert!(is_cat || arguments["kind"] == "dog" && arguments["good"].is_boolean(), "{arguments}");
        } else {
            assert!(arguments.as_object().unwrap().values().all(Value::is_boolean), "{arguments}");
        }
    }
}

#[tokio::test]
async fn of_several_tools_the_model_calls_one() {
    let server = Server::toy().await;
    let tools = [user(), tool("Pet", &json!({"kind": {"enum": ["cat", "dog"]}}))];
    let mut body = ask(&tools, &json!("required"));
    body["n"] = json!(6);
    body["temperature"] = json!(2);
    let answer = server.answer(CHAT, &body).await;
    let choices = answer["choices"].as_array().unwrap();
    let mut ids = Vec::new();
    for choice in choices {
        let call = &choice["message"]["tool_calls"][0];
        ids.push(&call["id"]);
        match call["function"]["name"].as_str().unwrap() {
            "User" => check_user(&call["function"]["arguments"]),
            "Pet" => {
                let pet: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                assert!(pet == json!({"kind": "cat"}) || pet == json!({"kind": "dog"}), "{pet}");
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(choices.len(), 6);
    assert!(ids.iter().enumerate().all(|(index, id)| !ids[..index].contains(id)), "{ids:?}");
    assert_eq!(server.answer(CHAT, &body).await["choices"].as_array().unwrap().len(), 6);
    // a bias decides: the names differ in their first letter
    for (letter, name) in [("85", "User"), ("80", "Pet")] {
        let mut body = ask(&tools, &json!("required"));
        body["logit_bias"] = json!({letter: 100});
        let answer = server.answer(CHAT, &body).await;
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], name);
    }
    let only = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("Pet")]}});
    let answer = server.answer(CHAT, &ask(&tools, &only)).await;
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "Pet");
}

#[tokio::test]
async fn the_deltas_of_a_call_are_its_arguments() {
    let server = Server::toy().await;
    for choice in [named("User"), json!("required")] {
        let mut body = ask(&[user(), tool("User2", &json!({"a": {"type": "boolean"}}))], &choice);
        let whole = server.answer(CHAT, &body).await["choices"][0].clone();
        body["stream"] = json!(true);
        let text = server.post(CHAT, &body).await.text().await.unwrap();
        let mut frames: Vec<&str> = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: ")).collect();
        assert_eq!(frames.pop(), Some("[DONE]"), "{text}");
        let chunks: Vec<Value> = frames.into_iter().map(|frame| serde_json::from_str(frame).unwrap()).collect();
        let calls: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
            .filter(|call| call.is_object())
            .collect();
        assert_eq!((&calls[0]["index"], &calls[0]["type"]), (&json!(0), &json!("function")));
        assert_eq!(calls[0]["function"]["name"], whole["message"]["tool_calls"][0]["function"]["name"]);
        let arguments = calls.iter().map(|call| call["function"]["arguments"].as_str().unwrap());
        assert_eq!(arguments.collect::<String>(), whole["message"]["tool_calls"][0]["function"]["arguments"]);
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], whole["finish_reason"]);
        assert!(chunks.iter().all(|chunk| chunk["choices"][0]["delta"]["content"].is_null()), "{text}");
    }
}

#[tokio::test]
async fn a_template_with_a_place_for_tools_is_shown_them() {
    const TEMPLATE: &str = "{% if tools %}{{ tools | length }} tools. {% endif %}{% for m in messages %}{{ m.role }}: \
        {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.city }}{% endif %}\
        {% if m.role == 'tool' %}={{ m.tool_call_id }}{% endif %} {% endfor %}";
    let config = json!({"chat_template": TEMPLATE}).to_string();
    let tokenizer = include_bytes!("../models/toy/tokenizer.json");
    let tokenizer = Tokenizer::from_texts(tokenizer, Some(config.as_bytes())).unwrap();
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    server.load(Box::new(Toy::new()), Some(Arc::new(tokenizer)), Limits::default());
    let tokens = async |body: &Value| server.answer(CHAT, body).await["usage"]["prompt_tokens"].as_u64().unwrap();
    let shown = "2 tools. user: Hi ".len() as u64;
    let tools = [user(), tool("Pet", &json!({"kind": {"enum": ["cat", "dog"]}}))];
    for choice in [json!("auto"), Value::Null, named("User")] {
        let mut body = ask(&tools, &choice);
        if choice == named("User") {
            assert_eq!(tokens(&body).await, shown, "the one that is called is shown");
            continue;
        }
        body["max_tokens"] = json!(8);
        let answer = server.answer(CHAT, &body).await;
        assert_eq!(answer["usage"]["prompt_tokens"], shown, "{choice}");
        assert!(answer["choices"][0]["message"]["content"].is_string());
    }
    let mut body = ask(&tools, &json!("none"));
    body["max_tokens"] = json!(8);
    assert_eq!(tokens(&body).await, "user: Hi ".len() as u64);
    // an agent's second turn: the call and its result are in the conversation
    let call =
        json!({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}});
    let messages = json!([{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"}]);
    let text = "user: Hi assistant: Oslo tool: rain=c1 ";
    assert_eq!(tokens(&json!({"messages": messages, "max_tokens": 4})).await, text.len() as u64);
}
