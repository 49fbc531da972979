//! gRPC: what it answers is what HTTP answers, faults included; and what goes beside it: keys, health, reflection.

mod common;

/// The client that the build wrote.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic)]
mod proto {
    tonic::include_proto!("remask.v1");
}

use common::server::{Failing, Gate, Gated, Server};
use common::toy_tokenizer;
use prost::Message as _;
use proto::generate_event::Event;
use proto::remask_client::RemaskClient;
use proto::{edit, generate_request, proofreading, remasking, repair_request, score_request, unmasking};
use remask::api::{Access, AppState, BODY_MAX, Guard, Listeners, Patience, Service, serve};
use remask::diffusion::{Reading, TokenId};
use remask::engine::{Limits, start};
use remask::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Toy};
use remask::telemetry::Metrics;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PATIENCE: Duration = Duration::from_secs(30);
const COMPLETIONS: &str = "/v1/completions";
const INFILL: &str = "/v1/infill";
const SCORE: &str = "/v1/score";
const REPAIR: &str = "/v1/repair";
/// The toy tells each another of its sentences; two of them have characters of several bytes.
const PROMPTS: [&str; 5] = ["Once", "a", "b", "ü 🍰", "twice"];

fn channel(base: &str) -> Channel {
    Endpoint::from_shared(base.to_owned()).unwrap().connect_lazy()
}

fn client(server: &Server) -> RemaskClient<Channel> {
    RemaskClient::new(channel(&server.base))
}

fn asked(prompt: &str) -> proto::GenerateRequest {
    let prompt = Some(generate_request::Prompt::Text(prompt.to_owned()));
    proto::GenerateRequest { prompt, ..Default::default() }
}

/// With this `diffusion`.
fn diffusing(diffusion: proto::Diffusion) -> proto::GenerateRequest {
    proto::GenerateRequest { diffusion: Some(diffusion), ..asked("a") }
}

fn template(template: &str) -> proto::InfillRequest {
    proto::InfillRequest { template: template.to_owned(), ..Default::default() }
}

fn given(text: &str) -> Option<repair_request::Given> {
    Some(repair_request::Given::Text(text.to_owned()))
}

fn mended(text: &str) -> proto::RepairRequest {
    proto::RepairRequest { given: given(text), ..Default::default() }
}

fn judged(text: &str) -> proto::ScoreRequest {
    proto::ScoreRequest { given: Some(score_request::Given::Text(text.to_owned())), ..Default::default() }
}

/// A whole stream, taken apart; checks that it has the parts it should have, in order.
async fn told(mut stream: Streaming<proto::GenerateEvent>) -> (proto::Start, Vec<proto::Step>, proto::Done) {
    let mut event = async || stream.message().await.unwrap().and_then(|message| message.event);
    let Some(Event::Start(start)) = event().await else { panic!("no start") };
    let mut steps = Vec::new();
    loop {
        match event().await {
            Some(Event::Step(step)) => steps.push(step),
            Some(Event::Done(done)) => {
                assert_eq!(event().await, None);
                assert_eq!((&start.id, &start.model), (&done.id, &done.model));
                return (start, steps, done);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The canvas that `steps` lead to from `start`; each edit must fit its cell.
fn replay(start: &proto::Start, steps: &[proto::Step]) -> Vec<u32> {
    let mut canvas = vec![None; start.canvas_length as usize];
    for cell in &start.cells {
        canvas[cell.at as usize] = Some(cell.token);
    }
    for step in steps {
        for edit in &step.edits {
            let cell = &mut canvas[edit.at as usize];
            match edit.kind.as_ref().unwrap() {
                edit::Kind::Fill(fill) => {
                    assert!(cell.is_none() && fill.text.is_some() && fill.confidence > 0.0, "{edit:?}");
                    *cell = Some(fill.token);
                }
                edit::Kind::Erase(erase) => {
                    assert_eq!(*cell, Some(erase.was), "{edit:?}");
                    *cell = None;
                }
            }
        }
        assert_eq!(step.blanks as usize, canvas.iter().filter(|cell| cell.is_none()).count());
    }
    canvas.into_iter().map(Option::unwrap).collect()
}

fn erasures(steps: &[proto::Step]) -> usize {
    let edits = steps.iter().flat_map(|step| &step.edits);
    edits.filter(|edit| matches!(edit.kind, Some(edit::Kind::Erase(_)))).count()
}

/// Checks that `usage` and `diffusion` say what HTTP says.
fn check_counts(usage: Option<proto::Usage>, diffusion: Option<proto::Summary>, http: &Value) {
    let (usage, diffusion) = (usage.unwrap(), diffusion.unwrap());
    let expected = json!({
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": usage.total_tokens,
    });
    assert_eq!(http["usage"], expected);
    let expected = json!({
        "steps": diffusion.steps, "forward_passes": diffusion.forward_passes, "filled": diffusion.filled,
        "erased": diffusion.erased, "degraded": diffusion.degraded,
    });
    assert_eq!(http["diffusion"], expected);
}

/// A number as JSON has it: the shortest that means this one.
fn number(number: impl Into<Option<f32>>) -> Option<f64> {
    number.into().map(|number| number.to_string().parse().unwrap())
}

fn list<T: serde::Serialize>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(items.into_iter().map(|item| json!(item)).collect())
}

#[tokio::test]
async fn a_generation_is_the_completion_that_http_gives() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let (mut erased, mut several) = (0, 0);
    for (seed, prompt) in PROMPTS.into_iter().enumerate() {
        for (temperature, stop, budget) in
            [(0.0, vec![], None), (1.0, vec![], Some(9)), (0.5, vec!["over".to_owned()], None)]
        {
            let http = json!({
                "prompt": prompt, "max_tokens": 64, "seed": seed, "temperature": temperature, "stop": stop, "top_p": 0.9,
                "top_k": 40, "logit_bias": {"101": -2.5}, "stop_token_ids": [0],
                "diffusion": {"steps": 40, "block_length": 16, "unmasking": "random", "return_quality": true,
                              "remasking": {"policy": "quality", "budget": budget, "below": 0.6, "window": [0.25, 0.75]},
                              "proofreading": {"steps": 4, "below": 0.4, "most": 3, "temperature": 0.1}},
            });
            let window = Some(remasking::Window { from: 0.25, until: 0.75 });
            let quality = remasking::Quality { budget, below: Some(0.6), window };
            let rounds =
                proofreading::Rounds { steps: Some(4), below: Some(0.4), most: Some(3), temperature: Some(0.1) };
            let diffusion = proto::Diffusion {
                steps: Some(40),
                block_length: Some(16),
                unmasking: Some(proto::Unmasking { order: proto::Order::Random.into(), pace: None }),
                remasking: Some(proto::Remasking { policy: Some(remasking::Policy::Quality(quality)) }),
                proofreading: Some(proto::Proofreading { mode: Some(proofreading::Mode::Rounds(rounds)) }),
                stream_edits: true,
                return_quality: true,
                ..Default::default()
            };
            let grpc = proto::GenerateRequest {
                max_tokens: Some(64),
                seed: Some(seed as u64),
                temperature,
                stop,
                top_p: Some(0.9),
                top_k: 40,
                logit_bias: [(101, -2.5)].into(),
                stop_token_ids: vec![0],
                diffusion: Some(diffusion),
                ..asked(prompt)
            };
            let whole = server.answer(COMPLETIONS, &http).await;
            let choice = &whole["choices"][0];
            let (start, steps, done) = told(client.generate(grpc.clone()).await.unwrap().into_inner()).await;
            assert_eq!(choice["text"], done.text, "{http}");
            assert_eq!(steps.iter().map(|step| &*step.text).chain([&*done.tail]).collect::<String>(), done.text);
            let finish =
                if choice["finish_reason"] == "stop" { proto::FinishReason::Stop } else { proto::FinishReason::Length };
            assert_eq!(done.finish_reason(), finish);
            assert_eq!(choice["quality"]["token_ids"], list(done.tokens.iter().map(|token| token.token)));
            assert_eq!(choice["quality"]["confidence"], list(done.tokens.iter().map(|token| number(token.confidence))));
            assert_eq!(choice["quality"]["quality"], list(done.tokens.iter().map(|token| number(token.quality))));
            check_counts(done.usage, done.diffusion, &whole);
            // a text may end before the canvas does
            assert_eq!((start.canvas_length, &start.cells[..]), (64, &[][..]));
            let blanks_left = steps.last().unwrap().blanks;
            if blanks_left == 0 {
                let canvas = replay(&start, &steps);
                let tokens: Vec<u32> = done.tokens.iter().map(|token| token.token).collect();
                assert_eq!(&canvas[..tokens.len()], &tokens[..]);
            }
            erased += erasures(&steps);

            let mut plain = grpc;
            plain.diffusion.as_mut().unwrap().stream_edits = false;
            let (_, steps, silent) = told(client.generate(plain).await.unwrap().into_inner()).await;
            assert!(steps.iter().all(|step| step.edits.is_empty() && !step.text.is_empty()), "{steps:?}");
            several += usize::from(steps.len() > 1);
            assert_eq!((silent.text, silent.tokens), (done.text, done.tokens));
        }
    }
    assert!(erased > 0 && several > 0, "{erased} erasures, {several} answers in several pieces");
    let ended = "remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"ok\"} 30";
    server.until(ended).await;
    server.until("remask_time_to_first_text_seconds_count 30").await;
}

#[tokio::test]
async fn a_prompt_may_be_ids_or_a_conversation_and_have_a_suffix() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let chat = proto::Chat {
        messages: [("system", "Be brief."), ("user", "Hello")]
            .map(|(role, content)| proto::Message { role: role.to_owned(), content: content.to_owned() })
            .into(),
    };
    let ids = proto::TokenIds { ids: vec![79, 110] };
    let rows: [(proto::GenerateRequest, &str, Value); 4] = [
        (
            proto::GenerateRequest { prompt: Some(generate_request::Prompt::TokenIds(ids)), ..asked("") },
            COMPLETIONS,
            json!({"prompt": [79, 110]}),
        ),
        (
            proto::GenerateRequest { prompt: Some(generate_request::Prompt::Chat(chat)), ..asked("") },
            "/v1/chat/completions",
            json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}),
        ),
        (
            proto::GenerateRequest { suffix: Some("the end".to_owned()), max_tokens: Some(30), ..asked("Once") },
            COMPLETIONS,
            json!({"prompt": "Once", "suffix": "the end", "max_tokens": 30}),
        ),
        (
            diffusing(proto::Diffusion {
                unmasking: Some(proto::Unmasking { order: 0, pace: Some(unmasking::Pace::Threshold(0.8)) }),
                remasking: Some(proto::Remasking { policy: Some(remasking::Policy::Off(remasking::Off {})) }),
                proofreading: Some(proto::Proofreading { mode: Some(proofreading::Mode::Off(proofreading::Off {})) }),
                end_of_text: proto::EndOfText::Never.into(),
                cfg_scale: 0.5,
                ..Default::default()
            }),
            COMPLETIONS,
            json!({"prompt": "a", "diffusion": {"unmasking": {"threshold": 0.8}, "remasking": "off", "proofreading": "off",
                                                "end_of_text": "never", "cfg_scale": 0.5}}),
        ),
    ];
    for (grpc, path, http) in rows {
        let whole = server.answer(path, &http).await;
        let choice = &whole["choices"][0];
        let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap();
        let (_, steps, done) = told(client.generate(grpc).await.unwrap().into_inner()).await;
        assert_eq!(done.text, text, "{http}");
        assert_eq!(steps.iter().map(|step| &*step.text).chain([&*done.tail]).collect::<String>(), text, "{http}");
        assert!(done.gaps.is_empty() && done.replaced.is_empty());
        check_counts(done.usage, done.diffusion, &whole);
    }
}

#[tokio::test]
async fn an_infill_is_its_edits_and_what_http_gives() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let mut erased = 0;
    for policy in [
        remasking::Policy::Random(remasking::Random { budget: Some(5), window: None }),
        remasking::Policy::Remdm(remasking::ReMdm { budget: Some(5), window: None }),
        remasking::Policy::Confidence(remasking::Confidence { budget: Some(5), below: None, window: None }),
    ] {
        let name = match policy {
            remasking::Policy::Random(_) => "random",
            remasking::Policy::Remdm(_) => "remdm",
            _ => "confidence",
        };
        let http = json!({"template": "On__ upon ____ time", "blank": "_", "seed": 4, "temperature": 0.7,
                          "diffusion": {"remasking": {"policy": name, "budget": 5}, "proofreading": "off"}});
        let off = Some(proofreading::Mode::Off(proofreading::Off {}));
        let diffusion = proto::Diffusion {
            remasking: Some(proto::Remasking { policy: Some(policy) }),
            proofreading: Some(proto::Proofreading { mode: off }),
            ..Default::default()
        };
        let grpc = proto::InfillRequest {
            blank: Some("_".to_owned()),
            seed: Some(4),
            temperature: 0.7,
            diffusion: Some(diffusion),
            ..template("On__ upon ____ time")
        };
        let whole = server.answer(INFILL, &http).await;
        let (start, steps, done) = told(client.infill(grpc).await.unwrap().into_inner()).await;
        assert_eq!(
            (start.canvas_length, start.cells.len(), start.cells.iter().all(|cell| cell.pinned)),
            (19, 13, true)
        );
        let bytes: Vec<u8> = replay(&start, &steps).into_iter().map(|token| u8::try_from(token).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), done.text, "the toy's tokens are bytes");
        assert_eq!(
            (&whole["choices"][0]["text"], &whole["choices"][0]["gaps"]),
            (&json!(done.text), &json!(done.gaps))
        );
        assert_eq!(done.tokens.len(), 6);
        check_counts(done.usage, done.diffusion, &whole);
        erased += erasures(&steps);
    }
    assert!(erased > 0, "nothing was ever erased");
}

#[tokio::test]
async fn a_given_text_is_judged_and_mended_as_over_http() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let all = proto::RepairRequest { steps: Some(400), below: Some(1.0), ..mended(&"~".repeat(40)) };
    let (_, _, right) = told(client.repair(all).await.unwrap().into_inner()).await;
    let right = right.text;
    let wrong: String =
        right.char_indices().map(|(at, letter)| if [3, 20].contains(&at) { '~' } else { letter }).collect();

    let score = client.score(judged(&wrong)).await.unwrap().into_inner();
    let http = server.answer(SCORE, &json!({"text": wrong})).await;
    assert_eq!((&score.doubtful, &http["doubtful"]), (&vec![3, 20], &json!([3, 20])));
    for (token, expected) in score.tokens.iter().zip(http["tokens"].as_array().unwrap()) {
        let token = json!({"at": token.at, "token": token.token, "text": token.text, "quality": number(token.quality)});
        assert_eq!(&token, expected);
    }
    assert_eq!((score.tokens.len(), score.model.as_str()), (40, "toy"));
    check_counts(score.usage, score.diffusion, &http);
    let ids = proto::TokenIds { ids: wrong.bytes().map(u32::from).collect() };
    let by_ids = proto::ScoreRequest { given: Some(score_request::Given::TokenIds(ids.clone())), ..judged("") };
    assert_eq!(client.score(by_ids).await.unwrap().into_inner().tokens, score.tokens);

    let pinned = vec![proto::Span { start: 20, end: 21 }];
    for (grpc, http) in [
        (mended(&wrong), json!({"text": wrong})),
        (proto::RepairRequest { pinned, ..mended(&wrong) }, json!({"text": wrong, "pinned": [[20, 21]]})),
        (
            proto::RepairRequest { worst: Some(1), steps: Some(2), ..mended(&wrong) },
            json!({"text": wrong, "worst": 1, "steps": 2}),
        ),
        (
            proto::RepairRequest { given: Some(repair_request::Given::TokenIds(ids)), ..mended("") },
            json!({"text": wrong.as_bytes()}),
        ),
    ] {
        let whole = server.answer(REPAIR, &http).await;
        let (start, steps, done) = told(client.repair(grpc).await.unwrap().into_inner()).await;
        let bytes: Vec<u8> = replay(&start, &steps).into_iter().map(|token| u8::try_from(token).unwrap()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), done.text, "{http}");
        assert_eq!((&whole["text"], &whole["diff"]), (&json!(done.text), &json!(done.diff)), "{http}");
        let replaced = done.replaced.iter().map(|new| {
            json!({"at": new.at, "was": new.was, "was_text": new.was_text, "token": new.token, "text": new.text,
                   "confidence": number(new.confidence)})
        });
        assert_eq!(whole["edits"], list(replaced), "{http}");
        assert!(!done.replaced.is_empty(), "{http}");
        assert_eq!(start.cells.iter().filter(|cell| cell.pinned).count(), 40 - done.tokens.len());
        check_counts(done.usage, done.diffusion, &whole);
    }

    let info = client.info(proto::InfoRequest::default()).await.unwrap().into_inner();
    let model: Value = server.get("/v1/models/toy").await.json().await.unwrap();
    let facts = json!({"family": info.family, "vocabulary": info.vocabulary, "canvas_limit": info.canvas_limit,
                       "has_quality_head": info.has_quality_head, "adapters_folded": info.adapters_folded,
                       "dtype": info.dtype, "weights": info.weights, "device": info.device, "parameters": info.parameters});
    assert_eq!((&model["id"], &model["created"]), (&json!(info.model), &json!(info.created)));
    assert_eq!(model["diffusion"], facts);
    assert!(info.has_tokenizer && info.version == env!("CARGO_PKG_VERSION"));
}

/// A request of any kind.
#[derive(Clone, Debug)]
enum Call {
    Generate(proto::GenerateRequest),
    Infill(proto::InfillRequest),
    Score(proto::ScoreRequest),
    Repair(proto::RepairRequest),
}

/// Why a call has no answer; one that has is a fault.
async fn refused(client: &mut RemaskClient<Channel>, call: Call) -> Status {
    let shown = format!("{call:?}");
    let refused = match call {
        Call::Generate(asked) => client.generate(asked).await.err(),
        Call::Infill(asked) => client.infill(asked).await.err(),
        Call::Score(asked) => client.score(asked).await.err(),
        Call::Repair(asked) => client.repair(asked).await.err(),
    };
    refused.unwrap_or_else(|| panic!("{shown} was taken"))
}

fn metadata<'a>(status: &'a Status, key: &str) -> Option<&'a str> {
    status.metadata().get(key).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_fault_is_told_in_https_words() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let generate = |asked| Call::Generate(asked);
    let diffusion = |asked| Call::Generate(diffusing(asked));
    let none = proto::Diffusion::default;
    let policy = |policy| proto::Diffusion { remasking: Some(proto::Remasking { policy: Some(policy) }), ..none() };
    let rounds = |steps, below| {
        let rounds = proofreading::Rounds { steps, below, ..Default::default() };
        let mode = Some(proofreading::Mode::Rounds(rounds));
        proto::Diffusion { proofreading: Some(proto::Proofreading { mode }), ..none() }
    };
    let tokens = |ids: &[u32]| Some(generate_request::Prompt::TokenIds(proto::TokenIds { ids: ids.to_vec() }));
    let chat = Some(generate_request::Prompt::Chat(proto::Chat::default()));
    let a = || asked("a");
    let completion = |more: Value| {
        let mut body = json!({"prompt": "a"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (COMPLETIONS, body)
    };
    let format = |format| Call::Generate(proto::GenerateRequest { format: Some(format), ..asked("a") });
    let object = generate_request::Format::JsonObject(proto::JsonObject {});
    let rows: Vec<(Call, (&str, Value))> = vec![
        (generate(asked("")), completion(json!({"prompt": ""}))),
        (
            format(generate_request::Format::JsonSkeleton("{\"a\": 1}".into())),
            completion(json!({"response_format": {"type": "json_skeleton", "skeleton": {"a": 1}}})),
        ),
        (
            format(generate_request::Format::JsonSkeleton("[\"<text>\"]".into())),
            completion(json!({"response_format": {"type": "json_skeleton", "skeleton": ["<text>"]}})),
        ),
        (
            format(generate_request::Format::JsonSchema("{\"type\": \"string\", \"pattern\": \"a\"}".into())),
            completion(
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "a"}}}}),
            ),
        ),
        (
            generate(proto::GenerateRequest { stop: vec!["x".into()], format: Some(object), ..a() }),
            completion(json!({"stop": "x", "response_format": {"type": "json_object"}})),
        ),
        (generate(proto::GenerateRequest { prompt: tokens(&[]), ..a() }), completion(json!({"prompt": []}))),
        (
            generate(proto::GenerateRequest { prompt: tokens(&[1, 300]), ..a() }),
            completion(json!({"prompt": [1, 300]})),
        ),
        (generate(proto::GenerateRequest { prompt: tokens(&[256]), ..a() }), completion(json!({"prompt": [256]}))),
        (generate(proto::GenerateRequest { prompt: chat, ..a() }), ("/v1/chat/completions", json!({"messages": []}))),
        (generate(proto::GenerateRequest { max_tokens: Some(0), ..a() }), completion(json!({"max_tokens": 0}))),
        (generate(proto::GenerateRequest { max_tokens: Some(1024), ..a() }), completion(json!({"max_tokens": 1024}))),
        (generate(proto::GenerateRequest { temperature: -0.5, ..a() }), completion(json!({"temperature": -0.5}))),
        (generate(proto::GenerateRequest { top_p: Some(1.5), ..a() }), completion(json!({"top_p": 1.5}))),
        (generate(proto::GenerateRequest { top_p: Some(0.0), ..a() }), completion(json!({"top_p": 0}))),
        (generate(proto::GenerateRequest { top_k: 70_000, ..a() }), completion(json!({"top_k": 70_000}))),
        (generate(proto::GenerateRequest { stop: vec![String::new()], ..a() }), completion(json!({"stop": ""}))),
        (
            generate(proto::GenerateRequest { stop_token_ids: vec![999], ..a() }),
            completion(json!({"stop_token_ids": [999]})),
        ),
        (
            generate(proto::GenerateRequest { logit_bias: [(300, 1.0)].into(), ..a() }),
            completion(json!({"logit_bias": {"300": 1}})),
        ),
        (
            generate(proto::GenerateRequest { logit_bias: [(5, 101.0)].into(), ..a() }),
            completion(json!({"logit_bias": {"5": 101}})),
        ),
        (generate(proto::GenerateRequest { suffix: Some("b".into()), ..a() }), completion(json!({"suffix": "b"}))),
        (
            generate(proto::GenerateRequest {
                prompt: tokens(&[1]),
                suffix: Some("b".into()),
                max_tokens: Some(3),
                ..a()
            }),
            completion(json!({"prompt": [1], "suffix": "b", "max_tokens": 3})),
        ),
        (generate(proto::GenerateRequest { model: "gpt-4".into(), ..a() }), completion(json!({"model": "gpt-4"}))),
        (diffusion(proto::Diffusion { steps: Some(0), ..none() }), completion(json!({"diffusion": {"steps": 0}}))),
        (
            diffusion(proto::Diffusion { steps: Some(70_000), ..none() }),
            completion(json!({"diffusion": {"steps": 70_000}})),
        ),
        (
            diffusion(proto::Diffusion { block_length: Some(0), ..none() }),
            completion(json!({"diffusion": {"block_length": 0}})),
        ),
        (
            diffusion(proto::Diffusion { cfg_scale: -1.0, ..none() }),
            completion(json!({"diffusion": {"cfg_scale": -1}})),
        ),
        (
            diffusion(proto::Diffusion { deadline_ms: Some(0), ..none() }),
            completion(json!({"diffusion": {"deadline_ms": 0}})),
        ),
        (
            diffusion(proto::Diffusion {
                unmasking: Some(proto::Unmasking { order: 1, pace: Some(unmasking::Pace::Threshold(1.5)) }),
                ..none()
            }),
            completion(json!({"diffusion": {"unmasking": {"order": "confidence", "threshold": 1.5}}})),
        ),
        (
            diffusion(policy(remasking::Policy::Quality(remasking::Quality {
                below: Some(2.0),
                ..Default::default()
            }))),
            completion(json!({"diffusion": {"remasking": {"policy": "quality", "below": 2}}})),
        ),
        (
            diffusion(policy(remasking::Policy::Random(remasking::Random {
                window: Some(remasking::Window { from: 0.5, until: 0.5 }),
                budget: None,
            }))),
            completion(json!({"diffusion": {"remasking": {"policy": "random", "window": [0.5, 0.5]}}})),
        ),
        (
            diffusion(policy(remasking::Policy::Remdm(remasking::ReMdm { budget: Some(70_000), window: None }))),
            completion(json!({"diffusion": {"remasking": {"policy": "remdm", "budget": 70_000}}})),
        ),
        (diffusion(rounds(Some(1), None)), completion(json!({"diffusion": {"proofreading": {"steps": 1}}}))),
        (diffusion(rounds(None, Some(0.5))), completion(json!({"diffusion": {"proofreading": {"below": 0.5}}}))),
        (Call::Infill(template("full")), (INFILL, json!({"template": "full"}))),
        (Call::Infill(template("<blank:2000>")), (INFILL, json!({"template": "<blank:2000>"}))),
        (
            Call::Infill(proto::InfillRequest { blank: Some(String::new()), ..template("x") }),
            (INFILL, json!({"template": "x", "blank": ""})),
        ),
        (Call::Score(judged("")), (SCORE, json!({"text": ""}))),
        (
            Call::Score(proto::ScoreRequest { below: Some(2.0), ..judged("a") }),
            (SCORE, json!({"text": "a", "below": 2})),
        ),
        (Call::Score(judged(&"a".repeat(1025))), (SCORE, json!({"text": "a".repeat(1025)}))),
        (
            Call::Repair(proto::RepairRequest { pinned: vec![proto::Span { start: 2, end: 4 }], ..mended("abc") }),
            (REPAIR, json!({"text": "abc", "pinned": [[2, 4]]})),
        ),
        (
            Call::Repair(proto::RepairRequest { worst: Some(0), ..mended("abc") }),
            (REPAIR, json!({"text": "abc", "worst": 0})),
        ),
        (
            Call::Repair(proto::RepairRequest {
                diffusion: Some(proto::Diffusion { steps: Some(3), ..none() }),
                ..mended("abc")
            }),
            (REPAIR, json!({"text": "abc", "diffusion": {"steps": 3}})),
        ),
    ];
    for (call, (path, body)) in rows {
        let response = server.post(path, &body).await;
        let http_status = response.status().as_u16();
        let http = response.json::<Value>().await.unwrap()["error"].clone();
        let code = if http_status == 404 { Code::NotFound } else { Code::InvalidArgument };
        let status = refused(&mut client, call).await;
        assert_eq!((status.code(), json!(status.message())), (code, http["message"].clone()), "{body}");
        assert_eq!(json!(metadata(&status, "remask-param")), http["param"], "{body}");
        assert_eq!(json!(metadata(&status, "remask-code")), http["code"], "{body}");
    }
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Score\",outcome=\"invalid\"} 3").await;
}

/// Faults that JSON has no like of.
#[tokio::test]
async fn what_is_left_out_or_unknown_is_named() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let unmasking = proto::Unmasking { order: 99, pace: None };
    let rows: Vec<(Call, &str, &str)> = vec![
        (
            Call::Generate(proto::GenerateRequest::default()),
            "prompt",
            "prompt is missing; give a text, token ids, or a chat",
        ),
        (Call::Infill(proto::InfillRequest::default()), "template", "holds no \"<blank>\""),
        (Call::Score(proto::ScoreRequest::default()), "text", "text is missing; give a text or token ids"),
        (Call::Repair(proto::RepairRequest::default()), "text", "text is missing; give a text or token ids"),
        (
            Call::Generate(diffusing(proto::Diffusion { unmasking: Some(unmasking), ..Default::default() })),
            "diffusion.unmasking.order",
            "given 99; give 1 (confidence) to 5 (leftmost), or 0",
        ),
        (
            Call::Generate(diffusing(proto::Diffusion { end_of_text: -1, ..Default::default() })),
            "diffusion.end_of_text",
            "given -1; give 1 (free) to 3 (never), or 0",
        ),
        (
            Call::Generate(diffusing(proto::Diffusion {
                remasking: Some(proto::Remasking::default()),
                ..Default::default()
            })),
            "diffusion.remasking",
            "give one of off, quality, confidence, remdm and random",
        ),
        (
            Call::Generate(diffusing(proto::Diffusion {
                proofreading: Some(proto::Proofreading::default()),
                ..Default::default()
            })),
            "diffusion.proofreading",
            "give one of off and rounds",
        ),
        (
            Call::Generate(proto::GenerateRequest { temperature: f32::NAN, ..asked("a") }),
            "temperature",
            "temperature is NaN; give a finite number",
        ),
    ];
    for (call, param, words) in rows {
        let status = refused(&mut client, call).await;
        assert_eq!(
            (status.code(), metadata(&status, "remask-param")),
            (Code::InvalidArgument, Some(param)),
            "{status:?}"
        );
        assert!(status.message().contains(words), "{status:?} lacks {words:?}");
    }
}

/// A message as it travels.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// The answer to whatever may be sent.
async fn raw(server: &Server, path: &str, content_type: &str, body: Vec<u8>) -> reqwest::Response {
    let request = server.client.post(server.url(path)).header("content-type", content_type);
    request.header("x-request-id", "raw-1").body(body).send().await.unwrap()
}

#[tokio::test]
async fn what_is_no_call_of_ours_gets_a_status_too() {
    const GENERATE: &str = "/remask.v1.Remask/Generate";
    let server = Server::loading(1000, PATIENCE).await;
    server.load(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    let long = framed(&asked(&"a".repeat(1000)).encode_to_vec());
    let fits = framed(&asked(&"a".repeat(1000 - 3)).encode_to_vec()); // a tag and a length of two bytes
    let squeezed = [&[1][..], &framed(b"abc")[1..]].concat();
    let http = raw(&server, COMPLETIONS, "application/json", vec![b' '; 1001]).await;
    let too_large = http.json::<Value>().await.unwrap()["error"]["message"].as_str().unwrap().to_owned();
    for (path, body, code, words) in [
        ("/remask.v1.Remask/Write", framed(b""), Code::Unimplemented, "remask.v1.Remask has Generate, Infill, Score"),
        (
            "/remask.v2.Remask/Generate",
            framed(b""),
            Code::Unimplemented,
            "there is no method /remask.v2.Remask/Generate",
        ),
        (COMPLETIONS, framed(b""), Code::Unimplemented, "send application/json"),
        (GENERATE, long, Code::ResourceExhausted, &*too_large),
        (GENERATE, framed(b"\xff\xff"), Code::InvalidArgument, "the message could not be read: "),
        (GENERATE, Vec::new(), Code::InvalidArgument, "the message could not be read: "),
        (GENERATE, squeezed, Code::InvalidArgument, "compressed-flag"),
        ("/grpc.health.v1.Health/Check", framed(b"\x0a\x04what"), Code::NotFound, "there is no service \"what\""),
    ] {
        let response = raw(&server, path, "application/grpc", body).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"application/grpc".parse().unwrap())
        );
        assert_eq!(response.headers()["x-request-id"], "raw-1", "{path}");
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), code, "{path} {status:?}");
        assert!(status.message().contains(words), "{path} {status:?} lacks {words:?}");
    }
    server.until(&format!("remask_requests_total{{endpoint=\"{GENERATE}\",outcome=\"invalid\"}} 4")).await;
    let request = server.client.post(server.url(GENERATE)).header("content-type", "application/grpc");
    let zipped = request.header("grpc-encoding", "gzip").body(framed(b"")).send().await.unwrap();
    assert_eq!(zipped.headers()["grpc-status"], "12", "as gRPC has it");
    let taken = raw(&server, GENERATE, "application/grpc", fits).await;
    assert!(!taken.headers().contains_key("grpc-status"), "the limit is a limit: {taken:?}");
    for (content_type, code) in [("application/json", 415), ("text/plain", 415), ("application/grpc-web", 415)] {
        let response = raw(&server, GENERATE, content_type, framed(b"")).await;
        assert_eq!(response.status(), code, "{content_type}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("this path speaks gRPC"), "{error}");
    }
    assert_eq!(server.get(GENERATE).await.status(), 405);
}

#[tokio::test]
async fn a_caller_that_cancels_drops_its_sequence() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits::default()).await;
    let mut client = client(&server);
    let long = proto::GenerateRequest { max_tokens: Some(900), ..asked("Once") };
    for (number, call) in [
        Call::Generate(long),
        Call::Infill(template("a<blank:60>")),
        Call::Repair(mended("some text")),
        Call::Score(judged("some text")),
    ]
    .into_iter()
    .enumerate()
    {
        if number > 0 {
            gate.close();
        }
        let method = match call {
            Call::Generate(asked) => {
                let stream = client.generate(asked).await.unwrap();
                gate.reached().await;
                drop(stream);
                "Generate"
            }
            Call::Infill(asked) => {
                let stream = client.infill(asked).await.unwrap();
                gate.reached().await;
                drop(stream);
                "Infill"
            }
            Call::Repair(asked) => {
                let stream = client.repair(asked).await.unwrap();
                gate.reached().await;
                drop(stream);
                "Repair"
            }
            Call::Score(asked) => {
                let mut client = client.clone();
                let waiting = tokio::spawn(async move { client.score(asked).await });
                gate.reached().await;
                waiting.abort();
                "Score"
            }
        };
        let ended = format!("remask_requests_total{{endpoint=\"/remask.v1.Remask/{method}\",outcome=\"cancelled\"}} 1");
        server.until(&ended).await;
        gate.open();
        if method != "Score" {
            // whose only pass may be over before it is seen that nobody waits
            server.until(&format!("remask_sequences_cancelled_total {}", number + 1)).await;
        }
        server.until("remask_sequences_running 0").await;
    }
}

async fn busy() -> (Server, Arc<Gate>) {
    let (model, gate) = Gated::new();
    (Server::of(model, Limits { running_max: 1, queue_max: 0, ..Limits::default() }).await, gate)
}

#[tokio::test]
async fn whoever_cannot_be_served_now_is_told_when() {
    let (server, gate) = busy().await;
    let mut client = client(&server);
    let first = client.generate(asked("a")).await.unwrap();
    let http = server.post(COMPLETIONS, &json!({"prompt": "a"})).await;
    for call in [Call::Generate(asked("a")), Call::Infill(template("<blank>")), Call::Score(judged("a"))] {
        let status = refused(&mut client, call).await;
        assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::ResourceExhausted, Some("queue_full")));
        let seconds: u64 = metadata(&status, "retry-after").unwrap().parse().unwrap();
        assert_eq!(seconds.to_string(), http.headers()["retry-after"].to_str().unwrap());
        assert_eq!(metadata(&status, "grpc-retry-pushback-ms"), Some(&*format!("{}", seconds * 1000)));
    }
    gate.open();
    told(first.into_inner()).await;
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Score\",outcome=\"refused\"} 1").await;

    let loading = Server::loading(BODY_MAX, PATIENCE).await;
    let status = refused(&mut self::client(&loading), Call::Generate(asked("a"))).await;
    assert_eq!((status.code(), metadata(&status, "retry-after")), (Code::Unavailable, Some("5")));
    assert!(status.message().contains("still being loaded"), "{status:?}");
}

#[tokio::test]
async fn a_model_that_fails_amid_a_stream_is_a_status() {
    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 3 }), Limits::default()).await;
    let mut client = client(&server);
    let diffusion = proto::Diffusion { stream_edits: true, ..Default::default() };
    let mut stream = client.generate(diffusing(diffusion)).await.unwrap().into_inner();
    let mut events = 0;
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => events += 1,
            Ok(None) => panic!("no status"),
            Err(status) => break status,
        }
    };
    assert_eq!((events, status.code(), metadata(&status, "remask-code")), (4, Code::Internal, Some("model_failure")));
    assert!(status.message().contains("the device is on fire"), "{status:?}");
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"failed\"} 1").await;
    let status = refused(&mut client, Call::Score(judged("a"))).await;
    assert_eq!(status.code(), Code::Internal);
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Score\",outcome=\"failed\"} 1").await;
}

/// A request that carries this in its metadata.
fn carrying<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in metadata {
        request.metadata_mut().insert(*key, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn keys_open_grpc_too_and_bound_it() {
    let keys = ["first".to_owned(), "busy".to_owned()];
    let guard = Guard::new(&keys, None, Some(1)).unwrap();
    let server = Server::guarded(BODY_MAX, PATIENCE, Access { guard, origins: Vec::new() }).await;
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits::default());
    let mut client = client(&server);
    for (told, opens) in [
        (&[][..], false),
        (&[("authorization", "Bearer first")], true),
        (&[("x-api-key", "first")], true),
        (&[("authorization", "Bearer third")], false),
        (&[("authorization", "Basic first")], false),
    ] {
        let info = client.info(carrying(proto::InfoRequest::default(), told)).await;
        match info {
            Ok(_) => assert!(opens, "{told:?}"),
            Err(status) => {
                assert_eq!((opens, status.code()), (false, Code::Unauthenticated), "{told:?}");
                assert_eq!(metadata(&status, "remask-code"), Some("invalid_api_key"));
                assert!(status.message().contains("Authorization: Bearer KEY"), "{status:?}");
            }
        }
    }
    let status = raw(&server, "/remask.v1.Remask/Nothing", "application/grpc", framed(b"")).await;
    assert_eq!(status.headers()["grpc-status"], "16", "nor do strangers learn what there is");

    let key = [("x-api-key", "busy")];
    let first = client.generate(carrying(asked("a"), &key)).await.unwrap();
    let status = client.generate(carrying(asked("a"), &key)).await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::ResourceExhausted, Some("key_limit")));
    assert_eq!(metadata(&status, "retry-after"), Some("1"));
    gate.open();
    told(first.into_inner()).await;
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"ok\"} 1").await;
    told(client.generate(carrying(asked("a"), &key)).await.unwrap().into_inner()).await;

    let health = HealthClient::new(channel(&server.base)).check(HealthCheckRequest::default()).await;
    assert_eq!(health.unwrap().into_inner().status(), ServingStatus::Serving, "probes have no key");
    assert!(services(&server).await.contains(&"remask.v1.Remask".to_owned()), "nor has reflection");
}

#[tokio::test]
async fn json_of_a_shape_is_what_http_gives() {
    use generate_request::Format;
    let server = Server::toy().await;
    let mut client = client(&server);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yes"]}}});
    let skeleton = json!({"a": "<string:6>", "b": ["<boolean>", 1]});
    for (format, http) in [
        (Format::JsonSchema(schema.to_string()), json!({"type": "json_schema", "json_schema": {"schema": schema}})),
        (Format::JsonSkeleton(skeleton.to_string()), json!({"type": "json_skeleton", "skeleton": skeleton})),
        (Format::JsonObject(proto::JsonObject {}), json!({"type": "json_object"})),
    ] {
        let asked = proto::GenerateRequest { format: Some(format), priority: -1, ..asked("Who?") };
        let (_, steps, done) = told(client.generate(asked).await.unwrap().into_inner()).await;
        let body = json!({"prompt": "Who?", "response_format": http, "priority": -1});
        let whole = server.answer(COMPLETIONS, &body).await;
        assert_eq!(whole["choices"][0]["text"], done.text);
        assert!(serde_json::from_str::<Value>(&done.text).unwrap().is_object(), "{}", done.text);
        assert!(steps.iter().all(|step| step.text.is_empty()) && done.tail == done.text, "told when it is whole");
    }
    let score = proto::ScoreRequest { likelihood: true, ..judged("some text") };
    let tokens = client.score(score).await.unwrap().into_inner().tokens;
    let http = server.answer("/v1/score", &json!({"text": "some text", "likelihood": true})).await;
    let likelihoods = tokens.iter().map(|token| number(token.likelihood));
    assert_eq!(
        list(likelihoods),
        list(http["tokens"].as_array().unwrap().iter().map(|token| token["likelihood"].clone()))
    );
}

#[tokio::test]
async fn a_call_is_stopped_by_its_name_and_has_no_more_time_than_others() {
    let (model, gate) = Gated::new();
    let patience = Patience { timeout: Some(Duration::from_secs(20)), ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    let mut client = client(&server);
    let mut stream = client.generate(carrying(asked("Once"), &[("x-request-id", "g")])).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "the start");
    gate.reached().await;
    let stopped = server.client.delete(server.url("/v1/requests/g")).send().await.unwrap();
    assert_eq!(stopped.status(), 200);
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::Cancelled, Some("cancelled")));
    gate.open();
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Generate\",outcome=\"cancelled\"} 1").await;

    let (model, _gate) = Gated::new();
    let patience = Patience { timeout: Some(Duration::from_millis(30)), ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    let status = self::client(&server).score(judged("a")).await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::DeadlineExceeded, Some("timeout")));
}

#[tokio::test]
async fn a_call_has_the_name_its_caller_gave() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let named = [("x-request-id", "trace-7")];
    let response = client.generate(carrying(asked("a"), &named)).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "trace-7");
    let (start, _, done) = told(response.into_inner()).await;
    assert_eq!((start.id.as_str(), done.id.as_str(), done.model.as_str()), ("trace-7", "trace-7", "toy"));
    let score = client.score(carrying(judged("a"), &named)).await.unwrap();
    assert_eq!(score.into_inner().id, "trace-7");
    let status = client.score(carrying(judged(""), &named)).await.unwrap_err();
    assert_eq!(metadata(&status, "x-request-id"), Some("trace-7"));
    let fresh = client.info(proto::InfoRequest::default()).await.unwrap();
    assert_eq!(fresh.metadata().get("x-request-id").unwrap().len(), 16);
}

#[tokio::test]
async fn health_follows_readiness() {
    const NAMES: [&str; 2] = ["", "remask.v1.Remask"];
    let server = Server::loading(BODY_MAX, PATIENCE).await;
    let mut health = HealthClient::new(channel(&server.base));
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watch = health.watch(ask("remask.v1.Remask")).await.unwrap().into_inner();
    let mut stranger = health.watch(ask("what")).await.unwrap().into_inner();
    let mut next = async || watch.message().await.map(|message| message.unwrap().status());
    assert_eq!(next().await.unwrap(), ServingStatus::NotServing, "loading");
    assert_eq!(stranger.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    for name in NAMES {
        assert_eq!(health.check(ask(name)).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    }
    let (model, gate) = Gated::new();
    server.load(model, Some(toy_tokenizer()), Limits::default());
    assert_eq!(next().await.unwrap(), ServingStatus::Serving);
    for name in NAMES {
        assert_eq!(health.check(ask(name)).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(ask("what")).await.unwrap_err().code(), Code::NotFound);

    let mut client = client(&server);
    let admitted = client.generate(asked("a")).await.unwrap();
    let served = server.stop();
    assert_eq!(next().await.unwrap(), ServingStatus::NotServing, "draining");
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    let status = refused(&mut client, Call::Generate(asked("b"))).await;
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::Unavailable, Some("draining")));
    assert_eq!(next().await.unwrap_err().code(), Code::Unavailable, "a watcher does not keep the server");
    assert_eq!(stranger.message().await.unwrap_err().code(), Code::Unavailable);
    gate.open();
    told(admitted.into_inner()).await;
    served.await.unwrap();

    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 0 }), Limits::default()).await;
    let mut watch = HealthClient::new(channel(&server.base)).watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    for _ in 0..3 {
        refused(&mut self::client(&server), Call::Score(judged("a"))).await;
    }
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing, "failing");
}

/// What reflection lists.
async fn services(server: &Server) -> Vec<String> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(&server.base));
    let answers = client.server_reflection_info(futures_util::stream::iter([ask])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap();
    match answer {
        Some(ServerReflectionResponse {
            message_response: Some(MessageResponse::ListServicesResponse(list)), ..
        }) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reflection_tells_what_there_is_to_old_clients_and_new() {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
    let server = Server::toy().await;
    let mut services = services(&server).await;
    services.sort();
    assert_eq!(services, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "remask.v1.Remask"]);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("remask.v1.Remask".to_owned())),
    };
    let mut client = ServerReflectionClient::new(channel(&server.base));
    let answers = client.server_reflection_info(futures_util::stream::iter([ask])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else { panic!("{answer:?}") };
    let file = &files.file_descriptor_proto[0];
    for word in ["remask.v1", "GenerateRequest", "Repair"] {
        assert!(file.windows(word.len()).any(|bytes| bytes == word.as_bytes()), "{word}");
    }
}

/// A toy whose passes take a while.
struct Slow(Toy);

impl Denoiser for Slow {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Vec<Reading>, ModelError> {
        std::thread::sleep(Duration::from_millis(20));
        self.0.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.0.inspect(ids)
    }
}

/// Sent raw: tonic's client would stop waiting by itself, and the test would be about time.
#[tokio::test]
async fn who_waits_only_so_long_gets_the_best_answer_by_then() {
    let server = Server::of(Box::new(Slow(Toy::new())), Limits::default()).await;
    let ask = async |diffusion: proto::Diffusion, timeout: &str| {
        let asked = proto::GenerateRequest { max_tokens: Some(200), ..diffusing(diffusion) };
        let request = server.client.post(server.url("/remask.v1.Remask/Generate")).header("grpc-timeout", timeout);
        let request = request.header("content-type", "application/grpc").body(framed(&asked.encode_to_vec()));
        let bytes = request.send().await.unwrap().bytes().await.unwrap();
        let (mut rest, mut last) = (&bytes[..], None);
        while let [0, a, b, c, d, body @ ..] = rest {
            let (message, after) = body.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            last = proto::GenerateEvent::decode(message).unwrap().event;
            rest = after;
        }
        let Some(Event::Done(done)) = last else { panic!("{last:?}") };
        done.diffusion.unwrap()
    };
    let hurried = ask(proto::Diffusion::default(), "300m").await;
    assert!(hurried.degraded && hurried.forward_passes <= 15, "{hurried:?}");
    let asked_for =
        ask(proto::Diffusion { deadline_ms: Some(3_600_000), steps: Some(20), ..Default::default() }, "1m").await;
    assert!(!asked_for.degraded, "what a request says itself stands: {asked_for:?}");
}

#[tokio::test]
async fn whose_time_is_up_before_its_turn_is_told() {
    let server = Server::of(Box::new(Slow(Toy::new())), Limits { running_max: 1, ..Limits::default() }).await;
    let mut client = client(&server);
    let long = client.generate(proto::GenerateRequest { max_tokens: Some(400), ..asked("a") }).await.unwrap();
    server.until("remask_sequences_running 1").await;
    let late = diffusing(proto::Diffusion { deadline_ms: Some(50), ..Default::default() });
    let mut late = client.generate(late).await.unwrap().into_inner();
    assert!(matches!(late.message().await.unwrap().unwrap().event, Some(Event::Start(_))));
    let status = late.message().await.unwrap_err();
    assert_eq!((status.code(), metadata(&status, "remask-code")), (Code::DeadlineExceeded, Some("deadline_exceeded")));
    drop(long);
}

#[tokio::test]
async fn grpc_may_have_a_port_of_its_own() {
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (http, grpc) = (bind().await, bind().await);
    let base = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (http_base, grpc_base) = (base(&http), base(&grpc));
    let metrics = Arc::new(Metrics::new().unwrap());
    let state = AppState::new(Arc::clone(&metrics), BODY_MAX, Access::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(Listeners::Two { http, grpc }, state.clone(), shutdown, PATIENCE));
    let handle = start(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default(), metrics).unwrap();
    state.loaded(Service { handle, name: "toy".to_owned(), created: 1 }).unwrap();

    let mut there = RemaskClient::new(channel(&grpc_base));
    let mut elsewhere = RemaskClient::new(channel(&http_base));
    let (_, _, done) = told(there.generate(asked("a")).await.unwrap().into_inner()).await;
    assert!(!done.text.is_empty());
    let status = elsewhere.info(proto::InfoRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let get = async |base: &str| reqwest::get(format!("{base}/v1/models")).await.unwrap();
    assert_eq!(get(&http_base).await.status(), 200);
    let lost = get(&grpc_base).await;
    assert_eq!(lost.status(), 404);
    let error = lost.json::<Value>().await.unwrap()["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("speaks gRPC; the server's other port speaks HTTP"), "{error}");
    drop((there, elsewhere));
    stop.send(()).unwrap();
    served.await.unwrap();
}
