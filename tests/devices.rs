//! `remask serve --device cpu,cpu`: the program itself with two copies of a model; and the commands
//! that take one device.

mod common;

use common::process::Process;
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

async fn get(server: &Process, path: &str) -> String {
    client().get(server.url(path)).send().await.unwrap().text().await.unwrap()
}

/// Waits until the metrics have this line.
async fn until(server: &Process, line: &str) {
    let begun = Instant::now();
    loop {
        let metrics = get(server, "/metrics").await;
        if metrics.lines().any(|other| other == line) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{line} never came: {metrics}");
    }
}

/// The text of an answer of 40 tokens, with random draws.
async fn answer(server: &Process, seed: usize) -> String {
    let body = json!({"prompt": "Once upon", "max_tokens": 40, "temperature": 1, "seed": seed});
    let response = client().post(server.url("/v1/completions")).json(&body).send().await.unwrap();
    let answer: Value = response.json().await.unwrap();
    answer["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_serve_what_one_does_and_are_told_apart() {
    let (one, two) = (
        Process::serve(&["--model-id", "toy"]),
        Process::serve(&["--model-id", "toy", "--device", "cpu,cpu", "--max-concurrent-requests", "4"]),
    );
    let alone = join_all((0..40).map(|seed| answer(&one, seed))).await;
    let shared = join_all((0..40).map(|seed| answer(&two, seed))).await;
    assert_eq!(alone, shared);
    let models: Value = serde_json::from_str(&get(&two, "/v1/models").await).unwrap();
    assert_eq!(models["data"][0]["diffusion"]["device"], "cpu,cpu");
    for device in ["cpu:0", "cpu:1"] {
        for name in ["device_ready", "sequences_running", "model_failures_total", "model_restarts_total"] {
            until(
                &two,
                &format!("remask_{name}{{device=\"{device}\",model=\"toy\"}} {}", u8::from(name == "device_ready")),
            )
            .await;
        }
    }
    let metrics = get(&two, "/metrics").await;
    assert!(metrics.contains("remask_model_info{device=\"cpu,cpu\","), "{metrics}");
    assert!(get(&one, "/metrics").await.contains("remask_device_ready{device=\"cpu\",model=\"toy\"} 1\n"));
    // the second one has work as soon as a request comes while the first one has any
    for burst in 0.. {
        assert!(burst < 1000, "one device had nothing to do");
        join_all((0..40).map(|seed| answer(&two, seed))).await;
        let metrics = get(&two, "/metrics").await;
        if !metrics.lines().any(|line| line.starts_with("remask_forward_passes_total") && line.ends_with("} 0")) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_both_devices_finish_what_was_admitted() {
    let mut server = Process::serve(&["--model-id", "toy", "--device", "cpu,cpu", "--drain-timeout", "600"]);
    let body = json!({"prompt": "x", "max_tokens": 60, "stream": true});
    let send = |_| client().post(server.url("/v1/completions")).json(&body).send();
    let streams: Vec<_> = join_all((0..16).map(send)).await.into_iter().map(Result::unwrap).collect();
    server.signal("TERM");
    for stream in streams {
        assert!(stream.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
    assert!(server.ended().success());
}

#[test]
fn commands_that_use_one_device_refuse_a_list() {
    let run = |line: &str, variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        command.args(line.split(' ')).env_remove("REMASK_DEVICE");
        command.envs(variable.map(|list| ("REMASK_DEVICE", list)));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let list = "--device cpu,cpu names 2 devices, which only `remask serve` uses; give one";
    for line in
        ["generate --prompt a", "infill --prompt 5_", "read --json --prompt-ids 1", "bench", "eval sudoku --blanks 3"]
    {
        let (code, told) = run(&format!("{line} --device cpu,cpu"), None);
        assert!(code == Some(2) && told.contains(list), "{line}: {code:?} {told}");
    }
    let (code, told) = run("generate --prompt a", Some("cpu,cpu"));
    assert!(code == Some(2) && told.contains(list), "{code:?} {told}");
    let train = "train base --out o --steps 1 --learning-rate 1 --task sudoku --device cpu,cpu";
    let (code, told) = run(train, None);
    assert!(code == Some(2) && told.contains("is a list; give one device"), "{code:?} {told}");
    for (list, problem) in [
        ("cpu,cuda", "mixes the CPU and GPUs"),
        ("cuda:0,0", "names a GPU twice"),
        ("auto,cpu", "has `auto` in a list"),
        ("cuda:0,x", "is none of auto, cpu, cuda and cuda:N"),
    ] {
        let (code, told) = run(&format!("serve --device {list}"), None);
        assert!(code == Some(2) && told.contains(problem), "{list}: {code:?} {told}");
    }
}
