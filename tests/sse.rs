//! Streams: their deltas joined and their edits replayed give the whole answer; and what happens
//! when either side disconnects.

mod common;

use common::server::{Failing, Gated, Server, SseEvent, events};
use remask::api::Patience;
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const INFILL: &str = "/v1/infill";
/// Prompts for which the toy writes different sentences, two of them with characters of several
/// bytes.
const PROMPTS: [&str; 8] = ["Once", "a", "b", "c", "d", "ü 🍰", "twice", "thrice"];

/// `body` with these fields added.
fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    let Value::Object(more) = more else { panic!("{more} is no object") };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// The joined deltas of OpenAI's chunks, and the chunks. Checks that they end as they should.
fn concatenated(events: &[SseEvent]) -> (String, Vec<Value>) {
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last.data, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(SseEvent::json).collect();
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    (text, chunks)
}

/// The canvas that begins as `tokens` after the edits of `step`; each edit must fit its cell.
fn replay(tokens: &mut [Option<u64>], step: &Value) {
    for edit in step["edits"].as_array().unwrap() {
        let cell = &mut tokens[usize::try_from(edit["at"].as_u64().unwrap()).unwrap()];
        match edit["kind"].as_str().unwrap() {
            "fill" => {
                assert_eq!(*cell, None, "{edit}");
                assert!(edit["text"].is_string() && edit["confidence"].is_f64(), "{edit}");
                *cell = edit["token"].as_u64();
            }
            "erase" => {
                assert_eq!(*cell, edit["was"].as_u64(), "{edit}");
                *cell = None;
            }
            "replace" => {
                assert_eq!(*cell, edit["was"].as_u64(), "{edit}");
                assert!(edit["text"].is_string() && edit["confidence"].is_f64(), "{edit}");
                *cell = edit["token"].as_u64();
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(step["blanks"], tokens.iter().filter(|cell| cell.is_none()).count());
}

#[tokio::test]
async fn concatenated_deltas_are_the_answer_in_one_piece() {
    let server = Server::toy().await;
    let (mut multibyte, mut several) = (0, 0);
    for prompt in PROMPTS {
        for (block_length, temperature, stop) in [(5, 0.0, ""), (7, 1.0, ""), (8, 0.0, "over"), (16, 0.5, "é")] {
            let body = json!({"prompt": prompt, "max_tokens": 70, "seed": 11, "temperature": temperature,
                              "diffusion": {"block_length": block_length}});
            let body = if stop.is_empty() { body } else { with(&body, json!({"stop": stop})) };
            let whole = server.answer(COMPLETIONS, &body).await;
            let events = server.events(COMPLETIONS, &with(&body, json!({"stream": true}))).await;
            let (text, chunks) = concatenated(&events);
            assert_eq!(text, whole["choices"][0]["text"].as_str().unwrap(), "{body}");
            let (last, before) = chunks.split_last().unwrap();
            assert_eq!(last["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
            assert_eq!(last["diffusion"], whole["diffusion"]);
            for chunk in before {
                assert_eq!(chunk["object"], "text_completion");
                assert_eq!((&chunk["id"], &chunk["created"]), (&last["id"], &last["created"]));
                assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null);
                assert!(chunk.get("usage").is_none(), "not asked for");
            }
            multibyte += usize::from(!text.is_ascii());
            several += usize::from(before.len() > 1);
        }
    }
    assert!(multibyte > 3 && several > 3, "{multibyte} answers with long characters, {several} in several pieces");
}

#[tokio::test]
async fn replayed_edits_are_the_tokens_of_a_completion() {
    let server = Server::toy().await;
    let mut erasures = 0;
    for (number, prompt) in PROMPTS.into_iter().enumerate() {
        let body = json!({
            "prompt": prompt, "max_tokens": 64, "seed": number, "temperature": 0.5, "stream": true,
            "stream_options": {"include_usage": true},
            "diffusion": {"stream_edits": true, "return_quality": true, "steps": 40, "block_length": 16,
                          "unmasking": "random"}, // in order of confidence the toy seldom makes mistakes
        });
        let (text, chunks) = concatenated(&server.events(COMPLETIONS, &body).await);
        let (usage, chunks) = chunks.split_last().unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
        let (last, chunks) = chunks.split_last().unwrap();

        let steps: Vec<&Value> = chunks.iter().filter_map(|chunk| chunk.get("diffusion")).collect();
        assert_eq!(steps[0]["canvas_length"], 64);
        assert!(steps[1..].iter().all(|step| step.get("canvas_length").is_none()));
        let mut canvas = vec![None; 64];
        for step in &steps {
            assert_eq!((&step["index"], &step["steps_planned"]), (&json!(0), &json!(40)));
            erasures += step["edits"].as_array().unwrap().iter().filter(|edit| edit["kind"] == "erase").count();
            replay(&mut canvas, step);
        }
        assert!(steps.windows(2).all(|pair| pair[0]["step"].as_u64() < pair[1]["step"].as_u64()));
        let length = usize::try_from(usage["usage"]["completion_tokens"].as_u64().unwrap()).unwrap();
        assert_eq!(json!(canvas[..length]), last["choices"][0]["quality"]["token_ids"]);
        let bytes: Vec<u8> = canvas[..length].iter().map(|token| u8::try_from(token.unwrap()).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), text, "the toy's tokens are bytes");
    }
    assert!(erasures > 0, "nothing was ever erased");
}

#[tokio::test]
async fn replayed_edits_are_the_grid_of_a_sudoku() {
    let puzzle = format!("53..7....{}", "\n.........".repeat(8)); // so few clues that cells filled together contradict each other
    let server = Server::sudoku().await;
    let mut erasures = 0;
    for temperature in [0.0, 1.0] {
        let body = json!({"template": puzzle, "blank": ".", "seed": 3, "temperature": temperature,
                          "diffusion": {"steps": 20, "unmasking": "random"}});
        let whole = server.answer(INFILL, &body).await;
        let events = server.events(INFILL, &with(&body, json!({"stream": true}))).await;
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!((names[0], names[names.len() - 1]), ("start", "done"));
        assert!(names[1..names.len() - 1].iter().all(|name| *name == "step"));
        let request = events[0].id.split_once(':').unwrap().0;
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event.id, format!("{request}:{number}"));
        }
        let start = events[0].json();
        let mut canvas = vec![None; usize::try_from(start["canvas_length"].as_u64().unwrap()).unwrap()];
        for pinned in start["pinned"].as_array().unwrap() {
            let at = usize::try_from(pinned["at"].as_u64().unwrap()).unwrap();
            assert_eq!(pinned["text"], puzzle[at..=at]);
            canvas[at] = pinned["token"].as_u64();
        }
        for step in events.iter().filter(|event| event.name == "step").map(SseEvent::json) {
            erasures += step["edits"].as_array().unwrap().iter().filter(|edit| edit["kind"] == "erase").count();
            replay(&mut canvas, &step);
        }
        let symbol = |token: &Option<u64>| char::from(b".123456789\n"[usize::try_from(token.unwrap()).unwrap()]);
        let done = events.last().unwrap().json();
        assert_eq!(done["choices"][0]["text"], canvas.iter().map(symbol).collect::<String>());
        assert_eq!((&done["choices"], &done["usage"]), (&whole["choices"], &whole["usage"]));
        assert_eq!((&done["diffusion"], &done["object"]), (&whole["diffusion"], &whole["object"]));
    }
    assert!(erasures > 0, "nothing was ever erased");
}

#[tokio::test]
async fn replayed_edits_of_a_repair_are_its_text() {
    let server = Server::sudoku().await;
    let given = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286177";
    let body = json!({"text": given, "pinned": [[0, 20]], "stream": true});
    let events = server.events("/v1/repair", &body).await;
    let start = events[0].json();
    let mut canvas = vec![None; usize::try_from(start["canvas_length"].as_u64().unwrap()).unwrap()];
    for (cells, range) in [("pinned", 0..20), ("given", 20..given.len())] {
        let cells = start[cells].as_array().unwrap();
        assert_eq!(cells.len(), range.len());
        for (cell, at) in cells.iter().zip(range) {
            assert_eq!((&cell["at"], &cell["text"]), (&json!(at), &json!(given[at..=at])));
            canvas[at] = cell["token"].as_u64();
        }
    }
    for step in events.iter().filter(|event| event.name == "step").map(SseEvent::json) {
        replay(&mut canvas, &step);
    }
    let symbol = |token: &Option<u64>| char::from(b".123456789\n"[usize::try_from(token.unwrap()).unwrap()]);
    let text: String = canvas.iter().map(symbol).collect();
    assert!(text == events.last().unwrap().json()["text"] && text != given, "{text}");
}

#[tokio::test]
async fn replayed_replacements_are_the_answer_and_are_counted() {
    let server = Server::toy().await;
    let mut all = 0;
    for seed in 0..3 {
        let remasking = json!({"policy": "token_editing", "above": 0.4, "budget": 30});
        let body = json!({"template": "Once<blank:50>.", "seed": seed, "temperature": 1.5, "stream": true,
                          "diffusion": {"steps": 16, "unmasking": "random", "remasking": remasking}});
        let events = server.events(INFILL, &body).await;
        let start = events[0].json();
        let mut canvas = vec![None; usize::try_from(start["canvas_length"].as_u64().unwrap()).unwrap()];
        for pinned in start["pinned"].as_array().unwrap() {
            canvas[usize::try_from(pinned["at"].as_u64().unwrap()).unwrap()] = pinned["token"].as_u64();
        }
        let mut replaced = 0;
        for step in events.iter().filter(|event| event.name == "step").map(SseEvent::json) {
            replaced += step["edits"].as_array().unwrap().iter().filter(|edit| edit["kind"] == "replace").count();
            replay(&mut canvas, &step);
        }
        let done = events.last().unwrap().json();
        let bytes: Vec<u8> = canvas.iter().map(|token| u8::try_from(token.unwrap()).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), done["choices"][0]["text"].as_str().unwrap());
        let counts = &done["diffusion"];
        assert_eq!(
            (&counts["replaced"], &counts["erased"], &counts["filled"]),
            (&json!(replaced), &json!(0), &json!(50))
        );
        all += replaced;
    }
    assert!(all > 3, "{all} tokens were replaced");
    server.until(&format!("remask_cells_replaced_total{{model=\"toy\",policy=\"token_editing\"}} {all}")).await;
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(
        !metrics.contains("remask_cells_erased_total{model=\"toy\",policy=\"token_editing\"}"),
        "it erases nothing"
    );
    server.until(&format!("remask_fill_confidence_count{{model=\"toy\"}} {}", 150 + all)).await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_sequence() {
    let (model, gate) = Gated::new();
    let patience = Patience { resume: Duration::ZERO, ..Patience::DEFAULT };
    let server = Server::patient(model, Limits::default(), patience).await;
    for (number, (path, body)) in [
        (COMPLETIONS, json!({"prompt": "Once", "stream": true})),
        (INFILL, json!({"template": "a<blank:60>", "stream": true})),
    ]
    .into_iter()
    .enumerate()
    {
        if number > 0 {
            gate.close();
        }
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 200);
        gate.reached().await;
        drop(response);
        server.until(&format!("remask_requests_total{{endpoint=\"{path}\",outcome=\"cancelled\"}} 1")).await;
        gate.open();
        server.until(&format!("remask_sequences_cancelled_total{{model=\"toy\"}} {}", number + 1)).await;
        server.until("remask_sequences_running{device=\"cpu\",model=\"toy\"} 0").await;
    }
}

#[tokio::test]
async fn a_model_that_fails_amid_a_stream_is_told_in_the_stream() {
    let body = json!({"prompt": "Once", "max_tokens": 8, "stream": true, "diffusion": {"stream_edits": true}});
    let server = Server::of(Box::new(Failing { toy: Toy::new(), passes: 3 }), Limits::default()).await;
    let response =
        server.client.post(server.url(COMPLETIONS)).header("x-request-id", "a-name").json(&body).send().await;
    let events = self::events(&response.unwrap().text().await.unwrap());
    assert_eq!(events.len(), 4, "three steps and the error, no [DONE]: {events:?}");
    assert_eq!(events[3].json()["request_id"], "a-name");
    let error = events[3].json()["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("model_failure")));
    let events = server.events(INFILL, &json!({"template": "<blank>", "stream": true})).await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["start", "error"]);
    assert_eq!(events[1].json()["request_id"], events[0].id.split_once(':').unwrap().0);
    server.until("remask_requests_total{endpoint=\"/v1/completions\",outcome=\"failed\"} 1").await;
    server.until("remask_requests_total{endpoint=\"/v1/infill\",outcome=\"failed\"} 1").await;
}

#[tokio::test]
async fn a_stream_is_not_to_be_held_back() {
    let server = Server::toy().await;
    let response = server.post(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 4, "stream": true})).await;
    assert_eq!(response.headers()["cache-control"], "no-cache");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    response.text().await.unwrap();
    server.until("remask_requests_total{endpoint=\"/v1/completions\",outcome=\"ok\"} 1").await;
    server.until("remask_time_to_first_text_seconds_count 1").await;
    server.until("remask_generated_tokens_total{model=\"toy\"} 4").await;
}

#[tokio::test]
async fn the_first_step_of_a_completion_has_what_its_format_gives() {
    let server = Server::toy().await;
    let properties = json!({"city": {"type": "string"}, "people": {"type": "integer"}});
    let schema = json!({"type": "object", "properties": properties, "required": ["city", "people"]});
    let body = json!({
        "prompt": "Paris: ", "stream": true, "diffusion": {"stream_edits": true},
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}},
    });
    let (text, chunks) = concatenated(&server.events(COMPLETIONS, &body).await);
    let steps: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk.get("diffusion")?.get("edits").map(|_| &chunk["diffusion"])).collect();
    let mut canvas = vec![None; usize::try_from(steps[0]["canvas_length"].as_u64().unwrap()).unwrap()];
    let mut given = String::new();
    for cell in steps[0]["pinned"].as_array().unwrap() {
        canvas[usize::try_from(cell["at"].as_u64().unwrap()).unwrap()] = cell["token"].as_u64();
        given += cell["text"].as_str().unwrap();
    }
    assert!(given.contains("\"city\":") && given.contains("\"people\":"), "{given}");
    assert!(steps[1..].iter().all(|step| step.get("pinned").is_none()));
    steps.iter().for_each(|step| replay(&mut canvas, step));
    assert!(canvas.iter().all(Option::is_some), "nothing is missing");
    assert!(text.contains("\"city\":"), "{text}");
}

/// Neighbouring tokens that have parts of a letter carry its bytes, and others carry none.
#[tokio::test]
async fn the_bytes_of_letters_that_are_spread_over_tokens_are_sent() {
    let server = Server::toy().await;
    let given = json!({"template": "caf\u{e9}<blank:2>", "stream": true});
    let start = server.events(INFILL, &given).await[0].json();
    let bytes: Vec<&Value> = start["pinned"].as_array().unwrap().iter().map(|cell| &cell["bytes"]).collect();
    assert_eq!(bytes, [&Value::Null, &Value::Null, &Value::Null, &json!([0xc3]), &json!([0xa9])]);
    let shape = json!({"type": "json_skeleton", "skeleton": {"day": "<\u{65e5}|\u{6708}>"}});
    let asked = json!({"prompt": "Which?", "response_format": shape, "max_tokens": 40, "stream": true,
                       "diffusion": {"stream_edits": true}});
    let (text, chunks) = concatenated(&server.events(COMPLETIONS, &asked).await);
    let (mut cells, mut parts): (BTreeMap<u64, Vec<u8>>, usize) = (BTreeMap::new(), 0);
    for step in chunks.iter().map(|chunk| &chunk["diffusion"]).filter(|step| step["edits"].is_array()) {
        let pinned = step["pinned"].as_array().into_iter().flatten();
        for one in pinned.chain(step["edits"].as_array().unwrap()) {
            let own = one["text"].as_str().unwrap_or_default();
            let bytes: Option<Vec<u8>> = serde_json::from_value(one["bytes"].clone()).unwrap();
            assert_eq!(bytes.is_some(), own.contains('\u{fffd}'), "{one}");
            parts += usize::from(bytes.is_some());
            match one["kind"].as_str() {
                Some("erase") => cells.remove(&one["at"].as_u64().unwrap()),
                _ => cells.insert(one["at"].as_u64().unwrap(), bytes.unwrap_or_else(|| own.as_bytes().to_vec())),
            };
        }
    }
    // the toy may mix the bytes of both options; the answer has one of them
    let canvas = String::from_utf8(cells.into_values().flatten().collect()).unwrap();
    assert!(canvas.starts_with("{\"day\": \"") && !canvas.contains('\u{fffd}'), "{canvas}");
    assert!(text.contains(['\u{65e5}', '\u{6708}']) && parts >= 3, "{text}: {parts} parts of a letter");
}

#[tokio::test]
async fn a_start_tells_the_tokens_that_end_the_answer() {
    let server = Server::toy().await;
    let asked = json!({"prompt": "Once", "max_tokens": 60, "stream": true, "diffusion": {"stream_edits": true}});
    let ends = async |more: Value| {
        let (_, chunks) = concatenated(&server.events(COMPLETIONS, &with(&asked, more)).await);
        chunks[0]["diffusion"]["ends"].clone()
    };
    assert_eq!(ends(json!({})).await, json!([257]));
    assert_eq!(ends(json!({"stop_token_ids": [46]})).await, json!([257, 46]));
    let infill = json!({"template": "a<blank:2>b", "stream": true});
    assert_eq!(server.events(INFILL, &infill).await[0].json().get("ends"), None);
}

#[tokio::test]
async fn a_step_that_erases_tells_what_erased() {
    let (toy, sudoku) = (Server::toy().await, Server::sudoku().await);
    let hard = "..5.29.3.\n2...3....\n.9.7..8.2\n9..51....\n.849...2.\n32..4..9.\n.3......4\n.........\n....6.759";
    let written =
        json!({"template": "Once<blank:40>", "stream": true, "diffusion": {"steps": 20, "remasking": "remdm"}});
    let solved = json!({"template": hard, "blank": ".", "stream": true});
    for (server, body, all) in [(toy, written, &["remdm"][..]), (sudoku, solved, &["quality", "proofreading"])] {
        let mut told = BTreeSet::new();
        for step in server.events(INFILL, &body).await.iter().filter(|event| event.name == "step") {
            let step = step.json();
            let erasures = step["edits"].as_array().unwrap().iter().filter(|edit| edit["kind"] == "erase");
            let erasures: Vec<&Value> = erasures.collect();
            let by = step["erased_by"].as_array().cloned().unwrap_or_default();
            assert_eq!(by.is_empty(), erasures.is_empty(), "{step}");
            let by: Vec<String> = by.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
            assert!(by.iter().all(|name| all.contains(&name.as_str())), "{step}");
            assert!(
                erasures.iter().all(|edit| edit["quality"].is_null() == by.contains(&"remdm".to_owned())),
                "{step}"
            );
            told.extend(by);
        }
        assert!(told.contains(all[all.len() - 1]), "{told:?}");
    }
}
