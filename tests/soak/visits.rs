//! The clients: each makes visits of different kinds and records how the server must have counted
//! them.

use crate::answers::{BLANK, check_completion, check_filled, check_infill, ensure, puzzle, row};
use crate::common::server::events;
use crate::kinds::{End, Kind, Seen};
use remask::diffusion::{Draws, Position, Purpose, Seed};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const INFILL: &str = "/v1/infill";
const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const SCORE: &str = "/v1/score";
const REQUEST: &str = "/v1/requests/{id}";
/// Longest time of a visit, a hundred times what one takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a visit ended early.
enum Stop {
    /// The server was full.
    Refused,
    Unexpected(String),
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Unexpected(what)
    }
}

impl From<reqwest::Error> for Stop {
    fn from(error: reqwest::Error) -> Self {
        Self::Unexpected(format!("{error:?}"))
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Unexpected(format!("{error:?}"))
    }
}

/// Malformed requests: method, path, body; the status, and the field or code in the error.
const MALFORMED: [(&str, &str, &str, u16, &str); 9] = [
    ("POST", INFILL, r#"{"template": "1..", "#, 400, ""),
    ("POST", INFILL, r#"{"template": "1..", "blank": ".", "stpes": 3}"#, 400, "stpes"),
    ("POST", INFILL, r#"{"template": "1..", "blank": ".", "stream": "yes"}"#, 400, "stream"),
    ("POST", INFILL, r#"{"template": "1x.", "blank": "."}"#, 400, "template"),
    ("POST", COMPLETIONS, r#"{"prompt": "1", "max_tokens": "many"}"#, 400, "max_tokens"),
    ("POST", COMPLETIONS, r#"{"prompt": "1", "diffusion": {"remasking": "sometimes"}}"#, 400, "diffusion.remasking"),
    ("POST", CHAT, r#"{"messages": [{"role": "user", "content": "1"}], "model": "other"}"#, 404, "model_not_found"),
    ("GET", INFILL, "", 405, "method_not_supported"),
    ("POST", "/v1/nothing", "{}", 404, "unknown_url"),
];

/// A client with connections of its own.
pub(super) struct Visitor {
    client: Client,
    /// As `http://127.0.0.1:1234`.
    base: String,
    number: u32,
    seen: Seen,
}

impl Visitor {
    pub(super) fn new(base: &str, number: u32) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        Self { client, base: base.to_owned(), number, seen: Seen::default() }
    }

    /// Makes visits until the given time or the first unexpected result.
    pub(super) async fn stay(mut self, until: Instant) -> Seen {
        for visit in 0.. {
            if Instant::now() >= until || !self.seen.errors.is_empty() {
                break;
            }
            let draws = Draws::new(Seed(7), Purpose::Toy, visit, Position(self.number));
            let [which, draws @ ..] = draws.uniforms::<4>();
            let kind = Kind::of(self.number, visit, which);
            let id = format!("soak-{}-{visit}", self.number);
            match tokio::time::timeout(PATIENCE, self.visit(kind, &id, draws)).await {
                Ok(Ok(()) | Err(Stop::Refused)) => {}
                Ok(Err(Stop::Unexpected(what))) => self.seen.errors.push((kind, what)),
                Err(_) => self.seen.errors.push((kind, "it is stuck".to_owned())),
            }
            *self.seen.visits.entry(kind).or_default() += 1;
        }
        self.seen
    }

    async fn visit(&mut self, kind: Kind, id: &str, draws: [f64; 3]) -> Result<(), Stop> {
        let [which, how, _] = draws;
        match kind {
            Kind::Long => self.fill(&puzzle(which), json!({})).await,
            Kind::Short => self.fill(&puzzle(which)[..29], json!({"steps": 4, "remasking": "off"})).await,
            Kind::Streamed => self.watch(id, &puzzle(which), how, Duration::ZERO).await,
            Kind::Slow => self.watch(id, &puzzle(which), how, Duration::from_secs_f64(0.05 + 0.15 * how)).await,
            Kind::Completed => self.complete(id, draws).await,
            Kind::Dropped => self.drop_out(id, draws).await,
            Kind::Deleted => self.delete(id, draws).await,
            Kind::Resumed => self.resume(id, draws).await,
            Kind::Malformed => self.err(which).await,
            Kind::Abrupt => self.break_off(which).await,
            Kind::Operator => self.look_after().await,
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends a valid request; returns the response once it begins.
    async fn ask(&mut self, path: &'static str, id: &str, body: &Value) -> Result<Response, Stop> {
        let response = self.request(Method::POST, path).header("x-request-id", id).json(body).send().await?;
        if self.is_refused(path, &response).await {
            return Err(Stop::Refused);
        }
        match response.status().as_u16() {
            200 => Ok(response),
            status => Err(format!("{body} gave {status}: {}", response.text().await?).into()),
        }
    }

    /// Whether the response is a well-formed 429. Places are taken before a body is read, so a
    /// malformed request may get one as well.
    async fn is_refused(&mut self, path: &'static str, response: &Response) -> bool {
        let is_refused = response.status() == 429 && response.headers().contains_key("retry-after");
        if is_refused {
            self.seen.end(path, End::Refused);
            tokio::time::sleep(Duration::from_secs(1)).await; // the smallest Retry-After
        }
        is_refused
    }

    /// An infill without a stream.
    async fn fill(&mut self, template: &str, diffusion: Value) -> Result<(), Stop> {
        let body = json!({"template": template, "blank": BLANK, "diffusion": diffusion});
        let answer = self.ask(INFILL, "", &body).await?.json().await?;
        self.seen.end(INFILL, End::Ok);
        Ok(check_filled(template, &answer)?)
    }

    /// An infill as a stream, with a `pause` before each read.
    async fn watch(&mut self, id: &str, template: &str, temperature: f64, pause: Duration) -> Result<(), Stop> {
        let response = self.ask(INFILL, id, &grid(template, temperature)).await?;
        let mut reader = Reader::new(response);
        while reader.read().await? {
            tokio::time::sleep(pause).await;
        }
        self.seen.end(INFILL, End::Ok);
        Ok(check_infill(template, &events(&reader.text))?)
    }

    async fn complete(&mut self, id: &str, draws: [f64; 3]) -> Result<(), Stop> {
        let (path, body) = completion(draws);
        let stream = self.ask(path, id, &body).await?.text().await?;
        self.seen.end(path, End::Ok);
        Ok(check_completion(&events(&stream))?)
    }

    /// Begins a stream of any kind.
    async fn begin(&mut self, id: &str, draws: [f64; 3]) -> Result<(&'static str, Reader), Stop> {
        let (path, body) = if draws[2] < 0.5 { (INFILL, grid(&puzzle(draws[0]), draws[1])) } else { completion(draws) };
        Ok((path, Reader::new(self.ask(path, id, &body).await?)))
    }

    async fn drop_out(&mut self, id: &str, draws: [f64; 3]) -> Result<(), Stop> {
        let (path, mut reader) = self.begin(id, draws).await?;
        let is_whole = !reader.read_frames((draws[1] * 20.0) as usize).await?;
        self.seen.end(path, if is_whole { End::Ok } else { End::Left });
        Ok(ensure(!reader.text.contains("\"error\""), || reader.text.clone())?)
    }

    /// Cancels a stream. It must end with `cancelled`, unless it had finished before.
    async fn delete(&mut self, id: &str, draws: [f64; 3]) -> Result<(), Stop> {
        let (path, mut reader) = self.begin(id, draws).await?;
        reader.read_frames(1 + (draws[1] * 8.0) as usize).await?;
        let stopped = self.request(Method::DELETE, &format!("/v1/requests/{id}")).send().await?;
        let is_stopped = match stopped.status().as_u16() {
            200 => true,
            404 => false,
            status => return Err(format!("DELETE gave {status}: {}", stopped.text().await?).into()),
        };
        self.seen.end(REQUEST, if is_stopped { End::Ok } else { End::Invalid });
        while reader.read().await? {}
        let is_cut = reader.text.contains("\"code\":\"cancelled\"");
        self.seen.end(path, if is_cut { End::Cancelled } else { End::Ok });
        Ok(ensure(if is_cut { is_stopped } else { reader.has_ended() }, || reader.text)?)
    }

    async fn resume(&mut self, id: &str, draws: [f64; 3]) -> Result<(), Stop> {
        let template = puzzle(draws[0]);
        let mut begun = Reader::new(self.ask(INFILL, id, &grid(&template, draws[1])).await?);
        begun.read_frames(1 + (draws[2] * 10.0) as usize).await?;
        let whole_frames = begun.text.rfind("\n\n").map_or(0, |end| end + 2);
        let mut heard = events(&begun.text[..whole_frames]);
        let last = heard.last().map(|event| event.id.clone()).unwrap_or_default();
        drop(begun);
        let rest = self.request(Method::GET, &format!("/v1/requests/{id}")).header("last-event-id", &last);
        let rest = rest.send().await?;
        let (status, rest) = (rest.status(), rest.text().await?);
        ensure(status == 200, || format!("reading on behind {last} gave {status}: {rest}"))?;
        heard.extend(events(&rest));
        self.seen.end(REQUEST, End::Ok);
        self.seen.end(INFILL, End::Ok);
        Ok(check_infill(&template, &heard)?)
    }

    async fn err(&mut self, which: f64) -> Result<(), Stop> {
        let which = (which * (MALFORMED.len() + 1) as f64) as usize;
        let Some((method, path, body, expected, at_fault)) = MALFORMED.get(which).copied() else {
            return self.send_too_much().await;
        };
        let method = if method == "GET" { Method::GET } else { Method::POST };
        let response = self.request(method, path).body(body).send().await?;
        if self.is_refused(path, &response).await {
            return Err(Stop::Refused);
        }
        let (status, text) = (response.status().as_u16(), response.text().await?);
        self.seen.end(if path == "/v1/nothing" { "other" } else { path }, End::Invalid);
        Ok(check_refusal(body, (status, &text), (expected, at_fault))?)
    }

    /// Sends only the header of a body that is too large, over a raw connection: a client that goes
    /// on sending may miss the answer.
    async fn send_too_much(&mut self) -> Result<(), Stop> {
        let mut connection = self.connect().await?;
        connection.write_all(head(INFILL, 3 << 20).as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        self.seen.end(INFILL, End::Invalid);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(check_refusal("3 MiB", (status, body), (413, "body_too_large"))?)
    }

    /// Closes the connection within the head of a request, which is not counted, or within its
    /// body.
    async fn break_off(&mut self, which: f64) -> Result<(), Stop> {
        let mut connection = self.connect().await?;
        let whole = head(SCORE, 1000) + "{\"text\": \"1234";
        let sent = if which < 0.5 { &whole[..(which * 60.0) as usize] } else { &whole };
        connection.write_all(sent.as_bytes()).await?;
        if which >= 0.5 {
            self.seen.end(SCORE, End::Broken);
        }
        Ok(())
    }

    async fn look_after(&mut self) -> Result<(), Stop> {
        for (path, word) in [
            ("/metrics", "remask_ready 1\n"),
            ("/health", "\"ok\""),
            ("/ready", "\"ready\""),
            ("/v1/models", "\"id\":\"sudoku\""),
        ] {
            let response = self.request(Method::GET, path).send().await?;
            let (status, text) = (response.status(), response.text().await?);
            self.seen.end(path, End::Ok);
            ensure(status == 200 && text.contains(word), || format!("{path} gave {status}: {text}"))?;
        }
        Ok(())
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.base.trim_start_matches("http://")).await
    }
}

fn head(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
}

/// An infill of a grid in twenty steps, in an order that makes mistakes.
fn grid(template: &str, temperature: f64) -> Value {
    let diffusion = json!({"steps": 20, "unmasking": "random", "proofreading": "off"});
    json!({"template": template, "blank": BLANK, "temperature": temperature, "stream": true, "diffusion": diffusion})
}

/// A completion or chat completion after the first line of a grid; two of three keep keys and
/// values between passes.
fn completion([which, how, _]: [f64; 3]) -> (&'static str, Value) {
    let cache = ["off", "prefix", "dual"][(which * 3.0) as usize % 3];
    let mut body = json!({
        "max_tokens": 79, "temperature": how, "stream": true, "stream_options": {"include_usage": true},
        "diffusion": {
            "steps": 24, "block_length": 20, "stream_edits": true, "proofreading": "off", "cache": cache,
        },
    });
    let (path, field, asked) = if how < 0.5 {
        (COMPLETIONS, "prompt", json!(row(which)))
    } else {
        (CHAT, "messages", json!([{"role": "user", "content": row(which)}]))
    };
    body[field] = asked;
    (path, body)
}

/// Checks the status of an error and its field or code.
fn check_refusal(what: &str, (status, text): (u16, &str), (expected, at_fault): (u16, &str)) -> Result<(), String> {
    let error = serde_json::from_str::<Value>(text).unwrap_or_default()["error"].take();
    let is_told = !error["message"].as_str().unwrap_or_default().is_empty() && error["type"] == "invalid_request_error";
    let is_named = at_fault.is_empty() || error["param"] == at_fault || error["code"] == at_fault;
    ensure(status == expected && is_told && is_named, || format!("{what} gave {status}: {text}"))
}

/// A stream and its text so far.
struct Reader {
    response: Response,
    text: String,
}

impl Reader {
    const fn new(response: Response) -> Self {
        Self { response, text: String::new() }
    }

    /// Reads the next chunk; false at the end.
    async fn read(&mut self) -> Result<bool, Stop> {
        let Some(chunk) = self.response.chunk().await? else { return Ok(false) };
        self.text.push_str(std::str::from_utf8(&chunk).map_err(|error| error.to_string())?);
        Ok(true)
    }

    /// Reads until there are this many frames; false if the stream ended before.
    async fn read_frames(&mut self, count: usize) -> Result<bool, Stop> {
        while self.text.matches("\n\n").count() < count {
            if !self.read().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_ended(&self) -> bool {
        self.text.contains("event: done") || self.text.ends_with("data: [DONE]\n\n")
    }
}
