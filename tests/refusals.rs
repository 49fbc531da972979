//! Every kind of refused request: the status, the field at fault and a part of the message. One
//! table, one check.

mod common;

use common::server::Server;
use remask::engine::Limits;
use remask::model::Toy;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::time::Duration;

const USER: &str = "invalid_request_error";

/// Checks that a response is OpenAI's error object with these words in its message.
async fn check(what: &str, response: Response, status: u16, param: Option<&str>, code: Option<&str>, words: &str) {
    assert_eq!(response.status(), status, "{what}");
    assert_eq!(response.headers()["content-type"], "application/json", "{what}");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    let error = &body["error"];
    assert_eq!((body.as_object().unwrap().len(), &body["request_id"]), (2, &json!(id)), "{what}");
    assert_eq!(error.as_object().unwrap().len(), 4, "{what}: {body}");
    assert_eq!(
        (&error["type"], &error["param"], &error["code"]),
        (&json!(USER), &json!(param), &json!(code)),
        "{what}: {body}"
    );
    assert!(error["message"].as_str().unwrap().contains(words), "{what}: {body} lacks {words:?}");
}

/// The code of a field's error that says these words.
fn code_of(words: &str) -> Option<&'static str> {
    let is_too_long =
        ["does not fit", "the canvas "].iter().any(|part| words.contains(part)) || words.ends_with("1023");
    is_too_long.then_some("context_length_exceeded")
}

#[tokio::test]
async fn a_field_at_fault_is_named_with_what_is_allowed() {
    let server = Server::toy().await;
    let rows: &[(&str, &str, &str)] = &[
        (r#"{}"#, "prompt", "prompt is missing; give a string"),
        (r#"{"prompt": null}"#, "prompt", "prompt is missing"),
        (r#"{"prompt": ""}"#, "prompt", "the prompt is empty"),
        (r#"{"prompt": []}"#, "prompt", "the prompt is empty"),
        (r#"{"prompt": 5}"#, "prompt", "prompt: given 5; give a string, an array of token ids"),
        (r#"{"prompt": [1, -1]}"#, "prompt", "given -1 at [1]; give a string, an array of token ids"),
        (r#"{"prompt": [1, 1.5]}"#, "prompt", "give a string, an array of token ids"),
        (r#"{"prompt": [1, 4294967296]}"#, "prompt", "give a string, an array of token ids"),
        (r#"{"prompt": [1, "a"]}"#, "prompt", "given \"a\" at [1]; give a string, an array of token ids"),
        (r#"{"prompt": [1, 300]}"#, "prompt", "token 1 of the prompt is 300; ids are below 258"),
        (r#"{"prompt": [256]}"#, "prompt", "may not be the mask, 256"),
        (r#"{"prompt": ["a", ""]}"#, "prompt", "the prompt is empty"),
        (r#"{"prompt": [[1], [300]]}"#, "prompt", "token 0 of the prompt is 300"),
        (r#"{"prompt": "a", "prompt": "b"}"#, "prompt", "duplicate field"),
        (
            r#"{"prompt": "a", "max_token": 5}"#,
            "max_token",
            "unknown field `max_token`, expected one of `model`, `prompt`, `max_tokens`",
        ),
        (r#"{"prompt": "a", "max_tokens": 0}"#, "max_tokens", "ask for at least 1"),
        (
            r#"{"prompt": "a", "max_tokens": -2}"#,
            "max_tokens",
            "given -2; give a whole number from 1 to the room that the prompt leaves",
        ),
        (r#"{"prompt": "a", "max_tokens": 1.5}"#, "max_tokens", "given 1.5; give a whole number"),
        (r#"{"prompt": "a", "max_tokens": "9"}"#, "max_tokens", "given \"9\", a string; give a whole number"),
        (r#"{"prompt": "a", "max_tokens": 99999999999}"#, "max_tokens", "given 99999999999; give a whole number"),
        (r#"{"prompt": "a", "max_tokens": 1024}"#, "max_tokens", "ask for at most 1023"),
        (r#"{"prompt": "a", "temperature": -0.1}"#, "temperature", "temperature is -0.1"),
        (r#"{"prompt": "a", "temperature": 1e39}"#, "temperature", "give a number from 0 to 3.4e38"),
        (r#"{"prompt": "a", "temperature": 1e999}"#, "temperature", "not valid JSON: number out of range"),
        (r#"{"prompt": "a", "temperature": NaN}"#, "temperature", "not valid JSON: expected value"),
        (r#"{"prompt": "a", "temperature": [1]}"#, "temperature", "given [1]; give a number"),
        (r#"{"prompt": "a", "seed": 18446744073709551616}"#, "seed", "give a whole number of 64 bits"),
        (r#"{"prompt": "a", "seed": 0.5}"#, "seed", "given 0.5"),
        (r#"{"prompt": "a", "stop": 3}"#, "stop", "given 3; give a string or an array of strings"),
        (r#"{"prompt": "a", "stop": ""}"#, "stop", "stop has an empty string, which would end every answer at once"),
        (r#"{"prompt": "a", "stream": "yes"}"#, "stream", "given \"yes\"; give true or false"),
        (
            r#"{"prompt": "a", "stream_options": {"include_usage": true}}"#,
            "stream_options",
            "goes only with \"stream\": true",
        ),
        (
            r#"{"prompt": "a", "stream": true, "stream_options": {"usage": true}}"#,
            "stream_options.usage",
            "expected one of `include_usage`",
        ),
        (r#"{"prompt": "a", "n": 0}"#, "n", "n: given 0; give a whole number from 1 to 128"),
        (
            r#"{"prompt": ["a", "b"], "n": 65}"#,
            "n",
            "given 65 for each of 2 prompts, which are 130 choices; a request has at most 128: give an n of at most 64",
        ),
        (r#"{"prompt": "a", "n": -1}"#, "n", "given -1; give a whole number from 1 to 128"),
        (r#"{"prompt": "a", "best_of": 3}"#, "best_of", "only 1"),
        (r#"{"prompt": "a", "top_p": -0.5}"#, "top_p", "top_p is -0.5; give a number from 0 to 1"),
        (r#"{"prompt": "a", "top_p": 1.5}"#, "top_p", "top_p is 1.5"),
        (r#"{"prompt": "a", "min_p": 1.5}"#, "min_p", "min_p is 1.5; give a number from 0 to 1"),
        (r#"{"prompt": "a", "top_k": -2}"#, "top_k", "given -2; give a whole number from 1"),
        (r#"{"prompt": "a", "top_k": 1.5}"#, "top_k", "given 1.5; give a whole number"),
        (r#"{"prompt": "a", "top_k": 1e6}"#, "top_k", "top_k is 1000000; give 1 to 65536"),
        (r#"{"prompt": "a", "presence_penalty": 2.5}"#, "presence_penalty", "is 2.5; give a number from -2 to 2"),
        (
            r#"{"prompt": "a", "repetition_penalty": 0}"#,
            "repetition_penalty",
            "is 0; give a number from 0.01 to 100, 1 for none",
        ),
        (r#"{"prompt": "a", "frequency_penalty": "a"}"#, "frequency_penalty", "give a number from -2 to 2"),
        (r#"{"prompt": "a", "logprobs": 5}"#, "logprobs", "given 5; give 0 or 1"),
        (r#"{"prompt": "a", "echo": 1}"#, "echo", "given 1; give true or false"),
        (r#"{"prompt": "a", "suffix": "b", "max_tokens": 0}"#, "max_tokens", "ask for at least 1"),
        (r#"{"prompt": "a", "suffix": "b"}"#, "max_tokens", "max_tokens is missing; give the number of tokens between"),
        (r#"{"prompt": [1], "suffix": "b", "max_tokens": 3}"#, "suffix", "goes with a prompt that is a text"),
        (r#"{"prompt": "a", "suffix": "b", "max_tokens": 3, "stop": ["x", ""]}"#, "stop", "an empty string"),
        (
            r#"{"prompt": "a", "suffix": "b", "max_tokens": 1023}"#,
            "max_tokens",
            "1023 does not fit: prompt and suffix have 2 tokens",
        ),
        (r#"{"prompt": "a", "logit_bias": {"x": 1}}"#, "logit_bias.x", "\"x\" is no token id"),
        (r#"{"prompt": "a", "logit_bias": {"300": 1}}"#, "logit_bias", "is 300; ids are below 258"),
        (r#"{"prompt": "a", "logit_bias": {"5": 101}}"#, "logit_bias", "of token 5 is 101; give -100 to 100"),
        (r#"{"prompt": "a", "stop_token_ids": [999]}"#, "stop_token_ids", "is 999; ids are below 258"),
        (
            r#"{"prompt": "a", "response_format": {"type": "json_object"}, "max_tokens": 1}"#,
            "response_format",
            "an object takes at least 2 tokens",
        ),
        (r#"{"prompt": "a", "tool_choice": "required"}"#, "tool_choice", "only \"none\" and \"auto\" are"),
        (r#"{"prompt": "a", "tools": [{}]}"#, "tools", "only [] and {} are supported"),
        (r#"{"prompt": "a", "model": 3}"#, "model", "given 3; give a string"),
        (r#"{"prompt": "a", "diffusion": 3}"#, "diffusion", "; give an object"),
        (r#"{"prompt": "a", "diffusion": [8]}"#, "diffusion", "; give an object"),
        (
            r#"{"prompt": "a", "diffusion": {"stesp": 8}}"#,
            "diffusion.stesp",
            "expected one of `preset`, `steps`, `block_length`, `unmasking`",
        ),
        (r#"{"prompt": "a", "diffusion": {"steps": 0}}"#, "diffusion.steps", "steps is 0; give 1 to 65536"),
        (r#"{"prompt": "a", "diffusion": {"steps": -1}}"#, "diffusion.steps", "diffusion.steps: given -1"),
        (r#"{"prompt": "a", "diffusion": {"steps": 70000}}"#, "diffusion.steps", "steps is 70000; give 1 to 65536"),
        (r#"{"prompt": "a", "diffusion": {"block_length": 0}}"#, "diffusion.block_length", "give at least 1"),
        (r#"{"prompt": "a", "diffusion": {"cfg_scale": -1}}"#, "diffusion.cfg_scale", "a number from 0 to 100"),
        (r#"{"prompt": "a", "diffusion": {"cfg_scale": 3e38}}"#, "diffusion.cfg_scale", "a number from 0 to 100"),
        (
            r#"{"prompt": "a", "diffusion": {"unmasking": "best"}}"#,
            "diffusion.unmasking",
            "unknown variant `best`, expected one of `confidence`, `margin`",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"unmasking": 3}}"#,
            "diffusion.unmasking",
            "given 3; give one of `confidence`, `margin`",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"unmasking": {"threshold": 1.5}}}"#,
            "diffusion.unmasking.threshold",
            "from 0 to 1",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"unmasking": {"speed": 1.5}}}"#,
            "diffusion.unmasking.speed",
            "expected one of `order`, `credit`, `credit_decay`",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": "worst"}}"#,
            "diffusion.remasking",
            "expected one of `off`, `quality`, `exact`, `confidence`, `present`",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"budget": 1}}}"#,
            "diffusion.remasking",
            "missing field `policy`, expected one of `off`",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "remdm", "below": 0.5}}}"#,
            "diffusion.remasking.below",
            "with \"remdm\" give budget, window and hold",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "confidence", "below": 1.5}}}"#,
            "diffusion.remasking.below",
            "from 0 to 1",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "random", "below": 0.5}}}"#,
            "diffusion.remasking.below",
            "goes with the policies \"quality\", \"exact\", \"confidence\", \"present\"",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "off", "budget": 1}}}"#,
            "diffusion.remasking.budget",
            "\"off\" takes no knobs",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "quality", "below": 2}}}"#,
            "diffusion.remasking.below",
            "from 0 to 1",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "quality", "window": [0, 0.5, 1]}}}"#,
            "diffusion.remasking.window",
            "given an array of 3; give two numbers from 0 to 1",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"remasking": {"policy": "quality", "window": [0.5, 0.5]}}}"#,
            "diffusion.remasking.window",
            "its end must lie after its start",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"stream_edits": true}}"#,
            "diffusion.stream_edits",
            "goes only with \"stream\": true",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"proofreading": {"steps": 1}}}"#,
            "diffusion.proofreading.steps",
            "one to erase, one to write",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"proofreading": {"steps": 9, "below": 2}}}"#,
            "diffusion.proofreading.below",
            "from 0 to 1",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"proofreading": {"steps": 9, "temperature": -1}}}"#,
            "diffusion.proofreading.temperature",
            "a number from 0 to 3.4e38",
        ),
        (
            r#"{"prompt": "a", "diffusion": {"end_of_text": "soon"}}"#,
            "diffusion.end_of_text",
            "expected one of `free`, `last`, `never`",
        ),
        (r#"{"prompt": "a", "diffusion": {"end_of_text": 5}}"#, "diffusion.end_of_text", "give one of `free`, `last`"),
        (r#"{"prompt": "a", "diffusion": {"unmasking": {"order": 5}}}"#, "diffusion.unmasking.order", "one of"),
        (r#"{"prompt": "a", "diffusion": {"proofreading": "so"}}"#, "diffusion.proofreading", "expected `off` or `on`"),
        (
            r#"{"prompt": "a", "diffusion": {"proofreading": 9}}"#,
            "diffusion.proofreading",
            "`off` or `on`, or an object",
        ),
        (r#"{"prompt": "a", "diffusion": {"cache": "all"}}"#, "diffusion.cache", "one of `off`, `prefix`, `dual`"),
        (
            r#"{"prompt": "a", "diffusion": {"deadline_ms": 0}}"#,
            "diffusion.deadline_ms",
            "deadline_ms is 0; give at least 1",
        ),
    ];
    for (body, param, words) in rows {
        let response = server.client.post(server.url("/v1/completions")).body(*body).send().await.unwrap();
        check(body, response, 400, Some(*param), code_of(words), words).await;
    }
    let rows: &[(&str, &str, &str)] = &[
        (r#"{}"#, "template", "give a text with \"<blank>\" for each cell to fill"),
        (r#"{"template": "full"}"#, "template", "holds no \"<blank>\""),
        (r#"{"template": "<blank:2000>"}"#, "template", "takes 2000 cells; the canvas has 1024"),
        (r#"{"template": "<|mask|> <blank>", "blank": ""}"#, "blank", "blank is empty"),
        (
            r#"{"template": "<blank>", "stop": "a"}"#,
            "stop",
            "unknown field `stop`, expected one of `model`, `template`, `blank`",
        ),
        (r#"{"template": "<blank>", "max_tokens": 3}"#, "max_tokens", "unknown field"),
        (r#"{"template": "<blank>", "diffusion": {"stream_edits": true}}"#, "diffusion.stream_edits", "goes only with"),
    ];
    for (body, param, words) in rows {
        let response = server.client.post(server.url("/v1/infill")).body(*body).send().await.unwrap();
        check(body, response, 400, Some(*param), code_of(words), words).await;
    }
    server.until("remask_requests_total{endpoint=\"/v1/infill\",outcome=\"invalid\"} 7").await;
}

/// Method, path, body; status, field, code, words.
type Row = (&'static str, &'static str, &'static str, u16, Option<&'static str>, Option<&'static str>, &'static str);

#[tokio::test]
async fn what_is_no_request_is_answered_all_the_same() {
    let server = Server::toy().await;
    let rows: &[Row] = &[
        ("POST", "/v1/completions", "", 400, None, None, "the body is empty; send a JSON object"),
        (
            "POST",
            "/v1/completions",
            "prompt=hello",
            400,
            None,
            None,
            "the body is not valid JSON: expected value at line 1",
        ),
        ("POST", "/v1/completions", "{\"prompt\": \"a\"", 400, None, None, "not valid JSON: EOF while parsing"),
        ("POST", "/v1/completions", "{\"prompt\": \"a\"} {}", 400, None, None, "trailing characters"),
        ("POST", "/v1/completions", "[null, \"a\"]", 400, None, None, "the body is an array; send a JSON object"),
        ("POST", "/v1/completions", "\"hello\"", 400, None, None, "given \"hello\"; give a JSON object"),
        (
            "POST",
            "/v1/completions",
            r#"{"prompt": "a", "model": "gpt"}"#,
            404,
            Some("model"),
            Some("model_not_found"),
            "this server serves \"toy\"",
        ),
        (
            "POST",
            "/v1/infill",
            r#"{"template": "<blank>", "model": "gpt"}"#,
            404,
            Some("model"),
            Some("model_not_found"),
            "\"gpt\" does not exist",
        ),
        ("GET", "/v1/models/gpt/4", "", 404, Some("model"), Some("model_not_found"), "\"gpt/4\" does not exist"),
        ("GET", "/v1/models/%ff", "", 404, Some("model"), Some("model_not_found"), "does not exist"),
        (
            "GET",
            "/v1/nothing",
            "",
            404,
            None,
            Some("unknown_url"),
            "there is no GET /v1/nothing; this server knows POST /v1/completions",
        ),
        ("POST", "/v1/embeddings", "{}", 404, None, Some("unknown_url"), "there is no POST /v1/embeddings"),
        ("GET", "/v1/completions/", "", 405, None, Some("method_not_supported"), "/v1/completions does not take GET"),
        ("GET", "/v1/completions", "", 405, None, Some("method_not_supported"), "does not take GET"),
        ("DELETE", "/v1/models/toy", "", 405, None, Some("method_not_supported"), "does not take DELETE"),
        ("POST", "/metrics", "", 405, None, Some("method_not_supported"), "does not take POST"),
    ];
    for (method, path, body, status, param, code, words) in rows {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let response = server.client.request(method, server.url(path)).body(*body).send().await.unwrap();
        if *status == 405 {
            let allowed = response.headers()["allow"].to_str().unwrap();
            assert!(["POST", "GET,HEAD"].contains(&allowed), "{path}: {allowed}");
        }
        check(&format!("{path} {body}"), response, *status, *param, *code, words).await;
    }
    server.until("remask_requests_total{endpoint=\"other\",outcome=\"invalid\"} 2").await;
}

#[tokio::test]
async fn a_body_that_is_plainly_not_json_is_refused() {
    let server = Server::toy().await;
    let sent = async |name: &str, value: &str| {
        let request = server.client.post(server.url("/v1/completions")).header(name, value);
        request.body("{\"prompt\": \"a\", \"max_tokens\": 2}").send().await.unwrap()
    };
    for media_type in ["text/xml", "multipart/form-data; boundary=x", "image/png"] {
        let response = sent("content-type", media_type).await;
        check(media_type, response, 415, None, Some("unsupported_media_type"), "send application/json").await;
    }
    check("gzip", sent("content-encoding", "gzip").await, 415, None, Some("unsupported_media_type"), "uncompressed")
        .await;
    for media_type in
        ["application/json; charset=utf-8", "Application/JSON", "text/plain;charset=UTF-8", "application/x+json"]
    {
        assert_eq!(sent("content-type", media_type).await.status(), 200, "{media_type}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read_to_its_end() {
    let server = Server::loading(64, Duration::ZERO).await;
    server.load(Box::new(Toy::new()), Some(common::toy_tokenizer()), Limits::default());
    let fits = "{\"prompt\": \"a\", \"max_tokens\": 2}";
    assert_eq!(server.client.post(server.url("/v1/completions")).body(fits).send().await.unwrap().status(), 200);
    let long = json!({"prompt": "a".repeat(64)}).to_string();
    let pieces = futures_util::stream::iter(
        long.clone().into_bytes().into_iter().map(|byte| Ok::<_, std::io::Error>(vec![byte])),
    );
    for (what, body) in [("declared", reqwest::Body::from(long)), ("in pieces", reqwest::Body::wrap_stream(pieces))] {
        let response = server.client.post(server.url("/v1/completions")).body(body).send().await.unwrap();
        check(what, response, 413, None, Some("body_too_large"), "larger than 64 bytes").await;
    }
}

#[tokio::test]
async fn quality_without_a_head_is_refused() {
    let server = Server::of(Box::new(Toy::without_head()), Limits::default()).await;
    for (diffusion, param) in [
        (json!({"remasking": "quality"}), "diffusion.remasking"),
        (json!({"proofreading": {"steps": 8}}), "diffusion.proofreading"),
        (json!({"return_quality": true}), "diffusion.return_quality"),
    ] {
        let response = server.post("/v1/completions", &json!({"prompt": "a", "diffusion": diffusion})).await;
        check(param, response, 400, Some(param), None, "needs a quality head").await;
    }
    let answer = server.answer("/v1/completions", &json!({"prompt": "a", "max_tokens": 20})).await;
    assert_eq!(answer["diffusion"]["erased"], 0, "off by default");
}
