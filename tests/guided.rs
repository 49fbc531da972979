//! Formats of answers in the fields of vLLM, SGLang and llama.cpp.

mod common;

use common::server::Server;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";

fn with(base: Value, more: &Value) -> Value {
    let mut body = base;
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn asked(more: &Value) -> Value {
    with(json!({"prompt": "Who?", "seed": 3, "temperature": 1}), more)
}

async fn text(server: &Server, body: &Value) -> String {
    server.answer(COMPLETIONS, body).await["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_schema_is_kept_in_whatever_field_it_is_given() {
    let server = Server::toy().await;
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "it", "schema": schema}});
    let expected = text(&server, &asked(&json!({"response_format": format}))).await;
    let found: Value = serde_json::from_str(&expected).unwrap();
    assert!(found["name"].is_string() && found["age"].is_i64(), "{expected}");
    for same in [
        json!({"guided_json": schema}),
        json!({"guided_json": schema.to_string()}),
        json!({"guided_json": schema, "response_format": {"type": "text"}, "guided_choice": null, "guided_regex": null}),
        json!({"json_schema": schema}),
        json!({"json_schema": schema.to_string(), "regex": null, "ebnf": ""}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"structured_outputs": {"json": schema.to_string(), "choice": null, "regex": null, "json_object": false,
                                      "grammar": null, "disable_any_whitespace": false, "whitespace_pattern": null}}),
    ] {
        assert_eq!(text(&server, &asked(&same)).await, expected, "{same}");
    }
    let any = text(&server, &asked(&json!({"response_format": {"type": "json_object"}}))).await;
    for same in [json!({"structured_outputs": {"json_object": true}}), json!({"guided_json": {"type": "object"}})] {
        assert_eq!(text(&server, &asked(&same)).await, any, "{same}");
    }
    let plain = text(&server, &asked(&json!({}))).await;
    for none in [
        json!({"guided_json": null, "guided_choice": null, "structured_outputs": null, "json_schema": null}),
        json!({"guided_json": "", "guided_choice": [], "structured_outputs": {}, "json_schema": ""}),
        json!({"structured_outputs": {"json": null, "choice": null, "json_object": null}}),
    ] {
        assert_eq!(text(&server, &asked(&none)).await, plain, "{none}");
    }
}

/// As in vLLM, the answer is the text itself, not a string of JSON.
#[tokio::test]
async fn an_answer_is_one_of_the_texts_that_are_given() {
    let server = Server::toy().await;
    let choices = ["positive", "negative", "not \"sure\" at all", "no"];
    for seed in 0..6 {
        for field in [json!({"guided_choice": choices}), json!({"structured_outputs": {"choice": choices}})] {
            let body = with(asked(&field), &json!({"seed": seed, "temperature": 2}));
            let answer = server.answer(COMPLETIONS, &body).await;
            let choice = &answer["choices"][0];
            assert!(choices.contains(&choice["text"].as_str().unwrap()), "{answer}");
            assert_eq!(choice["finish_reason"], "stop");
            let chat = with(json!({"messages": [{"role": "user", "content": "Well?"}], "seed": seed}), &field);
            let answer = server.answer("/v1/chat/completions", &chat).await;
            assert!(choices.contains(&answer["choices"][0]["message"]["content"].as_str().unwrap()), "{answer}");
        }
    }
    let biased = json!({"guided_choice": ["one", "two"], "logit_bias": {u32::from(b't').to_string(): 100}});
    assert_eq!(text(&server, &asked(&biased)).await, "two");
    assert_eq!(text(&server, &asked(&json!({"guided_choice": ["alone"]}))).await, "alone");
    assert_eq!(text(&server, &asked(&json!({"guided_choice": ["\"a\"", "\"b\""]}))).await.len(), 3);
}

#[tokio::test]
async fn an_error_names_the_field_that_was_given() {
    let server = Server::toy().await;
    let schema = json!({"type": "string"});
    let long = "x".repeat(2000);
    for (given, param, words) in [
        (
            json!({"guided_json": schema, "response_format": {"type": "json_object"}}),
            "guided_json",
            "given beside response_format; give one of the two",
        ),
        (json!({"guided_json": schema, "guided_choice": ["a"]}), "guided_choice", "given beside guided_json"),
        (
            json!({"structured_outputs": {"json": schema, "choice": ["a"]}}),
            "structured_outputs.choice",
            "given beside structured_outputs.json",
        ),
        (json!({"guided_json": {"type": "string", "not": {}}}), "guided_json.not", "guided_json.not: "),
        (
            json!({"structured_outputs": {"json": {"type": "array", "items": {"type": "x"}}}}),
            "structured_outputs.json.items.type",
            "given \"x\"",
        ),
        (json!({"guided_json": "{"}), "guided_json", "this text is no JSON Schema: EOF"),
        (json!({"guided_json": 3}), "guided_json", "given 3; give a schema"),
        (json!({"guided_choice": "a"}), "guided_choice", "given \"a\"; give an array of texts"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice", "given 1; give an array of texts"),
        (json!({"guided_choice": ["a", ""]}), "guided_choice", "given \"\"; give an array of texts"),
        (json!({"guided_choice": vec!["a"; 1001]}), "guided_choice", "it has 1001 options; give at most 1000"),
        (json!({"guided_choice": [long, "b"]}), "guided_choice", "guided_choice takes at least 2000 cells"),
        (json!({"guided_json": schema, "max_tokens": 2}), "guided_json", "guided_json takes at least"),
        (json!({"guided_choice": ["a"], "stop": "a"}), "stop", "guided_choice"),
        (json!({"structured_outputs": "json"}), "structured_outputs", "give an object with one of json, choice"),
        (json!({"structured_outputs": {"regexp": "a"}}), "structured_outputs.regexp", "unknown here; give one of"),
        (
            json!({"structured_outputs": {"regex": "a"}}),
            "structured_outputs.regex",
            "in its place give response_format",
        ),
        (json!({"structured_outputs": {"grammar": "a"}}), "structured_outputs.grammar", "the allowed texts as guided"),
        (json!({"structured_outputs": {"json_object": 1}}), "structured_outputs.json_object", "give true or false"),
        (json!({"guided_regex": "a+"}), "guided_regex", "in its place give response_format with a JSON Schema"),
        (json!({"guided_grammar": "root ::= x"}), "guided_grammar", "the allowed texts as guided_choice"),
        (json!({"regex": "a+"}), "regex", "in its place give response_format"),
        (json!({"ebnf": "root ::= x"}), "ebnf", "the allowed texts as guided_choice"),
        (json!({"grammar": "root ::= x"}), "grammar", "the allowed texts as guided_choice"),
    ] {
        let response = server.post(COMPLETIONS, &with(json!({"prompt": "a"}), &given)).await;
        assert_eq!(response.status(), 400, "{given}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{given}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{given}: {error} lacks {words}");
    }
}
