//! JSON Schemas and skeletons: what is accepted is answered by JSON.
#![no_main]

mod server;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let Ok(given) = serde_json::from_slice::<Value>(data) else { return };
    let schema = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": given}});
    let skeleton = json!({"type": "json_skeleton", "skeleton": given});
    for format in [schema, skeleton, given.clone()] {
        server::post("/v1/completions", json!({"prompt": "a", "response_format": format}).to_string());
    }
});
