//! Cards: what is published about models of the hub, for a model in the hub's cache, also where its
//! directory is given by path or through a link; and which presets come in place of which.

mod common;

use common::data;
use common::server::Server;
use remask::engine::Limits;
use remask::model::{Config, Denoiser, Device, Source, load};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const REVISION: &str = "0123456789abcdef";

/// A cache of the hub in `home`, with a model of which `files` are the directory.
fn cached(home: &Path, owner: &str, name: &str, files: &Path) -> PathBuf {
    let model = home.join("hub").join(format!("models--{owner}--{name}"));
    let snapshot = model.join("snapshots").join(REVISION);
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(model.join("refs/main"), REVISION).unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        if files.join(file).exists() {
            std::fs::copy(files.join(file), snapshot.join(file)).unwrap();
        }
    }
    snapshot
}

fn model(dir: &Path) -> Box<dyn Denoiser> {
    load(&Source::Directory { dir: dir.to_owned(), prism_head: None, adapter: None }, Device::Cpu).unwrap()
}

/// A server of the model in `dir`, without a tokenizer.
async fn serve(dir: &Path) -> Server {
    let server = Server::loading(1 << 20, Duration::ZERO).await;
    server.load(model(dir), None, Limits::default());
    server
}

/// The forward passes of an answer of so many tokens.
async fn passes(server: &Server, tokens: usize, diffusion: Value) -> u64 {
    let body = json!({"prompt": [1, 2, 3], "max_tokens": tokens, "seed": 1, "diffusion": diffusion});
    server.answer("/v1/completions", &body).await["diffusion"]["forward_passes"].as_u64().unwrap()
}

/// What `/v1/models` lists for the model in `dir`.
async fn presets(dir: &Path) -> Map<String, Value> {
    let models: Value = serve(dir).await.get("/v1/models").await.json().await.unwrap();
    models["data"][0]["diffusion"]["presets"].as_object().unwrap().clone()
}

#[tokio::test]
async fn a_card_comes_before_what_is_built_in_and_after_the_models_own_file() {
    let home = TempDir::new().unwrap();
    let dir = cached(home.path(), "gsai-ml", "llada-8b-INSTRUCT", &data("llada-tiny"));
    let unknown = cached(home.path(), "gsai-ml", "llada-8b-other", &data("llada-tiny"));
    let (built_in, of_card) = (presets(&unknown).await, presets(&dir).await);
    assert_eq!(built_in.keys().collect::<Vec<_>>(), ["balanced", "fast", "quality"], "as of any directory");
    assert_eq!(of_card.keys().collect::<Vec<_>>(), ["balanced", "fast", "llada", "quality"]);
    assert_eq!(of_card["balanced"], built_in["balanced"]);
    assert_eq!(built_in["fast"].get("cache"), None);
    assert_eq!(of_card["fast"]["cache"], "dual");
    assert_eq!(of_card["llada"], json!({"block_length": 32, "unmasking": "confidence", "remasking": "off"}));

    let own = json!({"presets": {"llada": {"steps": 3}, "short": {"steps": 2}}});
    std::fs::write(dir.join("generation_config.json"), own.to_string()).unwrap();
    let of_file = presets(&dir).await;
    assert_eq!(of_file.keys().collect::<Vec<_>>(), ["balanced", "fast", "llada", "quality", "short"]);
    assert_eq!([&of_file["llada"], &of_file["short"]], [&json!({"steps": 3}), &json!({"steps": 2})]);
    assert_eq!(of_file["fast"], of_card["fast"]);

    let server = serve(&dir).await;
    let off = |more: Value| {
        let mut diffusion = json!({"preset": "llada", "remasking": "off"});
        diffusion.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        diffusion
    };
    assert_eq!(passes(&server, 12, off(json!({}))).await, 3);
    assert_eq!(passes(&server, 12, off(json!({"steps": 5}))).await, 5, "a request comes before all");
}

#[test]
fn a_model_of_the_hub_needs_no_flag() {
    let home = TempDir::new().unwrap();
    let dir = cached(home.path(), "d3LLM", "d3LLM_LLaDA", &data("llada-tiny"));
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    let ask = |model: &str, preset: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        command.args(["infill", "--model-id", model, "--preset", preset, "--json", "--prompt-ids", "1,_,_,_,_,_,2"]);
        command.env("HF_HOME", home.path()).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    let printed = |model: &str| {
        let output = ask(model, "d3llm");
        assert!(output.status.success(), "{model}: {}", String::from_utf8_lossy(&output.stderr));
        let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["forward_passes"].take()
    };
    let by_name = printed("d3LLM/d3LLM_LLaDA");
    for place in [&dir, &link, &dir.join("../../snapshots").join(REVISION)] {
        assert_eq!(printed(place.to_str().unwrap()), by_name);
    }
    let refused = ask(data("llada-tiny").to_str().unwrap(), "d3llm");
    let words = "--preset: given \"d3llm\"; give one of \"balanced\", \"fast\", \"quality\"";
    assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{refused:?}");
}

#[tokio::test]
async fn models_that_correct_themselves_run_with_the_sampler_that_they_are_published_with() {
    let home = TempDir::new().unwrap();
    for (owner, name, files, own) in [
        ("maple-research-lab", "RemeDi-Instruct", "remedi-tiny", &["remedi", "remedi_logit"][..]),
        ("maple-research-lab", "RemeDi-RL", "remedi-tiny", &["remedi", "remedi_logit"]),
        ("kuleshov-group", "proseco-llada-sft", "llada-tiny", &["proseco"]),
        ("kuleshov-group", "proseco-owt", "dit-tiny", &["proseco"]),
    ] {
        let server = serve(&cached(home.path(), owner, name, &data(files))).await;
        for preset in own {
            let found = passes(&server, 16, json!({"preset": preset})).await;
            let corrects = *preset == "proseco";
            assert!(if corrects { found > 16 } else { (1..=16).contains(&found) }, "{name}, {preset}: {found} passes");
        }
    }
}

#[test]
fn a_card_has_the_ids_that_a_models_files_lack() {
    let home = TempDir::new().unwrap();
    let mask = |owner: &str, name: &str, id: Option<u32>| {
        let dir = cached(home.path(), owner, name, &data("llada-hub/instruct"));
        let mut keys: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        keys.as_object_mut().unwrap().remove("mask_token_id");
        if let Some(id) = id {
            keys["mask_token_id"] = json!(id);
        }
        std::fs::write(dir.join("config.json"), keys.to_string()).unwrap();
        Config::read(&dir).map(|config| config.mask.0).map_err(|error| error.to_string())
    };
    assert_eq!(mask("GSAI-ML", "iLLaDA-8B-Instruct", None), Ok(5));
    assert_eq!(mask("GSAI-ML", "iLLaDA-8B-Instruct", Some(9)), Ok(9), "its own file says it");
    assert_eq!(mask("kuleshov-group", "proseco-llada-sft", None), Ok(126_336));
    let error = mask("owner", "unknown", None).unwrap_err();
    assert!(error.contains("mask_token_id"), "{error}");
}
