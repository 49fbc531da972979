//! Presets: a name in a request stands for fields of its `diffusion` object, over HTTP and on the
//! command line; a model's file may have its own, and a malformed one is an error at load.

mod common;

use common::server::Server;
use common::{data, toy_tokenizer};
use remask::api::with_presets;
use remask::diffusion::TokenId;
use remask::engine::{Limits, start};
use remask::model::{
    Batch, Denoiser, Device, Format, Inspection, ModelError, ModelSpec, PresetsText, Readings, Source, Toy, load,
    quantise,
};
use remask::telemetry::Metrics;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A toy whose file has presets.
struct Named {
    toy: Toy,
    spec: ModelSpec,
}

impl Named {
    fn of(toy: Toy, presets: Value) -> Box<Self> {
        let Value::Object(presets) = presets else { panic!("{presets} is no object") };
        let presets = Some(PresetsText { file: "generation_config.json".to_owned(), presets });
        Box::new(Self { spec: ModelSpec { presets, ..toy.spec().clone() }, toy })
    }
}

impl Denoiser for Named {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        self.toy.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.toy.inspect(ids)
    }
}

async fn presets(server: &Server) -> Map<String, Value> {
    let model: Value = server.get("/v1/models/toy").await.json().await.unwrap();
    model["diffusion"]["presets"].as_object().unwrap().clone()
}

/// What an answer says, apart from its id and time.
fn said(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "created");
    answer
}

/// The answers of three endpoints with this `diffusion` object.
async fn answers(server: &Server, diffusion: &Value) -> Vec<Value> {
    let mut answers = Vec::new();
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "Once", "max_tokens": 40})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20})),
        ("/v1/infill", json!({"template": "a<blank:30>b"})),
    ] {
        let mut body = body;
        body["diffusion"] = diffusion.clone();
        (body["temperature"], body["seed"]) = (json!(0.7), json!(5));
        answers.push(said(server.answer(path, &body).await));
    }
    answers
}

#[tokio::test]
async fn a_name_stands_for_the_fields_that_models_list() {
    for toy in [Toy::new(), Toy::without_head()] {
        let server = Server::of(Box::new(toy), Limits::default()).await;
        let mut passes = BTreeSet::new();
        for (name, fields) in presets(&server).await {
            let by_name = answers(&server, &json!({"preset": name})).await;
            assert_eq!(by_name, answers(&server, &fields).await, "{name}: {fields}");
            let nothing = json!({"preset": name, "steps": null, "unmasking": null, "remasking": null});
            assert_eq!(by_name, answers(&server, &nothing).await, "{name}: null is not given");
            passes.insert(by_name[0]["diffusion"]["forward_passes"].as_u64().unwrap());
        }
        assert!(passes.len() >= 2 && *passes.first().unwrap() < 40, "{passes:?}");
        assert_eq!(
            answers(&server, &json!({"preset": null})).await,
            answers(&server, &json!({})).await,
            "no preset at all"
        );
    }
}

#[tokio::test]
async fn each_field_of_a_request_wins_as_a_whole() {
    let all = json!({"steps": 24, "block_length": 8, "unmasking": {"order": "margin", "threshold": 0.95},
                     "remasking": {"policy": "quality", "budget": 3}, "proofreading": {"steps": 4, "below": 0.9},
                     "end_of_text": "never"});
    let own = [
        ("steps", json!(40)),
        ("block_length", json!(16)),
        ("unmasking", json!("leftmost")),
        ("remasking", json!({"policy": "present", "below": 0.7})),
        ("proofreading", json!("off")),
        ("end_of_text", json!("last")),
    ];
    let server = Server::of(Named::of(Toy::new(), json!({"all": all})), Limits::default()).await;
    let mut seen = BTreeSet::new();
    for chosen in 0..1 << own.len() {
        let own = own.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).map(|(_, field)| field.clone());
        let own: Map<String, Value> = own.map(|(name, value)| (name.to_owned(), value)).collect();
        let mut written = all.as_object().unwrap().clone();
        written.extend(own.clone());
        let mut named = own;
        named.insert("preset".to_owned(), json!("all"));
        let by_name = answers(&server, &json!(named)).await;
        assert_eq!(by_name, answers(&server, &json!(written)).await, "{named:?}");
        seen.insert(by_name[0].to_string());
    }
    assert!(seen.len() > 16, "each field makes a difference: {}", seen.len());
}

#[tokio::test]
async fn a_models_own_presets_come_in_place_of_the_built_in_ones_of_the_same_name() {
    let own = json!({"fast": {"steps": 2, "remasking": "off", "unmasking": null}, "long.2-b_": {"steps": 60}});
    let server = Server::of(Named::of(Toy::new(), own), Limits::default()).await;
    let listed = presets(&server).await;
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["balanced", "fast", "long.2-b_", "quality"]);
    assert_eq!(listed["fast"], json!({"steps": 2, "remasking": "off"}), "as it is written, without nulls");
    let ask = async |preset| {
        let body = json!({"template": "<blank:30>", "diffusion": {"preset": preset, "proofreading": "off"}});
        let answer = server.answer("/v1/infill", &body).await;
        answer["diffusion"]["forward_passes"].as_u64().unwrap()
    };
    assert_eq!(ask("fast").await, 2);
    assert!(ask("long.2-b_").await > 20);
}

#[tokio::test]
async fn a_refusal_says_what_the_preset_has_set() {
    let server = Server::of(Named::of(Toy::new(), json!({"short": {"steps": 2}, "all": {}})), Limits::default()).await;
    let refused = async |path: &str, body: Value| {
        let response = server.post(path, &body).await;
        assert_eq!(response.status(), 400, "{body}");
        response.json::<Value>().await.unwrap()["error"].clone()
    };
    let error = refused(
        "/v1/infill",
        json!({"template": "<blank:64>", "diffusion": {"preset": "short", "block_length": 8, "proofreading": "off"}}),
    )
    .await;
    assert_eq!(error["param"], "diffusion.steps");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("steps are too few for 8 blocks"), "{message}");
    assert!(message.ends_with(" (the preset \"short\" sets steps)"), "{message}");

    let other = json!({"template": "<blank:64>", "diffusion": {"preset": "short", "cfg_scale": 101}});
    let message = refused("/v1/infill", other).await["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "cfg_scale is 101; give a number from 0 to 100", "not of the preset");
    let own = json!({"template": "<blank:64>", "diffusion": {"preset": "all", "block_length": 8, "steps": 2}});
    let message = refused("/v1/infill", own).await["message"].as_str().unwrap().to_owned();
    assert!(!message.contains("preset"), "it sets nothing: {message}");

    for (body, words) in [
        (json!({"text": "abc", "diffusion": {"preset": "short"}}), "does not go with a repair, which has steps"),
        (json!({"text": "abc", "diffusion": {"preset": "none"}}), "does not go with a repair, which has steps"),
    ] {
        let error = refused("/v1/repair", body).await;
        assert_eq!(error["param"], "diffusion.preset");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
}

#[tokio::test]
async fn an_engine_whose_presets_were_not_read_has_none() {
    let server = Server::loading(1 << 20, std::time::Duration::ZERO).await;
    let (tokenizer, metrics) = (Some(toy_tokenizer()), server.metrics.model("toy").unwrap());
    let handle = start(Box::new(Toy::new()), tokenizer, Limits::default(), metrics).unwrap();
    server.state.loaded(vec![remask::api::Service { handle, name: "toy".to_owned(), created: 0 }]).unwrap();
    assert!(presets(&server).await.is_empty());
    let response = server.post("/v1/completions", &json!({"prompt": "a", "diffusion": {"preset": "fast"}})).await;
    let error: Value = response.json().await.unwrap();
    let words = "diffusion.preset: given \"fast\"; this model has no presets, leave it out";
    assert_eq!(error["error"]["message"], words);
}

#[tokio::test]
async fn a_preset_that_no_request_could_use_is_an_error_of_its_file() {
    let fault = |toy: Toy, presets: Value| {
        let metrics = Metrics::new().unwrap().model("toy").unwrap();
        let handle = start(Named::of(toy, presets), None, Limits::default(), metrics).unwrap();
        with_presets(&handle).unwrap_err().to_string()
    };
    let long = "a".repeat(65);
    let many: Map<String, Value> = (0..65).map(|number| (number.to_string(), json!({}))).collect();
    for (presets, words) in [
        (json!({"x": 5}), "presets.x: given \"5\"; give an object with some of steps, block_length, unmasking"),
        (json!({"x": null}), "presets.x: given \"null\"; give an object"),
        (json!({"x": {"cfg_scale": 2}}), "presets.x: unknown field \"cfg_scale\"; a preset has some of steps,"),
        (json!({"x": {"preset": "fast"}}), "presets.x: unknown field \"preset\"; a preset has some of steps,"),
        (json!({"x": {"steps": 0}}), "presets.x.steps: steps is 0; give 1 to 65536"),
        (json!({"x": {"steps": "many"}}), "presets.x.steps: given \"many\"; give a whole number from 1 to 65536"),
        (json!({"x": {"block_length": 0}}), "presets.x.block_length: block_length is 0; give at least 1"),
        (json!({"x": {"unmasking": {"threshold": 2}}}), "presets.x.unmasking.threshold: threshold is 2; give a number"),
        (json!({"x": {"unmasking": {"speed": 2}}}), "presets.x.unmasking.speed: unknown field `speed`, expected"),
        (json!({"x": {"remasking": "worst"}}), "presets.x.remasking: unknown variant `worst`, expected one of"),
        (json!({"x": {"remasking": {"policy": "remdm", "below": 0.5}}}), "presets.x.remasking.below: below goes with"),
        (
            json!({"x": {"unmasking": {"threshold": 0.9}, "remasking": {"policy": "present", "hold": [0, 1]}}}),
            "presets.x.remasking.hold: hold is a part of a fixed number of steps",
        ),
        (
            json!({"x": {"proofreading": "more"}}),
            "presets.x.proofreading: unknown variant `more`, expected `off` or `on`, or an object",
        ),
        (
            json!({"x": {"proofreading": {"steps": 9, "temperature": -1}}}),
            "presets.x.proofreading.temperature: temperature is -1",
        ),
        (json!({"x": {"steps": 65536, "proofreading": {"steps": 65536}}}), "forward passes"),
        (json!({"x": {"end_of_text": "soon"}}), "presets.x.end_of_text: unknown variant `soon`, expected one of"),
        (json!({"": {}}), "presets: given the name \"\"; give names of 1 to 64 letters, digits"),
        (json!({"a b": {}}), "presets: given the name \"a b\"; give names of 1 to 64 letters"),
        (json!({long: {}}), "give names of 1 to 64 letters"),
        (json!(many), "presets: given 65; give at most 64"),
    ] {
        let found = fault(Toy::new(), presets.clone());
        assert!(found.starts_with("generation_config.json: presets"), "{presets}: {found}");
        assert!(found.contains(words), "{presets}: {found:?} lacks {words:?}");
    }
    for (presets, words) in [
        (json!({"x": {"remasking": "quality"}}), "presets.x.remasking: remasking by quality needs a quality head"),
        (json!({"x": {"proofreading": {"steps": 4}}}), "presets.x.proofreading: proofreading needs a quality head"),
    ] {
        let found = fault(Toy::without_head(), presets);
        assert!(found.contains(words), "{found}");
    }
}

/// A copy of the smallest model with this `generation_config.json`.
fn model(generation: &Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors", "prism_head.safetensors"] {
        std::fs::copy(data("llada-tiny").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("generation_config.json"), generation.to_string()).unwrap();
    dir
}

fn remask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remask")).args(args).output().unwrap()
}

#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = remask(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn complaint(args: &[&str]) -> String {
    let output = remask(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn presets_of_files_are_read_and_go_along_into_a_gguf_file() {
    let presets = json!({"two": {"steps": 2, "remasking": "off"}});
    let dir = model(&json!({"block_length": 16, "presets": presets}));
    let file = dir.path().join("model.gguf");
    quantise(dir.path(), None, None, Format::Q8_0, &file, false).unwrap();
    let spec = |source: &Source| load(source, Device::Cpu).unwrap().spec().presets.clone().unwrap();
    let directory = Source::Directory { dir: dir.path().to_owned(), prism_head: None, adapter: None };
    let (of_dir, of_gguf) = (spec(&directory), spec(&Source::Gguf { file: file.clone(), prism_head: None }));
    assert_eq!(json!(of_dir.presets), presets);
    assert_eq!(of_gguf.presets, of_dir.presets);
    assert_eq!(Path::new(&of_dir.file), dir.path().join("generation_config.json"));

    for model in [dir.path(), &file] {
        let ask = ["infill", "--model-id", model.to_str().unwrap(), "--prompt-ids", "1,_,_,_,_,_,_,2", "--json"];
        let answer: Value = serde_json::from_str(&printed(&[&ask[..], &["--preset", "two"]].concat())).unwrap();
        assert_eq!(answer["forward_passes"], 2, "{answer}");
    }

    let wrong = model(&json!({"presets": {"two": {"steps": 0}}}));
    let place = wrong.path().to_str().unwrap();
    for args in
        [&["infill", "--prompt-ids", "_"][..], &["serve", "--port", "0"], &["eval", "compare", "--policy", "off"]]
    {
        let error = complaint(&[args, &["--model-id", place]].concat());
        let words = format!("{place}/generation_config.json: presets.two.steps: steps is 0; give 1 to 65536");
        assert!(error.contains(&words), "{error} lacks {words}");
    }
    let wrong = model(&json!({"presets": "fast"}));
    let error = complaint(&["infill", "--prompt-ids", "_", "--model-id", wrong.path().to_str().unwrap()]);
    assert!(error.contains("generation_config.json has a wrong `presets`: invalid type: string"), "{error}");
}

#[test]
fn the_command_line_takes_a_preset_and_its_flags_win() {
    let ask = ["generate", "--model-id", "toy", "--prompt", "Once", "--max-tokens", "32", "--seed", "1", "--json"];
    let answer = |flags: &[&str]| -> Value { serde_json::from_str(&printed(&[&ask[..], flags].concat())).unwrap() };
    let fast = answer(&["--preset", "fast"]);
    assert_eq!(fast, answer(&["--threshold", "0.9", "--remasking", "off", "--proofread", "0"]));
    assert!(fast["forward_passes"].as_u64().unwrap() < 32, "{fast}");
    let proofread = answer(&["--preset", "fast", "--proofread", "on"]);
    assert!(proofread["forward_passes"].as_u64() > fast["forward_passes"].as_u64(), "{proofread}");
    let own = answer(&["--preset", "fast", "--unmasking", "leftmost"]);
    assert_eq!(own, answer(&["--unmasking", "leftmost", "--remasking", "off", "--proofread", "off"]));
    assert_eq!(own["forward_passes"], 32, "an order in place of the preset's pace");

    let error = complaint(&[&ask[..], &["--preset", "turbo"]].concat());
    let words = "--preset: given \"turbo\"; give one of \"balanced\", \"fast\", \"quality\"";
    assert!(error.contains(words), "{error}");
}

#[test]
fn presets_are_compared() {
    let lines = |policy: &str| -> Value {
        let args = ["eval", "compare", "--count", "2", "--steps", "51", "--json", "--policy", policy];
        serde_json::from_str(printed(&args).lines().next().unwrap()).unwrap()
    };
    let fast = lines(r#"{"name": "fast", "diffusion": {"preset": "fast"}}"#);
    assert!(fast["forward_passes"].as_f64().unwrap() < 30.0, "{fast}");
    let own = lines(r#"{"diffusion": {"preset": "fast", "unmasking": "confidence"}}"#);
    assert_eq!(own["forward_passes"], 51.0, "{own}");
    let error = complaint(&["eval", "compare", "--policy", r#"{"name": "a", "diffusion": {"preset": "turbo"}}"#]);
    assert!(error.contains("policy a") && error.contains("given \"turbo\"; give one of \"balanced\""), "{error}");
}
