//! A server without a network, behind which the toy model writes a few tokens.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use remask::api::{Access, AppState, BODY_MAX, Service, router, with_presets};
use remask::engine::{Limits, start};
use remask::model::Toy;
use remask::telemetry::Metrics;
use remask::text::Tokenizer;
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;
use tower::ServiceExt;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

static SERVER: LazyLock<axum::Router> = LazyLock::new(|| {
    let metrics = Arc::new(Metrics::new().unwrap());
    let state = AppState::new(Arc::clone(&metrics), BODY_MAX, Access::default());
    let tokenizer: &[u8] = include_bytes!("../../../models/toy/tokenizer.json");
    let config: &[u8] = include_bytes!("../../../models/toy/tokenizer_config.json");
    let tokenizer = Arc::new(Tokenizer::from_texts(tokenizer, Some(config)).unwrap());
    let limits = Limits { canvas_max: Some(48), ..Limits::default() };
    let handle = start(Box::new(Toy::new()), Some(tokenizer), limits, metrics.model("toy").unwrap()).unwrap();
    let handle = with_presets(&handle).unwrap();
    state.loaded(vec![Service { handle, name: "toy".to_owned(), created: 0 }]).unwrap();
    router(state)
});

/// Asks, and sees to it that there is an answer and that it is not the server's fault.
pub fn ask(request: Request<Body>) {
    RUNTIME.block_on(async {
        let response = SERVER.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        assert!(parts.status.as_u16() < 500, "{} {}", parts.status, String::from_utf8_lossy(&body));
        if !parts.status.is_success() {
            let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        }
    });
}

/// Posts a body.
#[allow(dead_code)] // not every target does
pub fn post(path: &str, body: impl Into<Body>) {
    ask(Request::post(path).body(body.into()).unwrap());
}
