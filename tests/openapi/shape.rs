//! The document is well formed and lists exactly the endpoints; and its viewer works offline.

use super::document::{Document, METHODS, Operation};
use crate::common::server::Server;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Every `$ref` below `value`.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_is_well_formed() {
    let document = Document::of(&Server::toy().await).await;
    let json = &document.json;
    assert_eq!((&json["openapi"], &json["info"]["version"]), (&json!("3.1.0"), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(json["info"]["license"]["identifier"], env!("CARGO_PKG_LICENSE"));

    let mut referred = BTreeSet::new();
    references(json, &mut referred);
    for reference in &referred {
        document.find(reference);
    }
    for kind in ["schemas", "responses", "parameters"] {
        for name in json["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(referred.contains(reference.as_str()), "nothing refers to {reference}");
        }
    }

    let tags: Vec<&Value> = json["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let schemes = json["components"]["securitySchemes"].as_object().unwrap();
    let mut ids = BTreeSet::new();
    for operation in document.operations() {
        let Operation { path, about, .. } = &operation;
        assert!(ids.insert(about["operationId"].as_str().unwrap().to_owned()), "{path}: whose id is it?");
        assert!(!about["summary"].as_str().unwrap().is_empty(), "{path}");
        assert!(about["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag)), "{path}");
        assert!(!operation.path_of(&document).contains('{'), "{path}: a part of the path is not told");
        for (status, response) in about["responses"].as_object().unwrap() {
            let response = document.resolved(response);
            assert!(!response["description"].as_str().unwrap().is_empty(), "{path} {status}");
        }
        for schemes_of in about["security"].as_array().into_iter().flatten() {
            assert!(schemes_of.as_object().unwrap().keys().all(|scheme| schemes.contains_key(scheme)), "{path}");
        }
    }
}

#[tokio::test]
async fn every_endpoint_is_in_it_and_nothing_else() {
    let server = Server::toy().await;
    let document = Document::of(&server).await;
    let operations = document.operations();
    let told: BTreeSet<String> = operations.iter().map(|one| format!("{} {}", one.method, one.path)).collect();
    let root: Value = server.get("/").await.json().await.unwrap();
    let listed = root["endpoints"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
    assert_eq!(listed.collect::<BTreeSet<_>>(), told);
    let source = include_str!("../../src/api/mod.rs");
    assert_eq!(
        source.matches(".route(").count(),
        1,
        "routes come from `endpoints` alone, which the document is made of"
    );

    for operation in document.operations() {
        let path = operation.path_of(&document);
        let allowed: BTreeSet<String> = METHODS
            .iter()
            .filter(|method| document.json["paths"][operation.path].get(method).is_some())
            .flat_map(|method| [Some(method.to_uppercase()), (*method == "get").then(|| "HEAD".to_owned())])
            .flatten()
            .collect();
        for method in METHODS {
            let method: Method = method.to_uppercase().parse().unwrap();
            if allowed.contains(method.as_str()) {
                continue;
            }
            let response = server.client.request(method.clone(), server.url(&path)).send().await.unwrap();
            assert_eq!(response.status(), 405, "{method} {path}");
            let allow: BTreeSet<String> =
                response.headers()["allow"].to_str().unwrap().split(',').map(|name| name.trim().to_owned()).collect();
            assert_eq!(allow, allowed, "{path}");
            document.check(&json!({"$ref": "#/components/schemas/Error"}), &response.json().await.unwrap());
        }
    }
}

#[tokio::test]
async fn the_viewer_needs_nobody_else() {
    let server = Server::toy().await;
    let document = Document::of(&server).await;
    let page = server.get("/docs").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    let page = page.text().await.unwrap();
    assert!(!page.contains("//"), "{page}");
    let files = &document.operation("get", "/docs/{file}").about["parameters"][0]["schema"]["enum"];
    for file in files.as_array().unwrap() {
        let path = format!("/docs/{}", file.as_str().unwrap());
        let linked = path[1..].trim_end_matches(".md");
        assert!(page.contains(linked) || linked == "docs/guides.css", "{page}");
        let get = async |coding: &str| {
            let response = server.client.get(server.url(&path)).header("accept-encoding", coding).send().await.unwrap();
            assert_eq!(response.status(), 200);
            (response.headers().get("content-encoding").cloned(), response.bytes().await.unwrap())
        };
        let plain = get("identity").await;
        assert_eq!((&plain.0, &get("gzip;q=0, br").await), (&None, &plain));
        let (coding, packed) = get("br, gzip;q=0.5").await;
        match coding {
            Some(coding) => {
                assert_eq!(coding, "gzip");
                assert!(packed.len() * 3 < plain.1.len(), "{path}");
            }
            None => assert_eq!(packed, plain.1),
        }
    }
    let missing = server.get("/docs/nothing.js").await;
    assert_eq!(missing.status(), 404);
    document.check_response(&document.operation("get", "/docs/{file}"), missing).await;
}

#[tokio::test]
async fn the_guides_are_pages_without_scripts_or_their_sources() {
    let server = Server::toy().await;
    let page = server.get("/docs/policies").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'self';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let page = page.text().await.unwrap();
    for part in ["<title>Policies: how an answer is refined - Remask</title>", "<h2 id=\"words\">", "<a href=\"api#"] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    assert!(!page.contains("<script") && !page.contains(" style="), "{page}");
    assert_eq!(server.get("/docs/guides.css").await.status(), 200);
    let source = server.get("/docs/policies.md").await;
    assert_eq!(source.headers()["content-type"], "text/markdown; charset=utf-8");
    assert_eq!(source.text().await.unwrap(), include_str!("../../docs/policies.md"));
    let moved = server.get("/docs/policies/").await;
    assert!(moved.url().path().ends_with("/docs/policies") && moved.status() == 200, "{}", moved.url());
}
