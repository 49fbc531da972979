//! Endpoints for existing texts: score, repair, tokenize and detokenize.

mod common;

use common::server::Server;
use remask::diffusion::policy::{Kind, Knob, Range, knobs};
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};

const SCORE: &str = "/v1/score";
const REPAIR: &str = "/v1/repair";

fn text(answer: &Value) -> String {
    answer["text"].as_str().unwrap().to_owned()
}

/// The text that the toy repairs any text of its length into.
async fn right(server: &Server) -> String {
    text(&server.answer(REPAIR, &json!({"text": "~".repeat(40), "steps": 400})).await)
}

/// The text with some of its letters changed.
fn wrong(text: &str, at: &[usize]) -> String {
    text.char_indices().map(|(index, letter)| if at.contains(&index) { '~' } else { letter }).collect()
}

#[tokio::test]
async fn a_likelihood_is_each_tokens_probability_given_all_others() {
    let server = Server::toy().await;
    let right = right(&server).await;
    let wrong = wrong(&right, &[3]);
    let answer = server.answer(SCORE, &json!({"text": wrong, "likelihood": true})).await;
    let tokens = answer["tokens"].as_array().unwrap();
    let likelihood = |at: usize| tokens[at]["likelihood"].as_f64().unwrap();
    assert!(likelihood(3) < 0.1 && likelihood(10) > 0.3, "{tokens:?}");
    // the toy's quality is the token's probability with its own cell masked, the share of the mask
    // token included
    for token in tokens {
        let (likelihood, quality) = (token["likelihood"].as_f64().unwrap(), token["quality"].as_f64().unwrap());
        assert!((likelihood - quality).abs() < 1e-3, "{token}");
    }
    assert_eq!(answer["diffusion"]["forward_passes"], json!(41), "one, and one for each token");

    // a model without a quality head has likelihoods, too
    let headless = Server::of(Box::new(Toy::without_head()), Limits::default()).await;
    let again = headless.answer(SCORE, &json!({"text": wrong, "likelihood": true})).await;
    assert_eq!(
        (again["tokens"][3]["likelihood"].as_f64(), &again["tokens"][3]["quality"]),
        (Some(likelihood(3)), &Value::Null)
    );
    assert_eq!(headless.post(SCORE, &json!({"text": wrong})).await.status(), 400);
}

#[tokio::test]
async fn a_score_doubts_what_is_wrong() {
    let server = Server::toy().await;
    let right = right(&server).await;
    let answer = server.answer(SCORE, &json!({"text": wrong(&right, &[3, 20])})).await;
    assert_eq!((&answer["object"], &answer["doubtful"]), (&json!("score"), &json!([3, 20])));
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 40);
    assert_eq!((&tokens[3]["text"], &tokens[3]["token"]), (&json!("~"), &json!(126)));
    assert!(tokens[3]["quality"].as_f64().unwrap() < 0.1 && tokens[4]["quality"].as_f64().unwrap() > 0.5, "{tokens:?}");
    assert_eq!((&answer["diffusion"]["forward_passes"], &answer["diffusion"]["steps"]), (&json!(1), &json!(0)));
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(40), &json!(0)));
    let ids: Vec<u8> = wrong(&right, &[3, 20]).into_bytes();
    assert_eq!(server.answer(SCORE, &json!({"text": ids})).await["tokens"], answer["tokens"]);
    let strict = server.answer(SCORE, &json!({"text": right, "below": 1})).await;
    assert_eq!(strict["doubtful"].as_array().unwrap().len(), 40);
}

#[tokio::test]
async fn a_repair_changes_what_is_doubted_and_says_what() {
    let server = Server::toy().await;
    let right = right(&server).await;
    let given = wrong(&right, &[3, 4, 20]);
    let answer = server.answer(REPAIR, &json!({"text": given})).await;
    assert_eq!((text(&answer), &answer["object"]), (right.clone(), &json!("repair")));
    let edits = answer["edits"].as_array().unwrap();
    assert_eq!(edits.iter().map(|edit| edit["at"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 4, 20]);
    assert!(edits.iter().all(|edit| edit["was_text"] == "~" && edit["text"] != "~"), "{edits:?}");
    assert_eq!(
        answer["diff"],
        format!(
            "--- given\n+++ repaired\n@@ -1 +1 @@\n-{given}\n\\ No newline at end of file\n+{right}\n\\ No newline at end of file\n"
        )
    );
    assert!(answer["diffusion"]["erased"].as_u64() >= Some(3));
    assert!(answer.get("tokens").is_none());

    let judged = server.answer(REPAIR, &json!({"text": given, "diffusion": {"return_quality": true}})).await;
    assert_eq!((text(&judged), judged["tokens"].as_array().unwrap().len()), (right.clone(), 40));
    let untouched = server.answer(REPAIR, &json!({"text": right})).await;
    assert_eq!((&untouched["edits"], &untouched["diff"], text(&untouched)), (&json!([]), &json!(""), right));
    assert_eq!(untouched["diffusion"]["forward_passes"], 1, "one look is enough");
}

#[tokio::test]
async fn what_is_pinned_stays_and_the_worst_go_first() {
    let server = Server::toy().await;
    let right = right(&server).await;
    let given = wrong(&right, &[3, 20]);
    let pinned = server.answer(REPAIR, &json!({"text": given, "pinned": [[20, 21]]})).await;
    assert_eq!(text(&pinned).chars().nth(20), Some('~'), "{pinned}");
    let two = server.answer(REPAIR, &json!({"text": given, "worst": 1, "steps": 2})).await;
    assert_eq!((&two["diffusion"]["erased"], &two["diffusion"]["forward_passes"]), (&json!(1), &json!(2)));
    let four = server.answer(REPAIR, &json!({"text": given, "worst": 1, "steps": 4})).await;
    assert_eq!((text(&four), &four["diffusion"]["erased"]), (right, &json!(2)));
}

#[tokio::test]
async fn an_infill_and_a_repair_draw_from_the_likeliest() {
    let server = Server::toy().await;
    for (path, body) in [
        ("/v1/infill", json!({"template": "Once upon <blank:24>."})),
        (REPAIR, json!({"text": "~".repeat(24), "steps": 2})),
    ] {
        let ask = async |more: Value| {
            let mut body = body.clone();
            body["temperature"] = json!(3);
            body["seed"] = json!(8);
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = server.answer(path, &body).await;
            let whole = if path == REPAIR { &answer } else { &answer["choices"][0] };
            text(whole)
        };
        let (greedy, hot) = (ask(json!({"temperature": 0})).await, ask(json!({})).await);
        assert_ne!(hot, greedy, "{path}");
        for few in [json!({"top_k": 1}), json!({"top_p": 0}), json!({"min_p": 1})] {
            assert_eq!(ask(few.clone()).await, greedy, "{path} {few}");
        }
        assert_eq!(ask(json!({"top_k": 0, "top_p": 1, "min_p": 0})).await, hot, "{path}");
        let some = ask(json!({"min_p": 0.05})).await;
        assert!(some != hot && some != greedy, "{path}: min_p leaves out some tokens, not all but one: {some:?}");
    }
}

#[tokio::test]
async fn a_repair_refuses_what_is_for_blanks_by_its_name() {
    let server = Server::toy().await;
    let value = |knob: &Knob| match knob.range {
        Range::Count { min } => json!(min),
        Range::Fraction | Range::Number { .. } => json!(0.5),
        Range::Span => json!([0.25, 0.5]),
    };
    let mut rows = vec![
        ("steps".to_owned(), json!({"steps": 4})),
        ("block_length".to_owned(), json!({"block_length": 4})),
        ("remasking".to_owned(), json!({"remasking": "quality"})),
        ("proofreading".to_owned(), json!({"proofreading": {"steps": 4}})),
        ("cache".to_owned(), json!({"cache": "dual"})),
    ];
    rows.extend(knobs(Kind::Pace).into_iter().map(|knob| {
        let unmasking = json!({knob.name: value(knob), "order": "entropy"});
        (format!("unmasking.{}", knob.name), json!({"unmasking": unmasking}))
    }));
    assert!(rows.len() > 10);
    for (field, diffusion) in rows {
        let response = server.post(REPAIR, &json!({"text": "abc", "diffusion": diffusion})).await;
        let status = response.status().as_u16();
        let error = response.json::<Value>().await.unwrap()["error"].clone();
        let param = format!("diffusion.{field}");
        let why = match field.as_str() {
            "block_length" => "which takes its text as one block; leave it out",
            "cache" => "which computes the whole text in every pass; give \"off\", or leave it out",
            _ => "which has steps, below and worst beside its text; give those, or leave it out",
        };
        let message = format!("{param} does not go with a repair, {why}");
        assert_eq!((status, &error["param"], &error["message"]), (400, &json!(param), &json!(message)));
    }
    let ordered = json!({"text": "abc", "diffusion": {"unmasking": {"order": "entropy", "leap": null}}});
    server.answer(REPAIR, &ordered).await;
}

#[tokio::test]
async fn a_streamed_repair_is_its_edits() {
    let server = Server::toy().await;
    let given = wrong(&right(&server).await, &[3, 4, 20]);
    let whole = server.answer(REPAIR, &json!({"text": given})).await;
    let events = server.events(REPAIR, &json!({"text": given, "stream": true})).await;
    assert_eq!(events.first().unwrap().name, "start");
    let mut bytes: Vec<Option<u8>> = given.bytes().map(Some).collect();
    for event in events.iter().filter(|event| event.name == "step") {
        for edit in event.json()["edits"].as_array().unwrap() {
            let at = usize::try_from(edit["at"].as_u64().unwrap()).unwrap();
            bytes[at] = match edit["kind"].as_str().unwrap() {
                "fill" => u8::try_from(edit["token"].as_u64().unwrap()).ok(),
                _ => None,
            };
        }
    }
    let replayed: Vec<u8> = bytes.into_iter().map(Option::unwrap).collect();
    assert_eq!(String::from_utf8(replayed).unwrap(), text(&whole));
    let done = events.last().unwrap();
    assert_eq!(
        (done.name.as_str(), &done.json()["text"], &done.json()["edits"]),
        ("done", &whole["text"], &whole["edits"])
    );
}

#[tokio::test]
async fn texts_to_tokens_and_back() {
    let server = Server::toy().await;
    let tokens = server.answer("/tokenize", &json!({"prompt": "aé<|end|>", "return_token_strs": true})).await;
    assert_eq!((&tokens["count"], &tokens["max_model_len"]), (&json!(10), &json!(1024)));
    assert_eq!(tokens["tokens"][0], 97);
    assert_eq!(tokens["token_strs"][0], "a");
    let text = server.answer("/detokenize", &json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(text, json!({"prompt": "aé<|end|>"}));
    assert!(server.answer("/tokenize", &json!({"prompt": ""})).await["token_strs"].is_null());
}

#[tokio::test]
async fn what_is_wrong_with_a_given_text_is_said() {
    let server = Server::toy().await;
    for (path, body, param, words) in [
        (SCORE, json!({}), "text", "text is missing; give a string"),
        (SCORE, json!({"text": ""}), "text", "the text is empty"),
        (SCORE, json!({"text": [300]}), "text", "token 0 of the text is 300"),
        (SCORE, json!({"text": "a", "below": 2}), "below", "below is 2; give a number from 0 to 1"),
        (SCORE, json!({"text": "a", "bellow": 2}), "bellow", "unknown field `bellow`"),
        (SCORE, json!({"text": "a".repeat(1025)}), "text", "takes 1025 cells; the canvas has 1024"),
        (REPAIR, json!({"text": "abc", "pinned": [[2, 4]]}), "pinned", "has [2, 4]; give pairs of characters"),
        (REPAIR, json!({"text": [1, 2], "pinned": [[1, 1]]}), "pinned", "give pairs of tokens"),
        (REPAIR, json!({"text": "abc", "steps": 0}), "steps", "give 2 to 65536"),
        (REPAIR, json!({"text": "abc", "diffusion": {"steps": 3}}), "diffusion.steps", "beside its text"),
        (REPAIR, json!({"text": "abc", "worst": 0}), "worst", "worst is 0; give 1 to"),
        ("/tokenize", json!({}), "prompt", "prompt is missing"),
        ("/detokenize", json!({"tokens": "x"}), "tokens", "given \"x\"; give an array"),
    ] {
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{body}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{body}: {error}");
    }
}
