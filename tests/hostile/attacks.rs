//! What hostile clients send.

use reqwest::Client;
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The largest body that the server takes, less a margin for the rest of the request.
const MIB_2: usize = 2 * 1024 * 1024 - 4096;
/// How long an attacker waits for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections that one attacker holds open.
const HELD_MAX: usize = 40;

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As any other; the whole answer is read.
    Whole,
    /// The answer is dropped at its first bytes.
    Dropped,
    /// Half of the body is sent; the connection is kept.
    Half,
    /// The answer is never read; the connection is kept.
    Unread,
}

/// One request that could hurt others.
#[derive(Clone, Debug)]
pub(super) struct Attack {
    name: &'static str,
    path: &'static str,
    body: String,
    headers: &'static [(&'static str, &'static str)],
    manner: Manner,
}

/// What came of an attack.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: &'static str,
    /// `None` where the answer was not waited for, or the connection was closed.
    pub(super) status: Option<u16>,
    pub(super) took: Duration,
}

impl Attack {
    fn new(name: &'static str, path: &'static str, body: impl Into<String>) -> Self {
        Self { name, path, body: body.into(), headers: &[], manner: Manner::Whole }
    }

    fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    fn sent(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    /// Makes it once. `held` are connections that stay open until others take their places.
    pub(super) async fn make(&self, client: &Client, base: &str, held: &mut Vec<TcpStream>) -> Seen {
        let begun = Instant::now();
        let status = match self.manner {
            Manner::Whole | Manner::Dropped => self.ask(client, base).await,
            Manner::Half | Manner::Unread => {
                if held.len() == HELD_MAX {
                    held.remove(0);
                }
                held.extend(self.raw(base.trim_start_matches("http://")));
                None
            }
        };
        Seen { name: self.name, status, took: begun.elapsed() }
    }

    async fn ask(&self, client: &Client, base: &str) -> Option<u16> {
        let mut request = client.post(format!("{base}{}", self.path)).body(self.body.clone()).timeout(PATIENCE);
        request = request.header("Content-Type", "application/json");
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        // a server may close the connection of a body that it refuses
        let mut response = request.send().await.ok()?;
        if self.manner == Manner::Whole {
            while let Ok(Some(_)) = response.chunk().await {}
        } else {
            let _ = response.chunk().await;
        }
        Some(response.status().as_u16())
    }

    fn raw(&self, address: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).ok()?;
        let (path, length) = (self.path, self.body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let sent = if self.manner == Manner::Half { length / 2 } else { length };
        stream.write_all(&self.body.as_bytes()[..sent]).ok()?;
        Some(stream)
    }
}

/// A format of `definitions` properties that all refer to one with a long name.
fn many_references(references: usize) -> Value {
    let properties: serde_json::Map<String, Value> =
        (0..references).map(|number| (format!("p{number}"), json!({"$ref": "#/$defs/d"}))).collect();
    let long = "n".repeat(4_000);
    let leaf = json!({"type": "object", "properties": {long: {"type": "boolean"}}});
    format(&json!({"type": "object", "properties": properties, "$defs": {"d": leaf}}))
}

fn many_options(options: usize) -> Value {
    let options: Vec<String> = (0..options).map(|number| format!("{number:06}")).collect();
    format(&json!({"type": "object", "properties": {"a": {"enum": options}}}))
}

fn deep_schema(depth: usize) -> Value {
    let mut schema = json!({"type": "boolean"});
    for _ in 0..depth {
        schema = json!({"type": "object", "properties": {"a": schema}});
    }
    format(&schema)
}

/// Each definition has two properties of the next: 2^`depth` leaves.
fn doubling(depth: usize) -> Value {
    let next = |number: usize| json!({"$ref": format!("#/$defs/d{}", number + 1)});
    let mut definitions: serde_json::Map<String, Value> = (0..depth)
        .map(|number| {
            let properties = json!({"a": next(number), "b": next(number)});
            (format!("d{number}"), json!({"type": "object", "properties": properties}))
        })
        .collect();
    definitions.insert(format!("d{depth}"), json!({"type": "boolean"}));
    format(&json!({"$ref": "#/$defs/d0", "$defs": definitions}))
}

fn format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
}

/// Digits and line breaks, which every model here has tokens for.
fn digits(length: usize) -> String {
    "123456789\n".repeat(length / 10)
}

/// Every attack on a server of this model.
pub(super) fn all(model: &str) -> Vec<Attack> {
    let prompt = if model == "toy" { "x" } else { "1" };
    let completion = |more: Value| {
        let mut body = json!({"prompt": prompt, "max_tokens": 8});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let text = |text: String| json!({"prompt": text}).to_string();
    let formatted = |format: Value, n: u32| completion(json!({"response_format": format, "n": n, "max_tokens": 512}));
    const COMPLETIONS: &str = "/v1/completions";
    vec![
        Attack::new("guidance 3e38", COMPLETIONS, completion(json!({"diffusion": {"cfg_scale": 3e38}}))),
        Attack::new("temperature 3e38", COMPLETIONS, completion(json!({"temperature": 3e38}))),
        Attack::new("bias 3e38", COMPLETIONS, completion(json!({"logit_bias": {"5": 3e38}}))),
        Attack::new("1,300 references, n = 16", COMPLETIONS, formatted(many_references(1_300), 16)),
        Attack::new("150,000 options", COMPLETIONS, formatted(many_options(150_000), 1)),
        Attack::new("20,000 options, n = 16", COMPLETIONS, formatted(many_options(20_000), 16)),
        Attack::new("schema of depth 100", COMPLETIONS, formatted(deep_schema(100), 16)),
        Attack::new("schema of 2^30 leaves", COMPLETIONS, formatted(doubling(30), 16)),
        Attack::new("prompt of 2 MB", COMPLETIONS, text(digits(MIB_2 / 10 * 9))),
        Attack::new(
            "prompt of 2 MB, echoed",
            COMPLETIONS,
            completion(json!({"prompt": digits(MIB_2 / 10 * 9), "echo": true})),
        ),
        Attack::new("2 MB without a token", COMPLETIONS, text("\u{1F600}".repeat(MIB_2 / 4))),
        Attack::new("tokenize 2 MB", "/tokenize", text(digits(MIB_2 / 10 * 9))),
        Attack::new("tokenize 512 KiB", "/tokenize", text(digits(MIB_2 / 4))),
        Attack::new("tokenize 2 MB without a token", "/tokenize", text("\u{1F600}".repeat(MIB_2 / 4))),
        Attack::new("detokenize 1,000,000 ids", "/detokenize", json!({"tokens": vec![5; MIB_2 / 2 - 20]}).to_string()),
        Attack::new("score 2 MB", "/v1/score", json!({"text": digits(MIB_2 / 10 * 9)}).to_string()),
        Attack::new("score 1,000,000 ids", "/v1/score", json!({"text": vec![5; MIB_2 / 2 - 20]}).to_string()),
        Attack::new("repair 2 MB", "/v1/repair", json!({"text": digits(MIB_2 / 10 * 9)}).to_string()),
        Attack::new(
            "repair with 300,000 pins",
            "/v1/repair",
            json!({"text": digits(90), "pinned": vec![[0, 1]; 300_000]}).to_string(),
        ),
        Attack::new("repair sent twice", "/v1/repair", json!({"text": digits(MIB_2 / 10 * 9)}).to_string())
            .headers(&[("idempotency-key", "same")]),
        Attack::new(
            "template of 2 MB",
            "/v1/infill",
            json!({"template": "_1".repeat(MIB_2 / 2), "blank": "_"}).to_string(),
        ),
        Attack::new("200,000 blanks", "/v1/infill", json!({"template": "<blank:1>".repeat(200_000)}).to_string()),
        Attack::new(
            "65,536 steps per cell",
            COMPLETIONS,
            completion(json!({"diffusion": {"block_length": 1, "proofreading": {"steps": 65_536}}})),
        ),
        Attack::new("lowest priority number", COMPLETIONS, completion(json!({"priority": i32::MIN, "n": 8}))),
        Attack::new("one id for all", COMPLETIONS, completion(json!({}))).headers(&[("x-request-id", "same")]),
        Attack::new("4,294,967,295 tokens", COMPLETIONS, completion(json!({"max_tokens": u32::MAX}))),
        Attack::new("1 ms for all", COMPLETIONS, completion(json!({"n": 16, "diffusion": {"deadline_ms": 1}}))),
        Attack::new("JSON of depth 100,000", COMPLETIONS, "[".repeat(100_000)),
        Attack::new("half a body", COMPLETIONS, text(digits(10_000))).sent(Manner::Half),
        Attack::new("never read", COMPLETIONS, completion(json!({"stream": true}))).sent(Manner::Unread),
        Attack::new("dropped", COMPLETIONS, completion(json!({"stream": true, "n": 16}))).sent(Manner::Dropped),
    ]
}
