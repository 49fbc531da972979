//! Numbers outside the range of their field: the error says what was given and the whole range.

mod common;

use common::server::Server;
use serde_json::{Value, json};

const MAX: &str = "4294967295";

/// The body with `value` at `field`, a path such as `diffusion.steps`.
fn with(body: &Value, field: &str, value: &Value) -> Value {
    let mut body = body.clone();
    let place = field.split('.').fold(&mut body, |place, name| &mut place[name]);
    *place = value.clone();
    body
}

#[tokio::test]
async fn an_error_of_a_number_gives_its_range() {
    let server = Server::toy().await;
    let prompt = json!({"prompt": "a", "max_tokens": 4});
    let repair = json!({"text": "ab"});
    let infill = json!({"template": "a<blank>"});
    let rounds = json!({"prompt": "a", "max_tokens": 4, "diffusion": {"proofreading": {"steps": 4}}});
    let remdm = json!({"prompt": "a", "max_tokens": 4, "diffusion": {"remasking": {"policy": "remdm"}}});
    let rows: &[(&str, &Value, &str, &[Value], &str)] = &[
        ("/v1/completions", &prompt, "n", &[json!(-1), json!(0), json!(129), json!(1.5)], "from 1 to 128"),
        ("/v1/completions", &prompt, "temperature", &[json!(-1), json!(1e39), json!(true)], "from 0 to 3.4e38"),
        ("/v1/completions", &prompt, "top_p", &[json!(-1), json!(2), json!([])], "from 0 to 1"),
        ("/v1/completions", &prompt, "min_p", &[json!(-0.1), json!(1.1), json!([])], "from 0 to 1"),
        ("/v1/completions", &prompt, "top_k", &[json!(-2), json!(1.5), json!(1e12)], "from 1 to 65536, or 0 or -1"),
        ("/v1/completions", &prompt, "top_k", &[json!(70000)], "give 1 to 65536"),
        ("/v1/completions", &prompt, "presence_penalty", &[json!(-2.1), json!(3), json!("1")], "from -2 to 2"),
        ("/v1/completions", &prompt, "repetition_penalty", &[json!(0), json!(0.009), json!(101)], "from 0.01 to 100"),
        ("/v1/completions", &prompt, "frequency_penalty", &[json!(2.1), json!(-9), json!([])], "from -2 to 2"),
        ("/v1/completions", &prompt, "max_tokens", &[json!(-2), json!(1e12), json!(true)], "from 1 to the room"),
        ("/v1/completions", &prompt, "logprobs", &[json!(-1), json!(2), json!(true)], "give 0 or 1"),
        (
            "/v1/completions",
            &prompt,
            "seed",
            &[json!(1.5), json!(1e30)],
            "from -9223372036854775808 to 1844674407370955",
        ),
        ("/v1/completions", &prompt, "priority", &[json!(1e12)], "from -2147483648 to 2147483647"),
        ("/v1/completions", &prompt, "diffusion.steps", &[json!(-1), json!(0), json!(70000)], "1 to 65536"),
        ("/v1/completions", &prompt, "diffusion.block_length", &[json!(-1), json!(1e12)], MAX),
        ("/v1/completions", &prompt, "diffusion.deadline_ms", &[json!(-1), json!(1e12)], MAX),
        ("/v1/completions", &prompt, "diffusion.cfg_scale", &[json!(-1), json!(101), json!({})], "from 0 to 100"),
        ("/v1/completions", &prompt, "diffusion.unmasking.threshold", &[json!(-1), json!(2), json!([])], "from 0 to 1"),
        (
            "/v1/completions",
            &rounds,
            "diffusion.proofreading.steps",
            &[json!(-1), json!(1), json!(70000)],
            "2 to 65536",
        ),
        ("/v1/completions", &rounds, "diffusion.proofreading.most", &[json!(-1), json!(0), json!(70000)], "1 to 65536"),
        (
            "/v1/completions",
            &rounds,
            "diffusion.proofreading.below",
            &[json!(-1), json!(2), json!(true)],
            "from 0 to 1",
        ),
        ("/v1/completions", &remdm, "diffusion.remasking.budget", &[json!(-1), json!(70000)], "0 to 65536"),
        ("/v1/repair", &repair, "steps", &[json!(-1), json!(1), json!(70000)], "2 to 65536"),
        ("/v1/repair", &repair, "worst", &[json!(-1), json!(0), json!(70000)], "1 to 65536"),
        ("/v1/repair", &repair, "below", &[json!(-1), json!(2)], "from 0 to 1"),
        ("/v1/score", &repair, "below", &[json!(-1), json!(2), json!({})], "from 0 to 1"),
        ("/v1/infill", &infill, "repetition_penalty", &[json!(0), json!(-1.5), json!(101)], "from 0.01 to 100"),
        ("/v1/infill", &infill, "presence_penalty", &[json!(-2.1), json!(3)], "from -2 to 2"),
        ("/v1/infill", &infill, "frequency_penalty", &[json!(-2.1), json!(3)], "from -2 to 2"),
        ("/v1/infill", &infill, "temperature", &[json!(-1), json!(true)], "from 0 to 3.4e38"),
        ("/v1/infill", &infill, "top_p", &[json!(-1), json!(2), json!([])], "from 0 to 1"),
        ("/v1/infill", &infill, "min_p", &[json!(-0.1), json!(1.1), json!([])], "from 0 to 1"),
        ("/v1/infill", &infill, "top_k", &[json!(-2), json!(1.5), json!(1e12)], "from 1 to 65536, or 0 or -1"),
        ("/v1/infill", &infill, "top_k", &[json!(70000)], "give 1 to 65536"),
        ("/v1/repair", &repair, "top_p", &[json!(-1), json!(2), json!([])], "from 0 to 1"),
        ("/v1/repair", &repair, "min_p", &[json!(-0.1), json!(1.1), json!([])], "from 0 to 1"),
        ("/v1/repair", &repair, "top_k", &[json!(-2), json!(1.5), json!(1e12)], "from 1 to 65536, or 0 or -1"),
        ("/v1/repair", &repair, "top_k", &[json!(70000)], "give 1 to 65536"),
    ];
    for (path, body, field, values, range) in rows {
        let quoted = json!("1");
        for value in values.iter().chain([&quoted]) {
            if *value == quoted && range.starts_with("give 1") {
                continue; // the engine's words, which a value of another type never reaches
            }
            let response = server.post(path, &with(body, field, value)).await;
            let (status, answer) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
            let error = &answer["error"];
            assert_eq!((status, error["param"].as_str()), (400, Some(*field)), "{field} {value}: {answer}");
            let message = error["message"].as_str().unwrap();
            let given = if value.as_f64().is_some_and(|number| number > 1e9) { "1" } else { &value.to_string() };
            assert!(message.contains(range) && message.contains(given), "{field} {value}: {message}");
        }
    }
}

#[tokio::test]
async fn choices_of_several_prompts_are_counted_together() {
    let server = Server::toy().await;
    for (prompts, n, param, words) in [
        (
            128,
            128,
            "n",
            "given 128 for each of 128 prompts, which are 16384 choices; a request has at most 128: leave n out",
        ),
        (128, 2, "n", "which are 256 choices; a request has at most 128: leave n out, or send fewer prompts at once"),
        (3, 50, "n", "which are 150 choices; a request has at most 128: give an n of at most 42"),
        (2, 0, "n", "n: given 0; give at least 1"),
        (129, 1, "prompt", "given 129 prompts; give at most 128"),
    ] {
        let body = json!({"prompt": vec!["a"; prompts], "n": n, "max_tokens": 1});
        let response = server.post("/v1/completions", &body).await;
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["error"]["param"], param, "{prompts} {n}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{prompts} {n}: {message}");
    }
}
