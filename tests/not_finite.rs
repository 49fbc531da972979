//! Requests for which the model has no finite numbers: they fail alone, and are no breakdown.

mod common;

use candle_core::safetensors::{load as load_tensors, save};
use candle_core::{Device as Cpu, Tensor};
use common::golden::tiny;
use common::server::Server;
use common::{engine, failure, finished};
use remask::diffusion::policy::{Choice, OFF};
use remask::diffusion::{Canvas, Cell, Seed, TokenId};
use remask::engine::{
    Answer, Clock, Failure, Handle, Length, Limits, Prompt, Readiness, Request, Restart, Task, World, start_by,
};
use remask::model::{Denoiser, Device, Filter, ModelError, Row, RowError, Sampling, Source, Toy, load};
use remask::telemetry::Metrics;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The token whose embedding is not a number, so that every row with it has no finite numbers.
const DAMAGED: u32 = 7;

/// The tiny model, with a quality head, and with an embedding that is not a number.
fn damaged() -> Box<dyn Denoiser> {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "prism_head.safetensors"] {
        std::fs::copy(tiny(file), dir.path().join(file)).unwrap();
    }
    let mut weights = load_tensors(tiny("model.safetensors"), &Cpu::Cpu).unwrap();
    let name = "model.transformer.wte.weight";
    let width = weights[name].dims()[1];
    let row = Tensor::full(f32::NAN, (1, width), &Cpu::Cpu).unwrap().to_dtype(weights[name].dtype()).unwrap();
    let embedding = weights[name].slice_assign(&[DAMAGED as usize..DAMAGED as usize + 1, 0..width], &row).unwrap();
    weights.insert(name.to_owned(), embedding);
    save(&weights, dir.path().join("model.safetensors")).unwrap();
    load(&Source::Directory { dir: dir.path().to_owned(), prism_head: None, adapter: None }, Device::Cpu).unwrap()
}

fn row(canvas: &Canvas) -> Row<'_> {
    let sampling = Sampling { temperature: 0.0, seed: Seed(1), step: 0, filter: Filter::ALL };
    Row { sampling, review: true, ..Row::plain(canvas, 0..canvas.len()) }
}

fn canvas(first: u32) -> Canvas {
    let cells = [Cell::Fixed(TokenId(first)), Cell::Filled(TokenId(3)), Cell::Blank, Cell::Filled(TokenId(4))];
    Canvas::new(cells.to_vec())
}

#[test]
fn a_row_without_finite_numbers_has_an_error_and_its_neighbours_have_their_readings() {
    let mut model = damaged();
    let (good, bad) = (canvas(1), canvas(DAMAGED));
    let full = Canvas::new(vec![Cell::Filled(TokenId(DAMAGED)), Cell::Filled(TokenId(3))]);
    let huge = Row { guidance: Some(3e38), ..row(&good) };
    let foreign = Canvas::continuing(&[TokenId(264)], 1);
    let rows =
        [row(&good), row(&bad), huge, row(&good), row(&full), row(&foreign), Row { present: true, ..row(&good) }];
    let readings = model.read(&rows).unwrap();
    let what = |reading: &Result<_, RowError>| match reading {
        Ok(_) => "read",
        Err(RowError::NotFinite { what, .. }) => what,
        Err(RowError::Unsupported(_)) => "unsupported",
    };
    let kinds: Vec<&str> = readings.iter().map(what).collect();
    assert_eq!(kinds, ["read", "a logit", "a logit", "read", "a quality", "unsupported", "read"]);
    for (row, reading) in rows.iter().zip(&readings) {
        assert_eq!(&model.read(std::slice::from_ref(row)).unwrap()[0], reading, "as alone, to the bit");
    }
}

/// A continuation of one token by four, in four passes and one for the qualities.
fn ask(first: u32) -> Request {
    let prompt = Prompt::Tokens(vec![TokenId(first)]);
    let task = Task::Continue { prompt, length: Length::New(4) };
    let remasking = Some(Choice::of(&OFF));
    Request { remasking, block_length: Some(4), steps: Some(4), return_quality: true, ..Request::new(task) }
}

fn score(tokens: &[u32], likelihood: bool) -> Request {
    let text = Prompt::Tokens(tokens.iter().copied().map(TokenId).collect());
    Request::new(Task::Score { text, likelihood })
}

async fn alone(request: &Request) -> Answer {
    finished(engine(damaged(), None, Limits::default()).submit(request).unwrap()).await
}

/// An engine that would reload its model, and cannot: a single reload ends it.
fn that_gives_up_at_a_breakdown(model: Box<dyn Denoiser>) -> (Handle, Arc<Metrics>) {
    let restart = Restart::by(Box::new(|| Err("told to".to_owned())), Duration::ZERO);
    let metrics = Arc::new(Metrics::new().unwrap());
    let world = World { clock: Clock::system(), restart };
    (start_by(world, model, None, Limits::default(), metrics.model("toy").unwrap()).unwrap(), metrics)
}

#[tokio::test]
async fn it_fails_alone_and_however_many_there_are_nothing_breaks_down() {
    let (handle, metrics) = that_gives_up_at_a_breakdown(damaged());
    let good = [ask(1), ask(2), score(&[1, 2, 3], true)];
    for _ in 0..4 {
        let sessions = good.each_ref().map(|request| handle.submit(request).unwrap());
        let bad = [ask(DAMAGED), score(&[1, DAMAGED], false), score(&[DAMAGED, 1], true)];
        for session in bad.map(|request| handle.submit(&request).unwrap()) {
            let failure = failure(session).await;
            assert!(matches!(failure, Failure::Model(ModelError::Row(RowError::NotFinite { .. }))), "{failure:?}");
            assert!(failure.to_string().starts_with("the model returned no finite probabilities for this request"));
        }
        for (session, request) in sessions.into_iter().zip(&good) {
            assert_eq!(finished(session).await, alone(request).await, "exactly what it would have been");
        }
    }
    assert_eq!(handle.readiness(), Readiness::Ready);
    let metrics = metrics.render();
    for line in [
        "remask_model_restarts_total{device=\"cpu\",model=\"toy\"} 0",
        "remask_model_failures_total{device=\"cpu\",model=\"toy\"} 0",
        "remask_sequences_failed_total{model=\"toy\"} 12",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}:\n{metrics}");
    }
}

#[tokio::test]
async fn over_http_it_is_a_failure_of_the_model_and_a_huge_guidance_an_invalid_request() {
    let server = Server::of(damaged(), Limits::default()).await;
    let body = |prompt: u32| json!({"prompt": [prompt], "max_tokens": 2});
    for _ in 0..7 {
        let response = server.post("/v1/completions", &body(DAMAGED)).await;
        assert_eq!(response.status(), 500);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], "model_failure");
        assert!(error["error"]["message"].as_str().unwrap().contains("no finite probabilities for this request"));
    }
    assert_eq!(server.get("/ready").await.status(), 200);
    server.answer("/v1/completions", &body(1)).await;

    let server = Server::of(Box::new(Toy::new()), Limits::default()).await;
    let body = json!({"prompt": "a", "max_tokens": 2, "diffusion": {"cfg_scale": 3e38}});
    let response = server.post("/v1/completions", &body).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["param"], "diffusion.cfg_scale");
    let most = json!({"prompt": "a", "max_tokens": 2, "temperature": 3.4e38, "logit_bias": {"97": 100, "98": -100},
                      "diffusion": {"cfg_scale": 100}});
    server.answer("/v1/completions", &most).await;
}
