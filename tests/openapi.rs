//! `/openapi.json` and `/docs`: the document is well formed, about every endpoint and nothing else, its examples work, and
//! what it says of answers, refusals and fields is what the server does.

mod common;

use common::schema::faults;
use common::server::{Failing, Gated, Server, events};
use common::{sudoku_model, sudoku_tokenizer, toy_tokenizer};
use remask::api::{Access, BODY_MAX, Guard, Service};
use remask::engine::{Limits, start};
use remask::model::Toy;
use remask::telemetry::Metrics;
use reqwest::{Method, Response};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const METHODS: [&str; 7] = ["get", "post", "put", "delete", "patch", "options", "trace"];

/// What a server says about itself.
struct Document {
    json: Value,
    /// Its components, each object of which is what it says and no more.
    strict: Value,
}

/// One method of one path.
struct Operation<'a> {
    method: Method,
    path: &'a str,
    about: &'a Value,
}

impl Document {
    async fn of(server: &Server) -> Self {
        let json: Value = server.get("/openapi.json").await.json().await.unwrap();
        let mut strict = json["components"].clone();
        close(&mut strict);
        Self { json, strict }
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let paths = self.json["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            let known = METHODS.iter().filter_map(move |method| Some((method, item.get(method)?)));
            known.map(move |(method, about)| Operation { method: method.to_uppercase().parse().unwrap(), path, about })
        });
        operations.collect()
    }

    fn operation<'a>(&'a self, method: &str, path: &'a str) -> Operation<'a> {
        let about = &self.json["paths"][path][method];
        assert!(about.is_object(), "{method} {path} is not there");
        Operation { method: method.to_uppercase().parse().unwrap(), path, about }
    }

    /// What a pointer such as `#/components/schemas/Error` leads to.
    fn find(&self, reference: &str) -> &Value {
        let found = reference.strip_prefix('#').and_then(|pointer| self.json.pointer(pointer));
        found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        value.get("$ref").map_or(value, |reference| self.find(reference.as_str().unwrap()))
    }

    /// Checks a value, which may have no field that is not in its schema.
    #[track_caller]
    fn check(&self, schema: &Value, value: &Value) {
        let faults = faults(&json!({"components": self.strict}), schema, value);
        assert!(faults.is_empty(), "{value:#} is not as {schema} says:\n{}", faults.join("\n"));
    }

    /// Checks an event of a stream, and what its data spells.
    fn check_event(&self, schema: &Value, name: &str, data: &str) {
        let name = if name.is_empty() { "message" } else { name };
        self.check(schema, &json!({"event": name, "data": data}));
        let is_meant = |event: &&Value| event["properties"]["event"]["enum"][0] == name;
        let event = schema["oneOf"].as_array().unwrap().iter().find(is_meant).unwrap();
        let forms = &event["properties"]["data"];
        let forms = forms["anyOf"].as_array().cloned().unwrap_or_else(|| vec![forms.clone()]);
        if !forms.iter().any(|form| form["enum"] == json!([data])) {
            let spelled = forms.iter().find_map(|form| form.get("contentSchema")).unwrap();
            self.check(spelled, &serde_json::from_str(data).unwrap());
        }
    }

    /// Checks a response against what the operation says of its status; returns its body.
    async fn check_response(&self, operation: &Operation<'_>, response: Response) -> String {
        let status = response.status().as_u16();
        let place = format!("{} {} {status}", operation.method, operation.path);
        let told = &operation.about["responses"][status.to_string()];
        assert!(told.is_object(), "{place} is not documented");
        let told = self.resolved(told);
        for name in told["headers"].as_object().unwrap().keys() {
            assert!(response.headers().contains_key(name), "{place} lacks {name}");
        }
        let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let content = &told["content"][&media_type];
        assert!(content.is_object(), "{place} is {media_type}");
        let body = response.text().await.unwrap();
        match media_type.as_str() {
            "application/json" => self.check(&content["schema"], &serde_json::from_str(&body).unwrap()),
            "text/event-stream" => {
                let events = events(&body);
                assert!(events.len() > 2, "{place}: {body}");
                events.iter().for_each(|event| self.check_event(&content["schema"], &event.name, &event.data));
            }
            _ => self.check(&content["schema"], &json!(body)),
        }
        body
    }
}

impl Operation<'_> {
    /// The path, with the examples of its parts filled in.
    fn path_of(&self, document: &Document) -> String {
        let parameters = self.about["parameters"].as_array().unwrap().iter().map(|one| document.resolved(one));
        parameters.filter(|parameter| parameter["in"] == "path").fold(self.path.to_owned(), |path, parameter| {
            let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap());
            path.replace(&format!("{{{name}}}"), example)
        })
    }

    /// Bodies that are shown, or nothing once where there is none.
    fn examples(&self) -> Vec<Option<&Value>> {
        match self.about["requestBody"]["content"]["application/json"]["examples"].as_object() {
            Some(examples) => examples.values().map(|example| Some(&example["value"])).collect(),
            None => vec![None],
        }
    }

    async fn ask(&self, server: &Server, document: &Document, body: Option<&Value>) -> Response {
        let request = server.client.request(self.method.clone(), server.url(&self.path_of(document)));
        match body {
            Some(body) => request.json(body).send().await.unwrap(),
            None => request.send().await.unwrap(),
        }
    }

    fn has_status(&self, status: u16) -> bool {
        self.about["responses"].get(status.to_string()).is_some()
    }
}

/// Forbids what an object does not name, all the way down.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("properties").is_some_and(Value::is_object) && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

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

/// A server that has loaded what one without flags serves.
async fn sudoku() -> Server {
    let server = Server::loading(BODY_MAX, Duration::ZERO).await;
    let metrics = Arc::new(Metrics::new().unwrap());
    let handle = start(sudoku_model(), Some(sudoku_tokenizer()), Limits::default(), metrics).unwrap();
    server.state.loaded(Service { handle, name: "sudoku".to_owned(), created: 1_700_000_000 }).unwrap();
    server
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
    let source = include_str!("../src/api/mod.rs");
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
async fn its_examples_work_and_are_answered_as_it_says() {
    let server = sudoku().await;
    let document = Document::of(&server).await;
    let mut bodies = 0;
    let by_name = |operation: &Operation<'_>| operation.path == "/v1/requests/{id}";
    for operation in document.operations().into_iter().filter(|operation| !by_name(operation)) {
        for body in operation.examples() {
            let response = operation.ask(&server, &document, body).await;
            let status = response.status();
            let answer = document.check_response(&operation, response).await;
            assert_eq!(status, 200, "{} {}: {answer}", operation.path, body.unwrap_or(&Value::Null));
            bodies += usize::from(body.is_some());
        }
    }
    assert!(bodies > 12, "only {bodies} examples were found");
    // which need a request of that name
    let (model, gate) = Gated::new();
    let gated = Server::of(model, Limits::default()).await;
    for method in ["get", "delete"] {
        let body = json!({"template": "<blank:3>", "stream": true});
        let named = gated.client.post(gated.url("/v1/infill")).header("x-request-id", "my-request").json(&body);
        let stream = named.send().await.unwrap();
        if method == "get" {
            gate.open();
            stream.text().await.unwrap();
            gate.close();
        }
        let operation = document.operation(method, "/v1/requests/{id}");
        let response = operation.ask(&gated, &document, None).await;
        assert_eq!(response.status(), 200, "{method}");
        document.check_response(&operation, response).await;
    }
    // what no example asks for
    for (path, body) in [
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "1"}]}],
            "max_tokens": 3, "logprobs": true, "n": 2, "diffusion": {"return_quality": true}}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "1"}], "max_tokens": 3, "logprobs": true,
            "stream": true, "stream_options": {"include_usage": true}, "diffusion": {"stream_edits": true}}),
        ),
        (
            "/v1/completions",
            json!({"prompt": [[1, 2], [3.0]], "max_tokens": 3, "logprobs": 0, "echo": true, "stream": true}),
        ),
        ("/v1/infill", json!({"template": "1<blank:3>2", "stream": true, "diffusion": {"return_quality": true}})),
        ("/v1/repair", json!({"text": "123123123", "diffusion": {"return_quality": true}})),
        ("/tokenize", json!({"prompt": "123"})),
    ] {
        let operation = document.operation("post", path);
        let response = operation.ask(&server, &document, Some(&body)).await;
        assert_eq!(response.status(), 200, "{path} {body}");
        document.check_response(&operation, response).await;
    }
}

/// Asks every operation that has `status` with its first example, changed by `change`, and checks that it comes.
async fn check_refusals(server: &Server, document: &Document, status: u16, mut change: impl FnMut(&mut Value)) {
    let mut asked = 0;
    for operation in document.operations().iter().filter(|operation| operation.has_status(status)) {
        let mut body = operation.examples()[0].cloned();
        let Some(path) = Some(operation.path).filter(|path| *path != "/docs/{file}") else { continue };
        body.as_mut().map(&mut change);
        let response = operation.ask(server, document, body.as_ref()).await;
        assert_eq!(response.status(), status, "{path}");
        document.check_response(operation, response).await;
        asked += 1;
    }
    assert!(asked > 0, "{status} is nowhere");
}

#[tokio::test]
async fn its_refusals_are_as_it_says() {
    let nothing = |_: &mut Value| {};
    let server = Server::toy().await;
    let document = Document::of(&server).await;
    check_refusals(&server, &document, 400, |body| *body = json!({})).await;
    check_refusals(&server, &document, 404, |body| body["model"] = json!("nobody")).await;
    for operation in document.operations().iter().filter(|operation| operation.has_status(415)) {
        let request = server.client.post(server.url(operation.path)).header("content-type", "image/png");
        let response = request.body("{}").send().await.unwrap();
        assert_eq!(response.status(), 415);
        document.check_response(operation, response).await;
    }

    let small = Server::loading(8, Duration::ZERO).await;
    check_refusals(&small, &document, 503, nothing).await;
    small.load(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default());
    check_refusals(&small, &document, 413, nothing).await;

    let guard = Guard::new(&["key".to_owned()], None, None).unwrap();
    let guarded = Server::guarded(BODY_MAX, Duration::ZERO, Access { guard, origins: Vec::new() }).await;
    check_refusals(&guarded, &document, 401, nothing).await;

    let failing = Server::of(Box::new(Failing { toy: Toy::new(), passes: 0 }), Limits::default()).await;
    check_refusals(&failing, &document, 500, nothing).await;
}

#[tokio::test]
async fn it_says_what_a_busy_server_answers() {
    let (model, gate) = Gated::new();
    let server = Server::of(model, Limits { running_max: 1, queue_max: 1, ..Limits::default() }).await;
    let document = Document::of(&server).await;
    let body = json!({"prompt": "a", "max_tokens": 2, "stream": true});
    let (first, second) = (server.post("/v1/completions", &body).await, server.post("/v1/completions", &body).await);
    for operation in document.operations().iter().filter(|operation| operation.has_status(500)) {
        let response = operation.ask(&server, &document, operation.examples()[0]).await;
        assert_eq!(response.status(), 429, "{}", operation.path);
        document.check_response(operation, response).await;
    }
    gate.open();
    for stream in [first, second] {
        assert!(stream.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }

    let server = Server::of(Box::new(Toy::new()), Limits { running_max: 1, ..Limits::default() }).await;
    let long = json!({"prompt": "a", "max_tokens": 1000, "stream": true,
                      "diffusion": {"end_of_text": "never", "block_length": 1000, "remasking": "off"}});
    let long = server.post("/v1/completions", &long).await; // a thousand passes, before whose end nobody's turn comes
    let late = json!({"prompt": "a", "max_tokens": 2, "diffusion": {"deadline_ms": 1}});
    let late = server.post("/v1/completions", &late).await;
    assert_eq!(late.status(), 504);
    document.check_response(&document.operation("post", "/v1/completions"), late).await;
    drop(long);
}

/// The fields that a refusal of `body` lists.
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
        assert_eq!(names(body), known_fields(&server, operation.path, &json!({"nonsense": 1})).await, "{body}");
        let fields = &document.resolved(body)["properties"];
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

/// Checks that a number on the wrong side of a limit is refused by name; returns how many there were.
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
            body.as_object_mut().unwrap().retain(|field, _| !field.starts_with("max_")); // of which there are two
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
        assert!(page.contains(&path[1..]), "{page}");
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
