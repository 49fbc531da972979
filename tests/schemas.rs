//! Schemas as pydantic and zod write them: each is kept by every answer, or refused by its keyword.

mod common;

use common::schema::faults;
use common::server::Server;
use serde_json::{Value, json};
use std::env;

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
