//! The document of a server, and checks of values, events and responses against it.

use crate::common::schema::faults;
use crate::common::server::{Server, events};
use reqwest::{Method, Response};
use serde_json::{Value, json};

pub(super) const METHODS: [&str; 7] = ["get", "post", "put", "delete", "patch", "options", "trace"];

/// The document of a server.
pub(super) struct Document {
    pub(super) json: Value,
    /// Its components, with objects closed against fields they do not list.
    pub(super) strict: Value,
}

/// One method of one path.
pub(super) struct Operation<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) about: &'a Value,
}

impl Document {
    pub(super) async fn of(server: &Server) -> Self {
        let json: Value = server.get("/openapi.json").await.json().await.unwrap();
        let mut strict = json["components"].clone();
        close(&mut strict);
        Self { json, strict }
    }

    pub(super) fn operations(&self) -> Vec<Operation<'_>> {
        let paths = self.json["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            let known = METHODS.iter().filter_map(move |method| Some((method, item.get(method)?)));
            known.map(move |(method, about)| Operation { method: method.to_uppercase().parse().unwrap(), path, about })
        });
        operations.collect()
    }

    pub(super) fn operation<'a>(&'a self, method: &str, path: &'a str) -> Operation<'a> {
        let about = &self.json["paths"][path][method];
        assert!(about.is_object(), "{method} {path} is not there");
        Operation { method: method.to_uppercase().parse().unwrap(), path, about }
    }

    /// The value that a pointer such as `#/components/schemas/Error` leads to.
    pub(super) fn find(&self, reference: &str) -> &Value {
        let found = reference.strip_prefix('#').and_then(|pointer| self.json.pointer(pointer));
        found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    pub(super) fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        value.get("$ref").map_or(value, |reference| self.find(reference.as_str().unwrap()))
    }

    /// Checks a value, in which unlisted fields are faults.
    #[track_caller]
    pub(super) fn check(&self, schema: &Value, value: &Value) {
        let faults = faults(&json!({"components": self.strict}), schema, value);
        assert!(faults.is_empty(), "{value:#} is not as {schema} says:\n{}", faults.join("\n"));
    }

    /// Checks an event of a stream and the JSON in its data.
    pub(super) fn check_event(&self, schema: &Value, name: &str, data: &str) {
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

    /// Checks a response against the documented one of its status; returns its body.
    pub(super) async fn check_response(&self, operation: &Operation<'_>, response: Response) -> String {
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
    /// The path, with the examples of its parameters filled in.
    pub(super) fn path_of(&self, document: &Document) -> String {
        let parameters = self.about["parameters"].as_array().unwrap().iter().map(|one| document.resolved(one));
        parameters.filter(|parameter| parameter["in"] == "path").fold(self.path.to_owned(), |path, parameter| {
            let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap());
            path.replace(&format!("{{{name}}}"), example)
        })
    }

    /// The example bodies; one `None` where the operation takes no body.
    pub(super) fn examples(&self) -> Vec<Option<&Value>> {
        match self.about["requestBody"]["content"]["application/json"]["examples"].as_object() {
            Some(examples) => examples.values().map(|example| Some(&example["value"])).collect(),
            None => vec![None],
        }
    }

    pub(super) async fn ask(&self, server: &Server, document: &Document, body: Option<&Value>) -> Response {
        let request = server.client.request(self.method.clone(), server.url(&self.path_of(document)));
        match body {
            Some(body) => request.json(body).send().await.unwrap(),
            None => request.send().await.unwrap(),
        }
    }

    pub(super) fn has_status(&self, status: u16) -> bool {
        self.about["responses"].get(status.to_string()).is_some()
    }
}

/// Closes objects against fields they do not list, at every depth.
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
