//! Several models on one server: which of them answers a request, the metrics and the readiness of
//! each, and their names on the command line.

mod common;

use common::process::Process;
use common::server::{Failing, Gated, Server};
use common::{sudoku_model, sudoku_tokenizer, toy_tokenizer};
use remask::api::{BODY_MAX, Service, ServicesError};
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};
use std::process::{Command, Output};
use std::time::Duration;

const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";

fn sudoku(server: &Server) -> Service {
    server.service("sudoku", sudoku_model(), Some(sudoku_tokenizer()), Limits::default())
}

fn toy(server: &Server, name: &str) -> Service {
    server.service(name, Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default())
}

/// A server of the Sudoku model and the toy, in this order.
async fn both() -> Server {
    let server = Server::loading(BODY_MAX, Duration::from_secs(30)).await;
    server.state.loaded(vec![sudoku(&server), toy(&server, "a/toy")]).unwrap();
    server
}

#[tokio::test]
async fn a_request_reaches_the_model_that_it_names_and_else_the_first() {
    let server = both().await;
    let alone = Server::toy().await;
    let haiku = json!({"messages": [{"role": "user", "content": "Write a haiku."}], "max_tokens": 60});
    let expected = alone.answer("/v1/chat/completions", &haiku).await;
    let named = |mut body: Value, model: &str| {
        body["model"] = model.into();
        body
    };
    let answer = server.answer("/v1/chat/completions", &named(haiku, "a/toy")).await;
    assert_eq!(answer["choices"], expected["choices"]);
    assert_eq!(answer["model"], "a/toy");
    let puzzle = json!({"template": PUZZLE, "blank": "."});
    for body in [puzzle.clone(), named(puzzle.clone(), ""), named(puzzle.clone(), "sudoku")] {
        let answer = server.answer("/v1/infill", &body).await;
        assert_eq!((&answer["model"], answer["choices"][0]["text"].as_str().unwrap().len()), (&json!("sudoku"), 89));
    }
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "Once"})),
        ("/v1/infill", json!({"template": "a<blank:3>"})),
        ("/v1/score", json!({"text": "Once"})),
        ("/v1/repair", json!({"text": "Once"})),
        ("/tokenize", json!({"prompt": "Once"})),
        ("/detokenize", json!({"tokens": [70]})),
    ] {
        assert_eq!(server.post(path, &named(body.clone(), "a/toy")).await.status(), 200, "{path}");
        let refused = server.post(path, &named(body.clone(), "toy")).await;
        assert_eq!(refused.status(), 404, "{path}");
        let error: Value = refused.json().await.unwrap();
        let message = "the model \"toy\" does not exist; this server serves \"sudoku\", \"a/toy\"";
        assert_eq!((&error["error"]["message"], &error["error"]["param"]), (&json!(message), &json!("model")));
    }
}

#[tokio::test]
async fn each_model_is_described_and_counted_by_itself() {
    let server = both().await;
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["sudoku", "a/toy"]);
    let one: Value = server.get("/v1/models/a/toy").await.json().await.unwrap();
    assert_eq!(one, models["data"][1]);
    server.answer("/v1/completions", &json!({"model": "a/toy", "prompt": "Once", "max_tokens": 7})).await;
    for line in [
        "remask_generated_tokens_total{model=\"a/toy\"} 7",
        "remask_generated_tokens_total{model=\"sudoku\"} 0",
        "remask_sequences_finished_total{model=\"a/toy\"} 1",
        "remask_sequences_finished_total{model=\"sudoku\"} 0",
        "remask_forward_passes_total{device=\"cpu\",model=\"sudoku\"} 0",
        "remask_ready 1",
    ] {
        server.until(line).await;
    }
}

#[tokio::test]
async fn a_model_that_fails_is_named_and_leaves_the_other_serving() {
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    let failing = Box::new(Failing { toy: Toy::new(), passes: 0 });
    let failing = server.service("broken", failing, Some(toy_tokenizer()), Limits::default());
    server.state.loaded(vec![toy(&server, "whole"), failing]).unwrap();
    assert_eq!(server.get("/ready").await.status(), 200);
    for _ in 0..3 {
        let body = json!({"model": "broken", "prompt": "Once"});
        assert_eq!(server.post("/v1/completions", &body).await.status(), 500);
    }
    server.until("remask_ready 0").await;
    let ready = server.get("/ready").await;
    assert_eq!(ready.status(), 503);
    let error: Value = ready.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the last 3 forward passes of the model \"broken\" failed"), "{message}");
    server.answer("/v1/completions", &json!({"prompt": "Once"})).await;
}

#[tokio::test]
async fn requests_of_all_models_are_finished_before_the_server_stops() {
    let server = Server::loading(BODY_MAX, Duration::from_secs(30)).await;
    let gated = [Gated::new(), Gated::new()];
    let (mut services, mut gates) = (Vec::new(), Vec::new());
    for (name, (model, gate)) in ["a", "b"].into_iter().zip(gated) {
        services.push(server.service(name, model, Some(toy_tokenizer()), Limits::default()));
        gates.push(gate);
    }
    server.state.loaded(services).unwrap();
    let asked = ["a", "b"].map(|model| {
        let body = json!({"model": model, "prompt": "Once", "max_tokens": 3});
        let request = server.client.post(server.url("/v1/completions")).json(&body);
        tokio::spawn(async move { request.send().await.unwrap().status() })
    });
    for gate in &gates {
        gate.reached().await;
    }
    let stopped = server.stop();
    gates.iter().for_each(|gate| gate.open());
    for answer in asked {
        assert_eq!(answer.await.unwrap(), 200);
    }
    stopped.await.unwrap();
}

#[tokio::test]
async fn models_without_a_name_of_their_own_are_refused() {
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    let other = Server::loading(BODY_MAX, Duration::ZERO).await;
    let same = vec![toy(&server, "toy"), toy(&other, "toy")];
    assert_eq!(server.state.loaded(same), Err(ServicesError::SameName { name: "toy".to_owned() }));
    assert_eq!(server.state.loaded(Vec::new()), Err(ServicesError::None));
    server.state.loaded(vec![sudoku(&server)]).unwrap();
    assert_eq!(server.state.loaded(vec![toy(&server, "late")]), Err(ServicesError::Twice));
}

fn remask(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remask")).args(args.split(' ')).output().unwrap()
}

#[tokio::test]
async fn the_program_serves_models_given_together_or_apart_under_their_names() {
    for flags in [
        &["--model-id", "sudoku", "--model-id", "toy"][..],
        &["--model-id", "sudoku,toy"],
        &["--model-id", "toy", "--model-id", "toy", "--served-model-name", "sudoku,toy"],
    ] {
        let server = Process::serve(flags);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let models = client.get(server.url("/v1/models")).send().await.unwrap().json::<Value>().await.unwrap();
        let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
        assert_eq!(ids, ["sudoku", "toy"], "{flags:?}");
    }
}

#[test]
fn what_several_models_cannot_have_is_refused_before_any_is_loaded() {
    for (args, words) in [
        ("serve --model-id toy,sudoku,toy", "two models have the name \"toy\""),
        (
            "serve --model-id toy,sudoku --served-model-name a",
            "the number of names in --served-model-name is 1, that of models in --model-id is 2",
        ),
        (
            "serve --served-model-name a,b",
            "the number of names in --served-model-name is 2, that of models in --model-id is 1",
        ),
        ("serve --model-id toy,sudoku --prism-head f", "--prism-head is for one model, and --model-id names 2"),
        ("generate --model-id toy,sudoku --prompt a", "--model-id names 2 models, which only `remask serve` uses"),
        ("score --model-id toy --model-id sudoku --text a", "--model-id names 2 models"),
        ("serve --model-id toy,", "one of the names is empty"),
        ("serve --model-id sudoku,,toy", "one of the names is empty"),
    ] {
        let output = remask(args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args}: {told}");
        assert!(told.contains(words), "{args}: {told}");
    }
}

/// What a model is listed to refuse is refused for that reason, and all else can be asked for.
#[tokio::test]
async fn what_a_model_refuses_is_listed_with_the_reason() {
    let server = Server::loading(BODY_MAX, Duration::from_secs(30)).await;
    let headless = server.service("headless", Box::new(Toy::without_head()), None, Limits::default());
    server.state.loaded(vec![sudoku(&server), toy(&server, "toy"), headless]).unwrap();
    let listed: Value = server.get("/v1/models").await.json().await.unwrap();
    let mut refused = Vec::new();
    for model in listed["data"].as_array().unwrap() {
        let (id, facts) = (model["id"].as_str().unwrap(), &model["diffusion"]);
        let task = |diffusion: Value| json!({"model": id, "prompt": [3], "max_tokens": 2, "diffusion": diffusion});
        let mut cases = Vec::new();
        for (kind, field) in [("unmasking", "unmasking"), ("remasking", "remasking"), ("caches", "cache")] {
            for policy in facts["policies"][kind].as_array().unwrap() {
                let name = policy["name"].as_str().unwrap();
                cases.push((
                    format!("{field} {name}"),
                    "/v1/completions",
                    task(json!({field: name})),
                    &policy["refused"],
                ));
            }
        }
        let of = |what: &str| facts["refused"].get(what).unwrap_or(&Value::Null);
        cases.push(("repair".into(), "/v1/repair", json!({"model": id, "text": [3, 4]}), of("/v1/repair")));
        for field in ["proofreading", "return_quality"] {
            let value = if field == "proofreading" { json!("on") } else { json!(true) };
            let why = of(&format!("diffusion.{field}"));
            cases.push((field.into(), "/v1/completions", task(json!({field: value})), why));
        }
        let chat = json!({"model": id, "messages": [{"role": "user", "content": "5"}], "max_tokens": 2});
        cases.push(("chat".into(), "/v1/chat/completions", chat, of("/v1/chat/completions")));
        for (what, path, body, why) in cases {
            let response = server.post(path, &body).await;
            let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
            assert_eq!(status, if why.is_null() { 200 } else { 400 }, "{id}, {what}: {why}, {answer}");
            let (message, is_exact) = (&answer["error"]["message"], what != "repair" && what != "chat");
            if let (Some(why), true) = (why.as_str(), is_exact) {
                assert!(message.as_str().unwrap().contains(why), "{id}, {what}: {message} lacks {why}");
            }
            refused.extend(why.as_str().map(|_| format!("{id}, {what}")));
        }
    }
    for expected in ["sudoku, remasking remedi", "toy, cache dual", "headless, remasking quality", "headless, chat"] {
        assert!(refused.iter().any(|one| one == expected), "{expected} is not among {refused:?}");
    }
    assert!(!refused.contains(&"toy, remasking remedi".to_owned()) && !refused.contains(&"sudoku, chat".to_owned()));
}
