//! Schemas as pydantic and zod write them: each is kept by every answer, or refused by its keyword.

mod common;

use common::schema::faults;
use common::server::Server;
use remask::api::BODY_MAX;
use remask::engine::Limits;
use remask::model::{Config, Device, Source, load};
use remask::text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::{env, time::Duration};

#[tokio::test]
async fn a_schema_of_an_ordinary_model_is_kept_or_refused_by_name() {
    let server = Server::toy().await;
    let rows: Vec<Value> =
        include_str!("data/schemas.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() > 100);
    let mut wrong = Vec::new();
    for row in rows {
        let (name, schema) = (&row["name"], &row["schema"]);
        let body = json!({
            "prompt": "Who?", "n": 3, "seed": 5, "temperature": 2,
            "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
            "diffusion": {"steps": 24},
        });
        let response = server.post("/v1/completions", &body).await;
        let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        if let Some(at) = row["refused"].as_str() {
            let param = answer["error"]["param"].as_str().unwrap_or_default();
            if (status, param.ends_with(at)) != (400, true) {
                wrong.push(format!("{name} is not refused: {answer}"));
            }
            continue;
        }
        if status != 200 {
            wrong.push(format!("{name} is refused: {}", answer["error"]["message"]));
            continue;
        }
        for choice in answer["choices"].as_array().unwrap() {
            let text = choice["text"].as_str().unwrap();
            let found: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
            if env::var_os("REMASK_SHOW_ANSWERS").is_some() {
                println!("{name}: {text}");
            }
            wrong.extend(faults(schema, schema, &found).first().map(|fault| format!("{name}: {text}: {fault}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Most vocabularies have tokens of several digits, so that few tokens make a long number.
#[tokio::test]
async fn a_bound_of_a_number_is_kept_where_a_token_has_several_digits() {
    let mut tokenizer: Value = serde_json::from_str(include_str!("data/spm/tokenizer.json")).unwrap();
    let words = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    words.remove("~");
    words.insert("9999".to_owned(), json!(353));
    let tokenizer = Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).unwrap();
    let config = Config::parse(include_bytes!("data/spm/config.json"), "config.json").unwrap();
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    let model = load(&Source::Dummy { config, seed: 0 }, Device::Cpu).unwrap();
    server.load(model, Some(Arc::new(tokenizer)), Limits::default());
    let safe = 9_007_199_254_740_991_i64; // what zod's int() writes
    for (number, digits) in [
        (json!({"type": "integer", "minimum": -safe, "maximum": safe}), 15),
        (json!({"type": "integer", "minimum": 0, "maximum": safe}), 15),
        (json!({"type": "integer", "minimum": -safe, "maximum": safe, "x-tokens": 40}), 15),
        (json!({"type": "number", "maximum": safe}), 15),
        (json!({"type": "integer", "minimum": 0, "maximum": i64::MAX}), 15),
        (json!({"type": "integer", "minimum": 0}), 24),
        (json!({"type": "integer", "x-tokens": 5}), 16),
    ] {
        let schema = json!({"type": "object", "properties": {"n": number}});
        let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
        let body = json!({"prompt": "Hello", "response_format": format, "logit_bias": {"353": 100, "272": -100}});
        let answer = server.answer("/v1/completions", &body).await;
        let text = answer["choices"][0]["text"].as_str().unwrap();
        let found: Value = serde_json::from_str(text).unwrap();
        let written = text.bytes().filter(u8::is_ascii_digit).count();
        assert_eq!((written, faults(&schema, &schema, &found)), (digits, Vec::new()), "{text}");
    }
}
