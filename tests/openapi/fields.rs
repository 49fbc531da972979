//! Fields and their ranges match the document.

use super::document::Document;
use crate::common::server::Server;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The known fields that a refusal of `body` lists.
async fn known_fields(server: &Server, path: &str, body: &Value) -> BTreeSet<String> {
    let error: Value = server.post(path, body).await.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    let (_, known) = message.split_once("expected").unwrap_or_else(|| panic!("{path}: {message}"));
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_field_is_in_it_and_what_lies_out_of_its_range_is_refused() {
    let server = Server::toy().await;
    let document = Document::of(&server).await;
    let names = |schema: &Value| -> BTreeSet<String> {
        document.resolved(schema)["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let mut ranges = 0;
    for operation in document.operations() {
        let Some(example) = operation.examples()[0] else { continue };
        let body = &operation.about["requestBody"]["content"]["application/json"]["schema"];
        let fields = &document.resolved(body)["properties"];
        let known = known_fields(&server, operation.path, &json!({"nonsense": 1})).await;
        // a refusal does not list the many fields that do nothing here
        let is_without_effect = |name: &String| {
            let description = fields[name]["description"].as_str().unwrap_or_default();
            description.starts_with("Other servers' field") || description == "Accepted and ignored."
        };
        let named = names(body).into_iter().filter(|name| known.contains(name) || !is_without_effect(name));
        assert_eq!(named.collect::<BTreeSet<_>>(), known, "{body}");
        ranges += check_ranges(&server, operation.path, example, fields, |body, name, value| body[name] = value).await;
        if let Some(object) = fields.get("diffusion") {
            let object = document.resolved(&object["oneOf"][0]);
            let unknown = json!({"diffusion": {"nonsense": 1}});
            assert_eq!(names(object), known_fields(&server, operation.path, &unknown).await, "{body}");
            let set = |body: &mut Value, name: &str, value| body["diffusion"] = json!({name: value});
            ranges += check_ranges(&server, operation.path, example, &object["properties"], set).await;
        }
    }
    assert!(ranges > 50, "only {ranges} limits were found");
}

/// Checks that a number beyond each limit is refused by the name of its field; returns the number
/// of limits.
async fn check_ranges(
    server: &Server,
    path: &str,
    example: &Value,
    fields: &Value,
    set: impl Fn(&mut Value, &str, Value),
) -> usize {
    let mut checked = 0;
    for (name, field) in fields.as_object().unwrap_or(&Map::new()) {
        let limit = |limit: &str| field.get(limit).and_then(Value::as_f64);
        let (low, high) =
            (limit("minimum").map(|low| low.min(low * 2.0) - 1.0), limit("maximum").map(|high| high * 2.0 + 1.0));
        for beyond in [low, high, limit("exclusiveMinimum")].into_iter().flatten() {
            let mut body = example.clone();
            body.as_object_mut().unwrap().retain(|field, _| !field.starts_with("max_")); // there are two names for this limit
            set(&mut body, name, json!(beyond));
            let response = server.post(path, &body).await;
            assert_eq!(response.status(), 400, "{path}: {name} may be {beyond}");
            let error: Value = response.json().await.unwrap();
            let plain = |name: &str| name.replace("completion_", ""); // two names for the same
            let param = plain(error["error"]["param"].as_str().unwrap());
            assert!(param.ends_with(&plain(name)), "{path}: {name} {beyond}: {error}");
            checked += 1;
        }
    }
    checked
}
