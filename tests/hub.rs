//! Models of the Hugging Face hub, fetched from a server that acts as the hub: downloaded once,
//! resumed where a download broke off, found in the cache afterwards; and the errors where a model
//! cannot be fetched.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::get;
use futures_util::StreamExt;
use remask::model::{Config, Device, Source, load};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// A hub with one model, `owner/tiny`.
#[derive(Default)]
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    /// The next answer for this file breaks off half way.
    breaks_off: Mutex<Option<String>>,
    /// The requests: the file, and the byte it starts from.
    asked: Mutex<Vec<(String, usize)>>,
    token: Option<&'static str>,
}

type Asked = UrlPath<(String, String, String, String)>;

async fn answer(
    State(hub): State<Arc<Hub>>,
    UrlPath((owner, name, revision, file)): Asked,
    headers: HeaderMap,
) -> Response<Body> {
    let status = |code: StatusCode| Response::builder().status(code).body(Body::empty()).unwrap();
    let word = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if hub.token.is_some_and(|token| word("authorization") != Some(format!("Bearer {token}"))) {
        return status(StatusCode::UNAUTHORIZED);
    }
    let known = (owner == "owner" && name == "tiny" && revision == "main").then(|| hub.files.get(&file)).flatten();
    let Some(bytes) = known else { return status(StatusCode::NOT_FOUND) };
    let range = word("range").unwrap();
    let (from, until) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let (from, whole) = (from.parse::<usize>().unwrap(), bytes.len());
    let until = until.parse::<usize>().map_or(whole, |last| last + 1).min(whole);
    if until != 1 {
        hub.asked.lock().unwrap().push((file.clone(), from));
    }
    let breaks_off = until != 1 && hub.breaks_off.lock().unwrap().take_if(|broken| *broken == file).is_some();
    let sent = bytes[from..if breaks_off { whole / 2 } else { until }].to_vec();
    let pieces = futures_util::stream::once(async { Ok(sent) }).chain(futures_util::stream::once(async move {
        tokio::task::yield_now().await; // let sent bytes leave before the connection is closed
        if breaks_off { Err(std::io::Error::other("the line is cut")) } else { Ok(Vec::new()) }
    }));
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("x-repo-commit", "0123456789abcdef")
        .header("etag", format!("\"{file}-{whole}\""))
        .header("content-range", format!("bytes {from}-{}/{whole}", until.saturating_sub(1)))
        .body(Body::from_stream(pieces))
        .unwrap()
}

/// The names of the model's files.
async fn list(State(hub): State<Arc<Hub>>) -> axum::Json<Value> {
    let siblings: Vec<Value> = hub.files.keys().map(|name| json!({"rfilename": name})).collect();
    axum::Json(json!({"sha": "0123456789abcdef", "siblings": siblings}))
}

fn tiny(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llada-tiny").join(name)
}

fn files(names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    names.iter().map(|name| ((*name).to_owned(), std::fs::read(tiny(name)).unwrap())).collect()
}

/// The address of a hub that answers until the test is over.
async fn open(hub: &Arc<Hub>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/{owner}/{name}/resolve/{revision}/{*file}", get(answer))
        .route("/api/models/{owner}/{name}/revision/{revision}", get(list))
        .with_state(Arc::clone(hub));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}")
}

/// `remask read` of a few tokens.
async fn read(hub: &str, home: &Path, more: &[&str], offline: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
    command.args(["read", "--prompt-ids", "5,3,7", "--json"]).args(more);
    command.env("HF_HOME", home).env("HF_ENDPOINT", hub).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
    if offline {
        command.env("HF_HUB_OFFLINE", "1");
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[track_caller]
fn numbers(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn check_error(output: &Output, words: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !error.contains("panicked"), "{error}");
    words.iter().for_each(|words| assert!(error.contains(words), "{error} lacks {words:?}"));
}

const NAME: [&str; 2] = ["--model-id", "owner/tiny"];

#[tokio::test]
async fn a_model_is_fetched_once_and_then_found_without_the_hub() {
    let hub = Arc::new(Hub {
        files: files(&["config.json", "generation_config.json", "model.safetensors", "prism_head.safetensors"]),
        breaks_off: Mutex::new(Some("model.safetensors".to_owned())),
        ..Hub::default()
    });
    let (address, home) = (open(&hub).await, tempfile::tempdir().unwrap());
    let here = read("http://127.0.0.1:9", home.path(), &["--model-id", tiny("").to_str().unwrap()], false).await;
    let here = numbers(&here);
    let fetched = read(&address, home.path(), &NAME, false).await;
    assert_eq!(numbers(&fetched), here, "as from the directory, head included");
    let said = String::from_utf8_lossy(&fetched.stderr);
    for words in ["downloading model.safetensors of owner/tiny, ", "downloaded model.safetensors of owner/tiny: "] {
        assert_eq!(said.matches(words).count(), 1, "without a terminal, in lines: {said}");
    }

    let asked = std::mem::take(&mut *hub.asked.lock().unwrap());
    let of = |file: &str| asked.iter().filter(|(name, _)| name == file).map(|(_, from)| *from).collect::<Vec<_>>();
    let half = std::fs::metadata(tiny("model.safetensors")).unwrap().len() / 2;
    assert_eq!(of("model.safetensors"), [0, usize::try_from(half).unwrap()], "resumed where it broke off");
    assert_eq!(of("config.json"), [0]);

    // port 9 refuses connections
    assert_eq!(numbers(&read("http://127.0.0.1:9", home.path(), &NAME, false).await), here);
    assert_eq!(numbers(&read("http://127.0.0.1:9", home.path(), &NAME, true).await), here);
    assert!(hub.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn chat_templates_are_fetched_with_their_folder() {
    let mut served = files(&["config.json", "model.safetensors"]);
    let templates = ["chat_template.jinja", "additional_chat_templates/tool_use.jinja", "special_tokens_map.json"];
    served.extend(templates.map(|name| (name.to_owned(), b"{}".to_vec())));
    served.insert("additional_chat_templates/more/deep.jinja".to_owned(), Vec::new());
    let hub = Arc::new(Hub { files: served, ..Hub::default() });
    let (address, home) = (open(&hub).await, tempfile::tempdir().unwrap());
    numbers(&read(&address, home.path(), &NAME, false).await);
    let cached = home.path().join("hub/models--owner--tiny/snapshots/0123456789abcdef");
    assert!(templates.iter().all(|name| cached.join(name).exists()), "{:?}", hub.asked.lock().unwrap());
    assert!(!cached.join("additional_chat_templates/more").exists());
    numbers(&read("http://127.0.0.1:9", home.path(), &NAME, false).await);
}

#[tokio::test]
async fn shards_are_fetched_as_their_index_names_them() {
    let mut files = files(&["config.json", "prism_head.safetensors"]);
    let weights = candle_core::safetensors::load(tiny("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let mut parts = [BTreeMap::new(), BTreeMap::new()];
    let mut weight_map = BTreeMap::new();
    for (index, (name, tensor)) in weights.into_iter().enumerate() {
        weight_map.insert(name.clone(), format!("part-{}.safetensors", index % 2));
        parts[index % 2].insert(name, tensor);
    }
    for (index, part) in parts.into_iter().enumerate() {
        let path = tempfile::NamedTempFile::new().unwrap();
        candle_core::safetensors::save(&part.into_iter().collect(), path.path()).unwrap();
        files.insert(format!("part-{index}.safetensors"), std::fs::read(path.path()).unwrap());
    }
    files.insert("model.safetensors.index.json".to_owned(), json!({"weight_map": weight_map}).to_string().into());
    let hub = Arc::new(Hub { files, ..Hub::default() });
    let (address, home) = (open(&hub).await, tempfile::tempdir().unwrap());
    let mut model = load(&Source::Directory { dir: tiny(""), prism_head: None, adapter: None }, Device::Cpu).unwrap();
    let expected = model.inspect(&[5, 3, 7].map(remask::diffusion::TokenId)).unwrap();
    let found = numbers(&read(&address, home.path(), &NAME, false).await);
    let first = found["logits"][0][0].as_f64().unwrap();
    assert!((first - f64::from(expected.logits[0][0])).abs() < 1e-5, "{first}");

    let elsewhere = json!({"weight_map": {"a": "../secrets"}}).to_string();
    let bad = [
        ("config.json".to_owned(), hub.files["config.json"].clone()),
        ("model.safetensors.index.json".to_owned(), elsewhere.into()),
    ];
    let hub = Arc::new(Hub { files: bad.into(), ..Hub::default() });
    let (address, home) = (open(&hub).await, tempfile::tempdir().unwrap());
    check_error(&read(&address, home.path(), &NAME, false).await, &["\"../secrets\", which is no file beside it"]);
}

#[tokio::test]
async fn what_cannot_be_fetched_is_said_with_what_to_do() {
    let hub = Arc::new(Hub { files: files(&["config.json"]), token: Some("secret"), ..Hub::default() });
    let (address, home) = (open(&hub).await, tempfile::tempdir().unwrap());
    let ask = async |more: &[&str], offline| read(&address, home.path(), more, offline).await;
    check_error(&ask(&NAME, false).await, &["does not hand out owner/tiny (status 401)", "HF_TOKEN"]);
    let token = ["--hf-token", "secret"];
    check_error(&ask(&[&NAME[..], &token].concat(), false).await, &["has no model.safetensors for owner/tiny"]);
    check_error(
        &ask(&[&token[..], &["--model-id", "owner/nothing"]].concat(), false).await,
        &["has no config.json for owner/nothing at revision \"main\""],
    );
    check_error(&ask(&["--model-id", "owner/other"], true).await, &["is not in the cache", "HF_HUB_OFFLINE"]);
    check_error(&ask(&["--model-id", "nowhere"], false).await, &["no such directory", "owner/name"]);
    let unreachable = read("http://127.0.0.1:9", home.path(), &["--model-id", "owner/other"], false).await;
    check_error(&unreachable, &["cannot fetch config.json of owner/other from the hub", "give a directory instead"]);
}

#[cfg(target_os = "linux")] // which has a device that is always full
#[tokio::test]
async fn a_full_disk_is_named_with_the_place_to_make_room() {
    let hub = Arc::new(Hub { files: files(&["config.json", "model.safetensors"]), ..Hub::default() });
    let (address, home) = (open(&hub).await, tempfile::tempdir().unwrap());
    let blobs = home.path().join("hub/models--owner--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let etag = format!("model.safetensors-{}", hub.files["model.safetensors"].len());
    let part = blobs.join(etag).with_extension("part");
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let full = read(&address, home.path(), &NAME, false).await;
    check_error(&full, &["cannot write model.safetensors of owner/tiny", "No space left", "HF_HOME"]);

    // once there is room, the same command resumes
    std::fs::remove_file(&part).unwrap();
    numbers(&read(&address, home.path(), &NAME, false).await);
}

#[test]
fn made_up_weights_need_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tiny("config.json"), dir.path().join("config.json")).unwrap();
    assert!(Config::read(dir.path()).is_ok());
    let read = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remask"));
        command.args(["read", "--prompt-ids", "5,3,7", "--json", "--load-format", format, "--model-id"]);
        command.arg(dir.path()).output().unwrap()
    };
    let numbers = numbers(&read("dummy"));
    assert_eq!(
        (numbers["logits"].as_array().unwrap().len(), numbers["quality_logits"].as_array().unwrap().len()),
        (3, 3)
    );
    check_error(&read("auto"), &["cannot read", "model.safetensors"]);
}
