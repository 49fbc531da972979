//! A real server on a free port, models that wait or fail on command, and a reader of events.

use super::{sudoku_model, sudoku_tokenizer, toy_tokenizer};
use remask::api::{Access, AppState, BODY_MAX, Patience, Service, serve, with_presets};
use remask::diffusion::TokenId;
use remask::engine::{Limits, start};
use remask::model::{Batch, Denoiser, Inspection, ModelError, ModelSpec, Readings, Toy};
use remask::telemetry::Metrics;
use remask::text::Tokenizer;
use reqwest::{Client, Response};
use serde_json::Value;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// How long a test waits for an event before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs until it is dropped or stopped.
pub struct Server {
    /// As `http://127.0.0.1:1234`.
    pub base: String,
    pub client: Client,
    pub state: AppState,
    pub metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Server {
    /// A server without a model yet; `patience` is for its drain.
    pub async fn loading(body_max: usize, patience: Duration) -> Self {
        Self::guarded(body_max, patience, Access::default()).await
    }

    /// The same, with access control.
    pub async fn guarded(body_max: usize, patience: Duration, access: Access) -> Self {
        Self::open(body_max, patience, access, Patience::DEFAULT).await
    }

    async fn open(body_max: usize, to_drain: Duration, access: Access, patience: Patience) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let metrics = Arc::new(Metrics::new().unwrap());
        let state = AppState::new(Arc::clone(&metrics), body_max, access).patient(patience);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { drop(stopped.await) };
        let served = tokio::spawn(serve(listener, state.clone(), shutdown, to_drain));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { base, client, state, metrics, stop, served }
    }

    /// Gives the server its model, under the name `toy`.
    pub fn load(&self, model: Box<dyn Denoiser>, tokenizer: Option<Arc<Tokenizer>>, limits: Limits) {
        self.state.loaded(vec![self.service("toy", model, tokenizer, limits)]).unwrap();
    }

    /// A model of this name, with an engine of its own.
    pub fn service(
        &self,
        name: &str,
        model: Box<dyn Denoiser>,
        tokenizer: Option<Arc<Tokenizer>>,
        limits: Limits,
    ) -> Service {
        let handle = start(model, tokenizer, limits, self.metrics.model(name).unwrap()).unwrap();
        let handle = with_presets(&handle).unwrap();
        Service { handle, name: name.to_owned(), created: 1_700_000_000 }
    }

    pub async fn of(model: Box<dyn Denoiser>, limits: Limits) -> Self {
        let server = Self::loading(BODY_MAX, PATIENCE).await;
        server.load(model, Some(toy_tokenizer()), limits);
        server
    }

    /// The same, with timeouts of its own.
    pub async fn patient(model: Box<dyn Denoiser>, limits: Limits, patience: Patience) -> Self {
        let server = Self::open(BODY_MAX, PATIENCE, Access::default(), patience).await;
        server.load(model, Some(toy_tokenizer()), limits);
        server
    }

    pub async fn toy() -> Self {
        Self::of(Box::new(Toy::new()), Limits::default()).await
    }

    pub async fn sudoku() -> Self {
        let server = Self::loading(BODY_MAX, PATIENCE).await;
        server.load(sudoku_model(), Some(sudoku_tokenizer()), Limits::default());
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    /// The answer to a request that must succeed.
    pub async fn answer(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).await;
        let (status, answer) = (response.status(), response.json().await.unwrap());
        assert_eq!(status, 200, "{body} gave {answer}");
        answer
    }

    /// The events of a stream, read to its end.
    pub async fn events(&self, path: &str, body: &Value) -> Vec<SseEvent> {
        let response = self.post(path, body).await;
        assert_eq!(response.status(), 200, "{body}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        events(&response.text().await.unwrap())
    }

    /// Waits until the metrics hold this line.
    pub async fn until(&self, line: &str) {
        let begun = Instant::now();
        loop {
            let metrics = self.get("/metrics").await.text().await.unwrap();
            if metrics.lines().any(|other| other == line) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{line:?} never came:\n{metrics}");
        }
    }

    /// Tells the server to stop, as a signal would.
    pub fn stop(self) -> JoinHandle<()> {
        self.stop.send(()).unwrap();
        self.served
    }
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    pub name: String,
    pub id: String,
    pub data: String,
}

impl SseEvent {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The events of a whole stream.
pub fn events(stream: &str) -> Vec<SseEvent> {
    let blocks = stream.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    let event = |block: &str| {
        let mut event = SseEvent::default();
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("id", id)) => id.clone_into(&mut event.id),
                Some(("data", data)) => event.data.push_str(data),
                _ => panic!("{line:?} is no line of an event"),
            }
        }
        event
    };
    blocks.map(event).collect()
}

/// What a gated model waits for before each pass.
#[derive(Debug, Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
    reached: Notify,
}

impl Gate {
    pub fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub fn close(&self) {
        *self.is_open.lock().unwrap() = false;
    }

    /// Waits until the model waits at the gate.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    fn pass(&self) {
        self.reached.notify_one();
        drop(self.opened.wait_while(self.is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
    }
}

/// A toy whose passes wait until its gate opens.
pub struct Gated {
    toy: Toy,
    gate: Arc<Gate>,
}

impl Gated {
    pub fn new() -> (Box<Self>, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        (Box::new(Self { toy: Toy::new(), gate: Arc::clone(&gate) }), gate)
    }
}

impl Denoiser for Gated {
    fn spec(&self) -> &ModelSpec {
        self.toy.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        self.gate.pass();
        self.toy.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.toy.inspect(ids)
    }
}

/// A toy whose passes fail after the first `passes`.
pub struct Failing {
    pub toy: Toy,
    pub passes: usize,
}

impl Denoiser for Failing {
    fn spec(&self) -> &ModelSpec {
        self.toy.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        self.passes =
            self.passes.checked_sub(1).ok_or_else(|| ModelError::Failed("the device is on fire".to_owned()))?;
        self.toy.read(batch)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.toy.inspect(ids)
    }
}
