//! Names of requests and events, as `Last-Event-ID`, `X-Request-Id`, `Idempotency-Key` and in paths.
#![no_main]

mod server;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let body = r#"{"template": "a<blank>", "stream": true}"#;
    for name in ["last-event-id", "x-request-id", "idempotency-key"] {
        server::ask(Request::post("/v1/infill").header(name, &value).body(Body::from(body)).unwrap());
    }
    if let Ok(path) = value.to_str() {
        for method in ["GET", "DELETE"] {
            let request = Request::builder().method(method).uri(format!("/v1/requests/{path}"));
            if let Ok(request) = request.header("last-event-id", &value).body(Body::empty()) {
                server::ask(request);
            }
        }
    }
});
