//! gRPC refuses the same requests as HTTP, with the same messages.

use super::calls::{
    COMPLETIONS, Call, INFILL, PATIENCE, REPAIR, SCORE, asked, client, diffusing, framed, judged, mended, metadata,
    raw, refused, template,
};
use super::proto;
use super::proto::{generate_request, proofreading, remasking, unmasking};
use crate::common::server::Server;
use crate::common::toy_tokenizer;
use prost::Message as _;
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// A text of HTTP with the names that fields have in the proto.
fn in_proto(text: &str) -> String {
    let names = [
        ("response_format.json_schema.schema", "json_schema"),
        ("response_format.skeleton", "json_skeleton"),
        ("response_format", "format"),
        ("messages", "chat.messages"),
    ];
    names.iter().fold(text.to_owned(), |text, (http, proto)| text.replace(http, proto))
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
    let frequency = proto::GenerateRequest { frequency_penalty: -3.0, ..a() };
    let repetition = proto::GenerateRequest { repetition_penalty: Some(0.0), ..a() };
    let rows: Vec<(Call, (&str, Value))> = vec![
        (generate(asked("")), completion(json!({"prompt": ""}))),
        (
            format(generate_request::Format::JsonSkeleton("{\"a\": \"<xml>\"}".into())),
            completion(json!({"response_format": {"type": "json_skeleton", "skeleton": {"a": "<xml>"}}})),
        ),
        (
            format(generate_request::Format::JsonSkeleton("[\"<text>\"]".into())),
            completion(json!({"response_format": {"type": "json_skeleton", "skeleton": ["<text>"]}})),
        ),
        (
            format(generate_request::Format::JsonSchema("{\"type\": \"string\", \"pattern\": \"(?=a)\"}".into())),
            completion(
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "(?=a)"}}}}),
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
        (generate(proto::GenerateRequest { top_p: Some(-0.5), ..a() }), completion(json!({"top_p": -0.5}))),
        (generate(proto::GenerateRequest { min_p: Some(1.5), ..a() }), completion(json!({"min_p": 1.5}))),
        (generate(proto::GenerateRequest { presence_penalty: 3.0, ..a() }), completion(json!({"presence_penalty": 3}))),
        (generate(frequency), completion(json!({"frequency_penalty": -3}))),
        (generate(repetition), completion(json!({"repetition_penalty": 0}))),
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
                unmasking: Some(proto::Unmasking { pace: Some(unmasking::Pace::Threshold(1.5)), ..Default::default() }),
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
                hold: None,
                budget: None,
            }))),
            completion(json!({"diffusion": {"remasking": {"policy": "random", "window": [0.5, 0.5]}}})),
        ),
        (
            diffusion(policy(remasking::Policy::Remdm(remasking::ReMdm {
                budget: Some(70_000),
                window: None,
                hold: None,
            }))),
            completion(json!({"diffusion": {"remasking": {"policy": "remdm", "budget": 70_000}}})),
        ),
        (diffusion(rounds(Some(1), None)), completion(json!({"diffusion": {"proofreading": {"steps": 1}}}))),
        (diffusion(rounds(None, Some(2.0))), completion(json!({"diffusion": {"proofreading": {"below": 2}}}))),
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
        (
            Call::Repair(proto::RepairRequest {
                diffusion: Some(proto::Diffusion {
                    unmasking: Some(proto::Unmasking {
                        pace: Some(proto::unmasking::Pace::Threshold(0.5)),
                        ..Default::default()
                    }),
                    ..none()
                }),
                ..mended("abc")
            }),
            (REPAIR, json!({"text": "abc", "diffusion": {"unmasking": {"threshold": 0.5}}})),
        ),
        (
            Call::Repair(proto::RepairRequest { min_p: Some(1.5), ..mended("abc") }),
            (REPAIR, json!({"text": "abc", "min_p": 1.5})),
        ),
        (
            Call::Infill(proto::InfillRequest { top_p: Some(1.5), ..template("<blank>") }),
            (INFILL, json!({"template": "<blank>", "top_p": 1.5})),
        ),
    ];
    for (call, (path, body)) in rows {
        let response = server.post(path, &body).await;
        let http_status = response.status().as_u16();
        let http = response.json::<Value>().await.unwrap()["error"].clone();
        let code = if http_status == 404 { Code::NotFound } else { Code::InvalidArgument };
        let status = refused(&mut client, call).await;
        let in_proto = |text: &Value| text.as_str().map(in_proto);
        assert_eq!((status.code(), Some(status.message().to_owned())), (code, in_proto(&http["message"])), "{body}");
        assert_eq!(metadata(&status, "remask-param").map(str::to_owned), in_proto(&http["param"]), "{body}");
        assert_eq!(json!(metadata(&status, "remask-code")), http["code"], "{body}");
    }
    server.until("remask_requests_total{endpoint=\"/remask.v1.Remask/Score\",outcome=\"invalid\"} 3").await;
}

/// Faults that have no equivalent in JSON.
/// A status is sent in headers, which a long one would break.
#[tokio::test]
async fn a_long_value_is_repeated_in_part() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let long = || "x".repeat(1 << 20);
    for (call, words) in [
        (Call::Generate(proto::GenerateRequest { model: long(), ..asked("a") }), "the model \"xxx"),
        (Call::Infill(proto::InfillRequest { blank: Some(long()), ..template("a") }), "the template holds no \"xxx"),
        (Call::Generate(asked(&long())), "the prompt has 1048576 bytes"),
        (
            Call::Generate(proto::GenerateRequest {
                format: Some(generate_request::Format::JsonSkeleton(format!("[\"<{}>\"]", "x".repeat(100_000)))),
                ..asked("a")
            }),
            "<xxx",
        ),
    ] {
        let status = refused(&mut client, call).await;
        assert!(status.message().contains(words) && status.message().len() < 700, "{status:?}");
    }
}

#[tokio::test]
async fn what_is_left_out_or_unknown_is_named() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let unmasking = proto::Unmasking { order: 99, ..Default::default() };
    let rows: Vec<(Call, &str, &str)> = vec![
        (
            Call::Generate(proto::GenerateRequest::default()),
            "prompt",
            "prompt is missing; give a text, token ids, or a chat",
        ),
        (
            Call::Generate(proto::GenerateRequest {
                format: Some(generate_request::Format::JsonSchema("{\"type\": \"x\"}".into())),
                ..asked("a")
            }),
            "json_schema.type",
            "json_schema.type: given \"x\"; give object, array",
        ),
        (
            Call::Generate(proto::GenerateRequest {
                format: Some(generate_request::Format::JsonSchema("{".into())),
                ..asked("a")
            }),
            "json_schema",
            "json_schema: not valid JSON",
        ),
        (
            Call::Generate(proto::GenerateRequest {
                format: Some(generate_request::Format::JsonSkeleton("\"<xml>\"".into())),
                ..asked("a")
            }),
            "json_skeleton",
            "json_skeleton: <xml> is none of",
        ),
        (
            Call::Generate(proto::GenerateRequest {
                format: Some(generate_request::Format::JsonObject(proto::JsonObject {})),
                stop: vec!["x".to_owned()],
                ..asked("a")
            }),
            "stop",
            "stop does not go with a format: the answer ends",
        ),
        (
            Call::Generate(proto::GenerateRequest {
                prompt: Some(generate_request::Prompt::Chat(proto::Chat {
                    messages: vec![proto::Message { role: "bot".into(), content: "a".into() }],
                })),
                ..asked("a")
            }),
            "chat.messages[0].role",
            "chat.messages[0].role: \"bot\" is no role",
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
            "give one of off, quality, confidence, remdm, random and rule",
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
            "temperature is NaN; give a number from 0 to 3.4e38",
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
    taken.bytes().await.unwrap(); // to its end: until then its id is in use
    for (content_type, code) in [("application/json", 415), ("text/plain", 415), ("application/grpc-web", 415)] {
        let response = raw(&server, GENERATE, content_type, framed(b"")).await;
        assert_eq!(response.status(), code, "{content_type}");
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        assert!(error["message"].as_str().unwrap().contains("this path speaks gRPC"), "{error}");
    }
    assert_eq!(server.get(GENERATE).await.status(), 405);
}
