//! Chat completions and the options they share with completions: several choices, sampling, echo,
//! logprobs, suffixes.

mod common;

use common::server::Server;
use common::toy_tokenizer;
use remask::api::BODY_MAX;
use remask::diffusion::TokenId;
use remask::engine::Limits;
use remask::model::{Config, Device, Source, Toy, load};
use remask::text::{Conversation, Message, Special, Tokenizer, ToolCall};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn hello() -> Value {
    json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hello "}])
}

/// The chunks of a stream, `[DONE]` checked and taken off.
async fn chunks(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let text = server.post(path, body).await.text().await.unwrap();
    let mut frames: Vec<&str> = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: ")).collect();
    assert_eq!(frames.pop(), Some("[DONE]"), "{text}");
    frames.into_iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
}

#[tokio::test]
async fn a_conversation_is_answered_in_openais_shape() {
    let server = Server::toy().await;
    let answer = server.answer(CHAT, &json!({"messages": hello(), "max_tokens": 64})).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"), "{answer}");
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("toy")));
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("remask-"));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["role"], &choice["message"]["refusal"]), (&json!("assistant"), &Value::Null));
    let written = "<system> Be brief.<|end|>\n<user> Hello<|end|>\n<assistant> ";
    let names = 2 * ("<|end|>".len() - 1);
    assert_eq!(answer["usage"]["prompt_tokens"], written.len() - names, "a special token is one: {answer}");

    // the same prompt, written out as the template writes it
    let ids = toy_tokenizer().encode(written, Special::AsTokens).unwrap();
    let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
    let text = server.answer(COMPLETIONS, &json!({"prompt": ids, "max_tokens": 64})).await;
    assert_eq!(choice["message"]["content"], text["choices"][0]["text"]);
    for key in ["max_completion_tokens", "max_tokens"] {
        let parts = json!([{"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
                           {"role": "user", "content": "Hello", "name": "somebody"}]);
        let same = server.answer(CHAT, &json!({"messages": parts, key: 64})).await;
        assert_eq!(same["choices"], answer["choices"], "{key}");
    }
}

#[tokio::test]
async fn the_deltas_of_a_chat_are_its_message() {
    let server = Server::toy().await;
    let body = |stream: bool| {
        let mut body =
            json!({"messages": hello(), "max_tokens": 90, "diffusion": {"block_length": 8}, "logprobs": true});
        if stream {
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    };
    let whole = server.answer(CHAT, &body(false)).await;
    let chunks = chunks(&server, CHAT, &body(true)).await;
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    let contents = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(contents.collect::<String>(), whole["choices"][0]["message"]["content"]);
    let last = &chunks.last().unwrap()["choices"][0];
    assert_eq!(last["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!(last["logprobs"], whole["choices"][0]["logprobs"]);
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    let spelled: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(spelled, whole["choices"][0]["message"]["content"]);
    assert!(tokens.iter().all(|token| (-20.0..=0.0).contains(&token["logprob"].as_f64().unwrap())), "{tokens:?}");
}

#[test]
fn a_special_tokens_name_in_a_message_stays_text_and_the_templates_own_are_tokens() {
    let tokenizer = toy_tokenizer();
    let ends = |content: &str| {
        let ids = tokenizer.encode_chat(&vec![Message::new("user", content)].into()).unwrap().unwrap();
        assert_eq!(tokenizer.decode(&ids), format!("<user> {}\n<assistant> ", content.trim()), "{content:?}");
        ids.iter().filter(|id| **id == TokenId(257)).count()
    };
    assert_eq!(ends("Hello"), 1);
    assert_eq!(ends("<|end|>"), 1);
    assert_eq!(ends("  a<|end|><|end|> b <|end|>\n"), 1);
    assert_eq!(ends("\u{f0000}<|end|>\u{f0001}"), 1, "what might stand for it stands there already");
}

#[test]
fn a_special_tokens_name_in_a_tool_or_a_call_stays_text() {
    let config = r#"{"chat_template": "{{ messages | tojson }}{{ tools | tojson }}"}"#;
    let tokenizer = include_bytes!("../models/toy/tokenizer.json");
    let tokenizer = Tokenizer::from_texts(tokenizer, Some(config.as_bytes())).unwrap();
    let arguments = json!({"a<|end|>": ["<|end|>", {"b": "<|end|>"}]});
    let call = ToolCall { id: "<|end|>".to_owned(), name: "<|end|>".to_owned(), arguments };
    let message = Message { tool_calls: vec![call], name: Some("<|end|>".to_owned()), ..Message::new("user", "Hi") };
    let tools = vec![json!({"type": "function", "function": {"name": "<|end|>", "parameters": {"<|end|>": 1}}})];
    let conversation = Conversation { tools, ..vec![message].into() };
    let ids = tokenizer.encode_chat(&conversation).unwrap().unwrap();
    assert!(!ids.contains(&TokenId(257)), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).matches("|end|").count(), 8);
}

#[test]
fn a_developer_is_the_system_unless_the_template_tells_them_apart() {
    let written = |template: &str| {
        let config = json!({"chat_template": template}).to_string();
        let tokenizer = include_bytes!("../models/toy/tokenizer.json");
        let tokenizer = Tokenizer::from_texts(tokenizer, Some(config.as_bytes())).unwrap();
        let ids = tokenizer.encode_chat(&vec![Message::new("developer", "Be brief.")].into()).unwrap().unwrap();
        tokenizer.decode(&ids)
    };
    assert_eq!(written("{{ messages[0].role }}"), "system");
    assert_eq!(written("{% if messages[0].role == 'developer' %}{{ messages[0].role }}{% endif %}"), "developer");
}

#[tokio::test]
async fn every_prompt_has_as_many_choices_as_asked_for() {
    let server = Server::toy().await;
    let body = json!({"prompt": ["Once", "Twice"], "n": 3, "max_tokens": 24, "temperature": 1.0, "seed": 5});
    let answer = server.answer(COMPLETIONS, &body).await;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    for (index, choice) in choices.iter().enumerate() {
        let prompt = ["Once", "Twice"][index / 3];
        let body = json!({"prompt": prompt, "max_tokens": 24, "temperature": 1.0, "seed": 5 + index % 3});
        assert_eq!(server.answer(COMPLETIONS, &body).await["choices"][0]["text"], choice["text"], "{index}");
    }
    assert!(choices[3..].iter().any(|choice| choice["text"] != choices[3]["text"]), "{choices:?}");
    assert_eq!(answer["usage"]["prompt_tokens"], "OnceTwice".len());
    let written: usize = choices.iter().map(|choice| choice["text"].as_str().unwrap().len()).sum();
    assert_eq!(answer["usage"]["completion_tokens"], written);

    let mut body = body;
    body["stream"] = json!(true);
    body["diffusion"] = json!({"stream_edits": true});
    let mut texts = vec![String::new(); 6];
    let mut finished = 0;
    for chunk in chunks(&server, COMPLETIONS, &body).await {
        let choice = &chunk["choices"][0];
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        texts[index].push_str(choice["text"].as_str().unwrap());
        finished += usize::from(!choice["finish_reason"].is_null());
        if let Some(step) = chunk["diffusion"].get("edits").map(|_| &chunk["diffusion"]) {
            assert_eq!(step["index"], index);
        }
    }
    assert_eq!(finished, 6);
    assert!(texts.iter().zip(choices).all(|(text, choice)| choice["text"] == text.as_str()), "{texts:?}");
}

#[tokio::test]
async fn a_text_between_two_texts() {
    let server = Server::toy().await;
    let body = json!({"prompt": "Once ", "suffix": " end.", "max_tokens": 20});
    let answer = server.answer(COMPLETIONS, &body).await;
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!((text.len(), &answer["usage"]["prompt_tokens"]), (20, &json!(10)));
    let infill = json!({"template": "Once <blank:20> end."});
    assert_eq!(server.answer("/v1/infill", &infill).await["choices"][0]["gaps"][0], text);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let texts: String = chunks(&server, COMPLETIONS, &streamed)
        .await
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, text);
    // the marker of a blank in infills is plain text here
    let body = json!({"prompt": "<blank> ", "suffix": " <blank:3>", "max_tokens": 4});
    assert_eq!(server.answer(COMPLETIONS, &body).await["usage"]["prompt_tokens"], 18);
}

#[tokio::test]
async fn a_text_between_two_texts_ends_before_a_stop() {
    let server = Server::toy().await;
    let body = |more: Value| {
        let mut body = json!({"prompt": "Once ", "suffix": " end.", "max_tokens": 20, "logprobs": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let whole = server.answer(COMPLETIONS, &body(json!({}))).await;
    let whole = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    let at = whole[8..].find(|c: char| !whole[..8].contains(c)).unwrap() + 8;
    let (stop, token) = (&whole[at..at + 2], whole.as_bytes()[at]);
    for more in [
        json!({"stop": stop}),
        json!({"stop": ["<|fim_prefix|>", stop]}),
        json!({"stop_token_ids": [token]}),
        json!({"stop": stop, "n": 2}),
    ] {
        let answer = server.answer(COMPLETIONS, &body(more.clone())).await;
        let choices = answer["choices"].as_array().unwrap();
        for choice in choices {
            assert_eq!((choice["text"].as_str(), &choice["finish_reason"]), (Some(&whole[..at]), &json!("stop")));
            assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), at);
        }
        let tokens = at * choices.len();
        let usage = json!({"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens});
        assert_eq!(answer["usage"], usage, "{more}");
        let mut streamed = body(more);
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({"include_usage": true});
        let sent = chunks(&server, COMPLETIONS, &streamed).await;
        let of_first = sent.iter().filter(|chunk| chunk["choices"][0]["index"] == 0);
        let texts: String = of_first.map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!((texts.as_str(), &sent.last().unwrap()["usage"]), (&whole[..at], &usage));
    }
    let unfound = server.answer(COMPLETIONS, &body(json!({"stop": ["\u{1}never"]}))).await;
    assert_eq!(unfound["choices"][0]["text"], whole.as_str());
    assert_eq!(unfound["usage"]["completion_tokens"], 20);
    // at the very beginning nothing is left; without a text before it, too
    let answer = server.answer(COMPLETIONS, &body(json!({"stop": &whole[..1]}))).await;
    assert_eq!((&answer["choices"][0]["text"], &answer["usage"]["completion_tokens"]), (&json!(""), &json!(0)));
    let first = json!({"prompt": "", "suffix": " end.", "max_tokens": 20});
    let whole = server.answer(COMPLETIONS, &first).await["choices"][0]["text"].as_str().unwrap().to_owned();
    let stopped = json!({"prompt": "", "suffix": " end.", "max_tokens": 20, "stop": &whole[5..8]});
    let end = whole.find(&whole[5..8]).unwrap();
    assert_eq!(server.answer(COMPLETIONS, &stopped).await["choices"][0]["text"], whole[..end]);
    // blocks behind it are not computed: four steps for each block of four
    let blocks = |stop: Value| body(json!({"stop": stop, "diffusion": {"block_length": 4, "steps": 20}}));
    let whole = server.answer(COMPLETIONS, &blocks(json!([]))).await;
    assert_eq!(whole["diffusion"]["steps"], 20);
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let stop = &text[5..7];
    let start = text.find(stop).unwrap();
    let answer = server.answer(COMPLETIONS, &blocks(json!(stop))).await;
    assert_eq!(answer["choices"][0]["text"], text[..start]);
    assert_eq!(answer["diffusion"]["steps"], 4 * (start + 2).div_ceil(4));
}

/// A text ends before its stop string, and so do its tokens.
#[tokio::test]
async fn the_tokens_of_an_answer_are_those_of_its_text() {
    let server = Server::toy().await;
    let body = json!({"prompt": "Once", "max_tokens": 40, "logprobs": 1});
    let whole = server.answer(COMPLETIONS, &body).await["choices"][0]["text"].as_str().unwrap().to_owned();
    let stop = &whole[12..14];
    let end = whole.find(stop).unwrap();
    let stopped = json!({"prompt": "Once", "max_tokens": 40, "logprobs": 1, "stop": stop});
    let answer = server.answer(COMPLETIONS, &stopped).await;
    assert_eq!(answer["choices"][0]["text"], whole[..end]);
    assert_eq!(answer["usage"]["completion_tokens"], end);
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), end);
}

#[tokio::test]
async fn an_echo_stands_before_the_text_and_offsets_count_it() {
    let server = Server::toy().await;
    let plain = server.answer(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 12, "logprobs": 1})).await;
    let text = plain["choices"][0]["text"].as_str().unwrap();
    for prompt in [json!("Once"), json!(b"Once")] {
        let body = json!({"prompt": prompt, "max_tokens": 12, "echo": true, "logprobs": 1});
        let answer = server.answer(COMPLETIONS, &body).await;
        assert_eq!(answer["choices"][0]["text"], format!("Once{text}"));
        let logprobs = &answer["choices"][0]["logprobs"];
        let offsets: Vec<usize> = (0..4 + text.len()).collect();
        assert_eq!(logprobs["text_offset"], json!(offsets));
        let tokens: Vec<String> = format!("Once{text}").chars().map(String::from).collect();
        assert_eq!(logprobs["tokens"], json!(tokens));
        let (given, drawn) = logprobs["token_logprobs"].as_array().unwrap().split_at(4);
        assert_eq!(given, [Value::Null, Value::Null, Value::Null, Value::Null], "no logprob of what was given");
        assert_eq!(drawn, plain["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap());
        assert_eq!(logprobs["top_logprobs"], Value::Null);
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let chunks = chunks(&server, COMPLETIONS, &streamed).await;
        assert_eq!(chunks[0]["choices"][0]["text"], "Once");
        let texts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str());
        assert_eq!(texts.collect::<String>(), format!("Once{text}"));
        assert_eq!(&chunks.last().unwrap()["choices"][0]["logprobs"], logprobs);
    }
    // the tokens of each prompt stand before its own choices, and before a gap
    let body = json!({"prompt": ["ab", "cde"], "n": 2, "max_tokens": 3, "echo": true, "logprobs": 0});
    let answer = server.answer(COMPLETIONS, &body).await;
    for (index, (prompt, given)) in [("ab", 2), ("ab", 2), ("cde", 3), ("cde", 3)].into_iter().enumerate() {
        let logprobs = &answer["choices"][index]["logprobs"];
        let tokens = logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap());
        assert_eq!(tokens.take(given).collect::<String>(), prompt);
        let nulls = logprobs["token_logprobs"].as_array().unwrap().iter().filter(|logprob| logprob.is_null());
        assert_eq!(nulls.count(), given, "{logprobs}");
    }
    let body = json!({"prompt": "ab", "suffix": "yz", "max_tokens": 2, "echo": true, "logprobs": 1});
    let logprobs = server.answer(COMPLETIONS, &body).await["choices"][0]["logprobs"].clone();
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 4, "{logprobs}");
    assert_eq!((&logprobs["tokens"][1], &logprobs["token_logprobs"][1]), (&json!("b"), &Value::Null));
}

#[tokio::test]
async fn drawing_from_the_likeliest_and_biasing_tokens() {
    let server = Server::toy().await;
    let ask = async |more: Value| {
        let mut body = json!({"prompt": "Once", "max_tokens": 32, "temperature": 1.4, "seed": 8});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.answer(COMPLETIONS, &body).await["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let greedy = ask(json!({"temperature": 0})).await;
    assert_ne!(ask(json!({})).await, greedy);
    assert_eq!(ask(json!({"top_k": 1})).await, greedy);
    for few in [json!({"top_p": 1e-6}), json!({"top_p": 0}), json!({"top_p": 0, "top_k": 40}), json!({"min_p": 1})] {
        assert_eq!(ask(few.clone()).await, greedy, "{few}");
    }
    let all = ask(json!({})).await;
    assert_eq!(ask(json!({"top_k": 0, "top_p": 1, "min_p": 0})).await, all);
    let hot = async |min_p: f32| ask(json!({"temperature": 3, "min_p": min_p})).await;
    let (all, some, one) = (hot(0.0).await, hot(0.05).await, hot(1.0).await);
    assert!(some != all && some != greedy, "min_p leaves out some tokens, not all but one: {some:?}");
    assert_eq!(one, greedy);
    let letter = u32::from(greedy.bytes().find(u8::is_ascii_lowercase).unwrap());
    let without = ask(json!({"temperature": 0, "logit_bias": {letter.to_string(): -100}})).await;
    assert!(!without.bytes().any(|byte| u32::from(byte) == letter), "{without:?}");
    let only = ask(json!({"temperature": 0, "logit_bias": {"122": 100}})).await;
    assert_eq!(only, "z".repeat(32));
    let at = greedy.find(char::from_u32(letter).unwrap()).unwrap();
    assert_eq!(ask(json!({"temperature": 0, "stop_token_ids": [letter]})).await, greedy[..at]);
}

#[tokio::test]
async fn what_is_wrong_with_a_conversation_is_said() {
    let server = Server::toy().await;
    for (body, param, words) in [
        (json!({}), "messages", "messages is missing; give an array"),
        (json!({"messages": []}), "messages", "messages is empty"),
        (json!({"messages": "Hi"}), "messages", "given \"Hi\"; give an array"),
        (json!({"messages": [{"content": "Hi"}]}), "messages[0]", "missing field `role`"),
        (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content", "give a text, or an array"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages[0].content",
            "give a text, or an array",
        ),
        (json!({"messages": [{"role": "user", "contents": "x"}]}), "messages[0].contents", "unknown field `contents`"),
        (
            json!({"messages": hello(), "max_tokens": 3, "max_completion_tokens": 4}),
            "max_tokens",
            "give one of the two",
        ),
        (json!({"messages": hello(), "top_logprobs": 2}), "top_logprobs", "only 0"),
        (json!({"messages": hello(), "modalities": ["audio"]}), "modalities", "only [\"text\"]"),
        (json!({"messages": hello(), "max_tokens": 1000}), "max_tokens", "does not fit: the prompt has"),
        (json!({"messages": [{"role": "user", "content": "x".repeat(2000)}]}), "messages", "the messages take 20"),
    ] {
        let response = server.post(CHAT, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            (&error["error"]["param"], &error["error"]["type"]),
            (&json!(param), &json!("invalid_request_error"))
        );
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{body}: {error}");
    }
    let untemplated = Server::loading(BODY_MAX, Duration::ZERO).await;
    let tokenizer = Tokenizer::from_bytes(include_bytes!("../models/toy/tokenizer.json")).unwrap();
    untemplated.load(Box::new(Toy::new()), Some(Arc::new(tokenizer)), Limits::default());
    let error: Value = untemplated.post(CHAT, &json!({"messages": hello()})).await.json().await.unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("no chat template"), "{error}");
}

/// A tokenizer of SentencePiece's kind, which puts a space before every text.
#[tokio::test]
async fn the_space_at_a_continuations_start_is_kept() {
    let config = Config::parse(include_bytes!("data/spm/config.json"), "config.json").unwrap();
    let model = load(&Source::Dummy { config, seed: 0 }, Device::Cpu).unwrap();
    let tokenizer = Tokenizer::from_bytes(include_bytes!("data/spm/tokenizer.json")).unwrap();
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    server.load(model, Some(Arc::new(tokenizer)), Limits::default());
    let world = json!({"368": 100});
    let body = json!({"prompt": "Hello", "max_tokens": 2, "echo": true, "logprobs": 1, "logit_bias": world});
    let answer = server.answer(COMPLETIONS, &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "Hello world world");
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().last(), Some(&json!(" world")));
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let chunks = chunks(&server, COMPLETIONS, &streamed).await;
    let texts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), "Hello world world");
    let suffixed = json!({"prompt": "Hello", "suffix": "s", "max_tokens": 1, "logit_bias": world});
    assert_eq!(server.answer(COMPLETIONS, &suffixed).await["choices"][0]["text"], " world");

    let infill = json!({"template": "the<blank>is", "stream": true, "diffusion": {"steps": 1}});
    let stream = server.post("/v1/infill", &infill).await.text().await.unwrap();
    let pinned: Vec<&str> =
        ["363", "332", "342"].into_iter().filter(|id| stream.contains(&format!("\"token\":{id}"))).collect();
    assert_eq!(pinned.len(), 3, "the pinned tokens are ▁the, i, s: {stream}");
}
