//! gRPC gives the same answers as HTTP.

use super::calls::{
    COMPLETIONS, INFILL, REPAIR, SCORE, asked, check_counts, client, diffusing, judged, list, mended, number, template,
    told,
};
use super::proto;
use super::proto::{edit, generate_request, proofreading, remasking, repair_request, rule, score_request, unmasking};
use crate::common::server::Server;
use serde_json::{Value, json};

/// Prompts for which the toy writes different sentences, two of them with characters of several
/// bytes.
const PROMPTS: [&str; 5] = ["Once", "a", "b", "ü 🍰", "twice"];

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
                edit::Kind::Replace(replace) => {
                    assert!(*cell == Some(replace.was) && replace.text.is_some(), "{edit:?}");
                    *cell = Some(replace.token);
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
                "prompt": prompt, "max_tokens": 64, "seed": seed, "temperature": temperature, "stop": stop, "top_p": 0.9, "min_p": 0.02,
                "top_k": 40, "logit_bias": {"101": -2.5}, "stop_token_ids": [0], "presence_penalty": 0.25, "frequency_penalty": -0.125, "repetition_penalty": 1.5,
                "diffusion": {"steps": 40, "block_length": 16, "unmasking": "random", "return_quality": true,
                              "remasking": {"policy": "quality", "budget": budget, "below": 0.6, "window": [0.25, 0.75]},
                              "proofreading": {"steps": 4, "below": 0.4, "most": 3, "temperature": 0.1}},
            });
            let window = Some(remasking::Window { from: 0.25, until: 0.75 });
            let quality = remasking::Quality { budget, below: Some(0.6), window, hold: None };
            let rounds =
                proofreading::Rounds { steps: Some(4), below: Some(0.4), most: Some(3), temperature: Some(0.1) };
            let diffusion = proto::Diffusion {
                steps: Some(40),
                block_length: Some(16),
                unmasking: Some(proto::Unmasking { order: proto::Order::Random.into(), ..Default::default() }),
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
                min_p: Some(0.02),
                top_k: 40,
                presence_penalty: 0.25,
                frequency_penalty: -0.125,
                repetition_penalty: Some(1.5),
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
async fn replaced_tokens_are_streamed_and_counted_as_over_http() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let mut all = 0;
    for seed in 0..3 {
        let remasking = json!({"policy": "token_editing", "above": 0.4, "budget": 30});
        let http = json!({"template": "Once<blank:50>.", "seed": seed, "temperature": 1.5, "presence_penalty": 0.5,
                          "frequency_penalty": 0.25, "repetition_penalty": 0.75, "diffusion": {"steps": 16, "unmasking": "random", "remasking": remasking}});
        let knobs = [("above", rule::value::Value::Number(0.4)), ("budget", rule::value::Value::Count(30))];
        let knobs = knobs.map(|(name, value)| (name.to_owned(), rule::Value { value: Some(value) }));
        let editing = proto::Rule { name: "token_editing".to_owned(), knobs: knobs.into() };
        let diffusion = proto::Diffusion {
            steps: Some(16),
            unmasking: Some(proto::Unmasking { order: proto::Order::Random.into(), ..Default::default() }),
            remasking: Some(proto::Remasking { policy: Some(remasking::Policy::Rule(editing)) }),
            ..Default::default()
        };
        let whole = server.answer(INFILL, &http).await;
        let grpc = proto::InfillRequest {
            seed: Some(seed),
            temperature: 1.5,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            repetition_penalty: Some(0.75),
            diffusion: Some(diffusion),
            ..template("Once<blank:50>.")
        };
        let (start, steps, done) = told(client.infill(grpc).await.unwrap().into_inner()).await;
        check_counts(done.usage, done.diffusion, &whole);
        let bytes: Vec<u8> = replay(&start, &steps).into_iter().map(|token| u8::try_from(token).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), done.text);
        assert_eq!(whole["choices"][0]["text"], done.text);
        let edits = steps.iter().flat_map(|step| &step.edits);
        let replaced = edits.filter(|edit| matches!(edit.kind, Some(edit::Kind::Replace(_)))).count();
        assert_eq!(whole["diffusion"]["replaced"], replaced);
        all += replaced;
    }
    assert!(all > 3, "{all} tokens were replaced");
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
    let schema = json!({"type": "object", "properties": {"a": {"const": 1}}});
    let rows: [(proto::GenerateRequest, &str, Value); 6] = [
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
            proto::GenerateRequest {
                suffix: Some("the end".to_owned()),
                max_tokens: Some(30),
                stop: vec!["e".to_owned(), " ".to_owned()],
                ..asked("Once")
            },
            COMPLETIONS,
            json!({"prompt": "Once", "suffix": "the end", "max_tokens": 30, "stop": ["e", " "]}),
        ),
        (
            proto::GenerateRequest {
                format: Some(generate_request::Format::JsonSchema(schema.to_string())),
                ..asked("Once")
            },
            COMPLETIONS,
            json!({"prompt": "Once",
                   "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}),
        ),
        (
            diffusing(proto::Diffusion {
                unmasking: Some(proto::Unmasking { pace: Some(unmasking::Pace::Threshold(0.8)), ..Default::default() }),
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
    let hold = Some(remasking::Window { from: 0.25, until: 0.75 });
    for policy in [
        remasking::Policy::Random(remasking::Random { budget: Some(5), window: None, hold }),
        remasking::Policy::Remdm(remasking::ReMdm { budget: Some(5), window: None, hold }),
        remasking::Policy::Confidence(remasking::Confidence { budget: Some(5), below: None, window: None, hold }),
    ] {
        let name = match policy {
            remasking::Policy::Random(_) => "random",
            remasking::Policy::Remdm(_) => "remdm",
            _ => "confidence",
        };
        let http = json!({"template": "On__ upon ____ time", "blank": "_", "seed": 4, "temperature": 0.7,
                          "top_p": 0.9, "top_k": 40, "min_p": 0.02,
                          "diffusion": {"remasking": {"policy": name, "budget": 5, "hold": [0.25, 0.75]}, "proofreading": "off"}});
        let diffusion = proto::Diffusion {
            remasking: Some(proto::Remasking { policy: Some(policy) }),
            proofreading: Some(proto::Proofreading { mode: Some(proofreading::Mode::Off(proofreading::Off {})) }),
            ..Default::default()
        };
        let grpc = proto::InfillRequest {
            blank: Some("_".to_owned()),
            seed: Some(4),
            temperature: 0.7,
            top_p: Some(0.9),
            top_k: 40,
            min_p: Some(0.02),
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
    let all = proto::RepairRequest { steps: Some(400), ..mended(&"~".repeat(40)) };
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
            proto::RepairRequest {
                temperature: 2.0,
                seed: Some(3),
                top_p: Some(0.9),
                top_k: 40,
                min_p: Some(0.02),
                ..mended(&wrong)
            },
            json!({"text": wrong, "temperature": 2, "seed": 3, "top_p": 0.9, "top_k": 40, "min_p": 0.02}),
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
                       "has_quality_head": info.has_quality_head, "caches": info.caches, "dtype": info.dtype,
                       "adapters_folded": info.adapters_folded, "weights": info.weights, "device": info.device,
                       "parameters": info.parameters});
    assert_eq!((&model["id"], &model["created"]), (&json!(info.model), &json!(info.created)));
    let mut described = model["diffusion"].as_object().unwrap().clone();
    described.retain(|name, _| !["policies", "presets", "refused"].contains(&name.as_str()));
    assert_eq!(Value::from(described), facts);
    assert!(info.has_tokenizer && info.version == env!("CARGO_PKG_VERSION"));
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
