//! The HTTP API through an independent client: whole answers, errors and the endpoints for
//! operators.

mod common;

use common::server::{Failing, Gated, Server};
use remask::api::BODY_MAX;
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const INFILL: &str = "/v1/infill";
/// Clues and, below, the only solution.
const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";

#[tokio::test]
async fn a_completion_has_openais_shape() {
    let server = Server::toy().await;
    let response = server.post(COMPLETIONS, &json!({"model": "toy", "prompt": "Once", "max_tokens": 64})).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer: Value = response.json().await.unwrap();
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"), "{answer}");
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], "toy");
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(0), &Value::Null));
    assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()));
    assert!(choice.get("quality").is_none(), "not asked for");
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], 4);
    assert_eq!(usage["completion_tokens"], choice["text"].as_str().unwrap().len(), "the toy's tokens are bytes");
    assert_eq!(usage["total_tokens"], 4 + usage["completion_tokens"].as_u64().unwrap());
    let diffusion = &answer["diffusion"];
    assert_eq!(diffusion["degraded"], false);
    assert!(diffusion["filled"].as_u64() >= diffusion["erased"].as_u64());
    assert!(diffusion["forward_passes"].as_u64() >= diffusion["steps"].as_u64());
}

#[tokio::test]
async fn a_prompt_may_be_spelled_in_five_ways() {
    let server = Server::toy().await;
    let ids: Vec<u8> = "Once".bytes().collect();
    let mut texts = Vec::new();
    for prompt in [json!("Once"), json!(["Once"]), json!(ids), json!([ids])] {
        texts
            .push(server.answer(COMPLETIONS, &json!({"prompt": prompt, "max_tokens": 40})).await["choices"][0].clone());
    }
    // `curl -d` sends JSON with the content type of a form
    let form = server.client.post(server.url(COMPLETIONS)).header("content-type", "application/x-www-form-urlencoded");
    let response = form.body(r#"{"prompt": "Once", "max_tokens": 40}"#).send().await.unwrap();
    texts.push(response.json::<Value>().await.unwrap()["choices"][0].clone());
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert_ne!(texts[0]["text"], "");
}

#[tokio::test]
async fn fields_that_ask_for_nothing_are_taken() {
    let server = Server::toy().await;
    let body = json!({
        "prompt": "Once", "max_tokens": 8, "n": 1, "best_of": 1, "top_p": 1.0, "top_k": -1, "presence_penalty": 0,
        "frequency_penalty": 0.0, "logprobs": null, "suffix": null, "echo": false, "logit_bias": {}, "tools": [],
        "user": "somebody", "stream": false, "stream_options": null, "stop": null, "seed": -3, "temperature": null,
        "diffusion": {"cache": "off", "deadline_ms": null, "remasking": "off", "unmasking": "margin", "steps": 4},
    });
    assert_eq!(server.answer(COMPLETIONS, &body).await["diffusion"]["steps"], 4);
    for diffusion in [
        json!(null),
        json!({"unmasking": {"order": "leftmost", "threshold": 0.9}, "remasking": {"policy": "off"}}),
        json!({"remasking": {"policy": "quality", "budget": 2, "below": 0.4, "window": [0, 0.5]}, "cfg_scale": 0.5}),
        json!({"remasking": {"policy": "random", "budget": 2}, "block_length": 4, "steps": 8}),
    ] {
        let body = json!({"prompt": "Once", "max_tokens": 8, "diffusion": diffusion});
        assert_ne!(server.answer(COMPLETIONS, &body).await["choices"][0]["text"], "", "{body}");
    }
}

#[tokio::test]
async fn a_seed_decides_and_a_stop_string_ends() {
    let server = Server::toy().await;
    let drawn = async |seed: u64| {
        let body = json!({"prompt": "Once", "max_tokens": 40, "temperature": 3, "seed": seed,
                          "diffusion": {"remasking": "off"}}); // otherwise it would correct random mistakes
        server.answer(COMPLETIONS, &body).await["choices"][0]["text"].clone()
    };
    assert_eq!(drawn(u64::MAX).await, drawn(u64::MAX).await);
    assert_ne!(drawn(1).await, drawn(2).await);

    let whole = server.answer(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 40})).await;
    let whole = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    let word = whole.split_whitespace().nth(1).unwrap();
    let stopped = server.answer(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 40, "stop": word})).await;
    assert_eq!(stopped["choices"][0]["text"], whole[..whole.find(word).unwrap()]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn quality_comes_with_the_tokens_it_is_about() {
    let server = Server::toy().await;
    let body = json!({"prompt": "Once", "max_tokens": 20, "diffusion": {"return_quality": true}});
    let choice = &server.answer(COMPLETIONS, &body).await["choices"][0];
    let quality = &choice["quality"];
    let ids: Vec<u8> =
        quality["token_ids"].as_array().unwrap().iter().map(|id| u8::try_from(id.as_u64().unwrap()).unwrap()).collect();
    assert_eq!(String::from_utf8_lossy(&ids), choice["text"].as_str().unwrap());
    for list in ["tokens", "confidence", "quality"] {
        assert_eq!(quality[list].as_array().unwrap().len(), ids.len(), "{list}");
    }
    let judged = quality["quality"].as_array().unwrap();
    assert!(judged.iter().all(|quality| (0.0..=1.0).contains(&quality.as_f64().unwrap())), "{judged:?}");
    let body = json!({"template": "a<blank:3>b", "diffusion": {"return_quality": true}});
    let quality = &server.answer(INFILL, &body).await["choices"][0]["quality"];
    assert_eq!(quality["quality"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_infill_keeps_what_is_pinned() {
    let server = Server::toy().await;
    let body = json!({"template": "The <blank:5> is <blank><blank:2>!", "model": "toy"});
    let answer = server.answer(INFILL, &body).await;
    assert!(answer["id"].as_str().unwrap().starts_with("infill-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("infill"), &json!("toy")));
    let choice = &answer["choices"][0];
    let gaps: Vec<&str> = choice["gaps"].as_array().unwrap().iter().map(|gap| gap.as_str().unwrap()).collect();
    assert_eq!(gaps.len(), 2, "neighbouring blanks are one gap");
    assert_eq!(choice["text"], format!("The {} is {}!", gaps[0], gaps[1]));
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}));
}

#[tokio::test]
async fn a_sudoku_is_an_infill() {
    let server = Server::sudoku().await;
    let answer = server.answer(INFILL, &json!({"template": PUZZLE, "blank": "."})).await;
    let grid = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(grid.len(), PUZZLE.len());
    for (clue, cell) in PUZZLE.chars().zip(grid.chars()) {
        assert!(clue == cell || clue == '.' && ('1'..='9').contains(&cell), "{grid}");
    }
    assert_eq!(answer["usage"]["completion_tokens"], 51);
    let solution = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179";
    assert_eq!(grid, solution);
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let server = Server::toy().await;
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!(list["object"], "list");
    let model: Value = server.get("/v1/models/toy").await.json().await.unwrap();
    assert_eq!(list["data"], json!([model]));
    assert_eq!((&model["id"], &model["object"]), (&json!("toy"), &json!("model")));
    assert_eq!(model["diffusion"]["family"], "toy");
    assert_eq!(model["diffusion"]["has_quality_head"], true);
    assert_eq!((&model["diffusion"]["canvas_limit"], &model["max_model_len"]), (&json!(1024), &json!(1024)));
    assert_eq!(server.get("/").await.json::<Value>().await.unwrap()["name"], "remask");
}

#[tokio::test]
async fn every_request_has_a_name() {
    let server = Server::toy().await;
    let named = async |id: &str| {
        let response = server.client.get(server.url("/health")).header("x-request-id", id).send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(named("trace-7_a.b").await, "trace-7_a.b");
    for bad in ["", "a b", "ü", ".", "..", &"x".repeat(200)] {
        let fresh = named(bad).await;
        assert!(fresh.len() == 16 && fresh != named(bad).await, "{bad:?} became {fresh:?}");
    }
    assert_eq!(server.get("/nowhere").await.headers()["x-request-id"].len(), 16);
}

#[tokio::test]
async fn a_server_that_loads_says_so() {
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    assert_eq!(server.get("/health").await.status(), 200);
    for path in ["/ready", "/v1/models", "/v1/models/toy"] {
        let response = server.get(path).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"5".parse().unwrap()),
            "{path}"
        );
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "loading");
    }
    for path in [COMPLETIONS, INFILL] {
        assert_eq!(server.post(path, &json!({"prompt": "Once"})).await.status(), 503);
    }
    server.load(Box::new(Toy::new()), None, Limits::default());
    assert_eq!(server.get("/ready").await.status(), 200);
    let options = json!({"return_quality": true});
    let body = json!({"prompt": [79, 110], "max_tokens": 8, "return_token_ids": true, "diffusion": options});
    let choice = &server.answer(COMPLETIONS, &body).await["choices"][0];
    assert_eq!((&choice["text"], choice["token_ids"].as_array().unwrap().len()), (&json!(""), 8));
    assert_eq!((&choice["quality"]["token_ids"], &choice["prompt_token_ids"]), (&choice["token_ids"], &body["prompt"]));
    for (body, words) in [
        (json!({"prompt": "no tokenizer"}), "give token ids instead of text"),
        (json!({"prompt": [79], "stop": "e"}), "give stop_token_ids"),
    ] {
        let response = server.post(COMPLETIONS, &body).await;
        assert_eq!(response.status(), 400);
        let message = response.json::<Value>().await.unwrap()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(words), "{message}");
    }
    let response = server.post(INFILL, &json!({"template": "a<blank>"})).await;
    assert!(!response.text().await.unwrap().contains("token ids"), "a template is a text");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits { running_max: 1, queue_max: 1, ..Limits::default() }).await;
    let body = json!({"prompt": "Once", "max_tokens": 4, "stream": true});
    let (first, second) = (server.post(COMPLETIONS, &body).await, server.post(COMPLETIONS, &body).await);
    for (path, body) in [(COMPLETIONS, json!({"prompt": "Once"})), (INFILL, json!({"template": "<blank>"}))] {
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 429);
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("queue_full")));
    }
    assert_eq!(server.get("/health").await.status(), 200, "never fails because of load");
    assert_eq!(server.get("/ready").await.status(), 200);
    gate.open();
    for response in [first, second] {
        assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
    server.until("remask_requests_total{endpoint=\"/v1/completions\",outcome=\"refused\"} 1").await;
    assert_eq!(server.post(COMPLETIONS, &json!({"prompt": "Once"})).await.status(), 200);
}

#[tokio::test]
async fn a_client_that_stops_waiting_cancels_its_request() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let body = json!({"prompt": "Once", "max_tokens": 64});
    let waiting = tokio::spawn(server.client.post(server.url(COMPLETIONS)).json(&body).send());
    gate.reached().await;
    waiting.abort();
    server.until("remask_requests_total{endpoint=\"/v1/completions\",outcome=\"cancelled\"} 1").await;
    gate.open();
    server.until("remask_sequences_cancelled_total{model=\"toy\"} 1").await;
    server.until("remask_sequences_running{device=\"cpu\",model=\"toy\"} 0").await;
}

#[tokio::test]
async fn a_model_that_fails_costs_its_requests_and_then_readiness() {
    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 0 }), Limits::default()).await;
    for _ in 0..3 {
        assert_eq!(server.get("/ready").await.status(), 200);
        let response = server.post(COMPLETIONS, &json!({"prompt": "Once"})).await;
        assert_eq!(response.status(), 500);
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["code"], "model_failure");
        assert!(error["message"].as_str().unwrap().contains("the device is on fire"), "{error}");
    }
    let response = server.get("/ready").await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "model_failing");
    assert_eq!(server.get("/health").await.status(), 200);
    server.until("remask_requests_total{endpoint=\"/v1/completions\",outcome=\"failed\"} 3").await;
}

#[tokio::test]
async fn a_stopping_server_finishes_what_it_has_and_takes_nothing_new() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let (client, url, ready) = (server.client.clone(), server.url(COMPLETIONS), server.url("/ready"));
    let body = json!({"prompt": "Once", "max_tokens": 8, "stream": true});
    let admitted = server.post(COMPLETIONS, &body).await;
    let served = server.stop();
    while client.get(&ready).send().await.unwrap().status() != 503 {}
    let refused = client.post(&url).json(&body).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "draining");
    gate.open();
    assert!(admitted.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    served.await.unwrap();
}

#[tokio::test]
async fn a_server_out_of_patience_tells_those_it_gives_up() {
    let (model, gate) = Gated::new();
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    server.load(model, Some(common::toy_tokenizer()), Limits::default());
    // more steps than the worker can take before it hears of the shutdown
    let body = json!({"prompt": "Once", "max_tokens": 1000, "stream": true, "diffusion": {"block_length": 1000}});
    let admitted = server.post(COMPLETIONS, &body).await;
    let metrics = std::sync::Arc::clone(&server.metrics);
    let served = server.stop();
    gate.open();
    let events = common::server::events(&admitted.text().await.unwrap());
    assert_eq!(events.last().unwrap().json()["error"]["code"], "draining");
    served.await.unwrap();
    let line = "remask_requests_total{endpoint=\"/v1/completions\",outcome=\"failed\"} 1";
    assert!(metrics.render().contains(line), "it was admitted, so it was not refused");
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_before_and_after_a_restart_and_on_the_server_beside() {
    let sampled = json!({"prompt": "Once", "max_tokens": 40, "temperature": 1, "seed": 7, "n": 2, "logprobs": 1,
                         "diffusion": {"return_quality": true, "unmasking": "random", "steps": 30}});
    let puzzle = "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
    let infill = json!({"template": puzzle, "blank": ".", "temperature": 1, "seed": 9,
                        "diffusion": {"unmasking": "random", "return_quality": true}});
    for (path, body, is_toy) in [(COMPLETIONS, sampled, true), (INFILL, infill, false)] {
        let server = async || if is_toy { Server::toy().await } else { Server::sudoku().await };
        let told = async |server: &Server| {
            let answer = server.answer(path, &body).await;
            json!([answer["choices"], answer["usage"], answer["diffusion"]])
        };
        let (first, beside) = (server().await, server().await);
        // whatever other requests are served
        let others: Vec<_> = (0..4)
            .map(|seed| {
                let body = json!({"prompt": "53", "template": ".5.", "blank": ".", "seed": seed});
                tokio::spawn(first.client.post(first.url(path)).json(&body).send())
            })
            .collect();
        let before = told(&first).await;
        assert_eq!(told(&beside).await, before);
        for other in others {
            other.await.unwrap().unwrap();
        }
        first.stop().await.unwrap();
        assert_eq!(told(&server().await).await, before);
    }
}

/// Clients join base addresses and paths with one slash too many.
#[tokio::test]
async fn a_slash_at_the_end_of_a_path_makes_no_difference() {
    let server = Server::toy().await;
    let get = async |path: &str| server.client.get(server.url(path)).send().await.unwrap();
    for path in ["/version", "/health", "/ready", "/v1/models", "/v1/models/toy", "/openapi.json", "/metrics"] {
        assert_eq!(get(path).await.status(), 200, "{path}");
        for other in [format!("{path}/"), format!("{path}//"), format!("/{path}"), format!("{path}/?a=b")] {
            assert_eq!(get(&other).await.status(), 200, "{other}");
        }
    }
    let version: Value = get("/version").await.json().await.unwrap();
    assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION")}));
    let page = get("/docs/").await; // its own addresses are relative
    assert_eq!((page.status().as_u16(), page.url().path()), (200, "/docs"));
    for path in ["/v1/health", "/version/x/", "//", "/v1//models/"] {
        let is_root = path == "//";
        assert_eq!(get(path).await.status(), if is_root { 200 } else { 404 }, "{path}");
    }
    let wrong = server.client.get(server.url("/v1/completions/")).send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), wrong.headers()["allow"].to_str().unwrap()), (405, "POST"));
    let metrics = get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("{endpoint=\"/v1/models\",outcome=\"ok\"} 5"), "{metrics}");
    assert!(!metrics.contains("/v1/models/\""), "a path has one name in the metrics: {metrics}");
}
