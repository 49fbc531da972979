//! Helpers that several tests share: engines with small models, and their answers.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

pub mod figures;
pub mod golden;
pub mod process;
pub mod schema;
pub mod server;

use remask::api::with_presets;
use remask::diffusion::policy::{Choice, OFF};
use remask::diffusion::{Canvas, Cell, TokenId};
use remask::engine::{Answer, Event, Failure, Handle, Length, Limits, Prompt, Request, Session, Task, start};
use remask::model::{
    Batch, Denoiser, Device, Inspection, ModelError, ModelSpec, Readings, RowError, Source, Toy, load,
};
use remask::telemetry::Metrics;
use remask::text::Tokenizer;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// A file or directory of `tests/data`.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

pub fn toy_tokenizer() -> Arc<Tokenizer> {
    let tokenizer = include_bytes!("../../models/toy/tokenizer.json");
    let config: &[u8] = include_bytes!("../../models/toy/tokenizer_config.json");
    Arc::new(Tokenizer::from_texts(tokenizer, Some(config)).unwrap())
}

pub fn engine(model: Box<dyn Denoiser>, tokenizer: Option<Arc<Tokenizer>>, limits: Limits) -> Handle {
    with_presets(&start(model, tokenizer, limits, Metrics::new().unwrap().model("toy").unwrap()).unwrap()).unwrap()
}

pub fn toy() -> Handle {
    engine(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default())
}

pub fn llada_tiny_model() -> Box<dyn Denoiser> {
    load(&Source::Directory { dir: data("llada-tiny"), prism_head: None, adapter: None }, Device::Cpu).unwrap()
}

pub fn sudoku_model() -> Box<dyn Denoiser> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/sudoku");
    load(&Source::Directory { dir, prism_head: None, adapter: None }, Device::Cpu).unwrap()
}

pub fn sudoku_tokenizer() -> Arc<Tokenizer> {
    let tokenizer = include_bytes!("../../models/sudoku/tokenizer.json");
    let config: &[u8] = include_bytes!("../../models/sudoku/tokenizer_config.json");
    Arc::new(Tokenizer::from_texts(tokenizer, Some(config)).unwrap())
}

pub fn llada_tiny() -> Handle {
    engine(llada_tiny_model(), None, Limits::default())
}

/// The answer of a session that must succeed.
pub async fn finished(mut session: Session) -> Answer {
    while let Some(event) = session.next().await {
        match event {
            Event::Step(_) => {}
            Event::Finished(answer) => return *answer,
            Event::Failed(failure) => panic!("{failure}"),
        }
    }
    panic!("the session ended without an answer");
}

/// The failure of a session that must fail.
pub async fn failure(mut session: Session) -> Failure {
    while let Some(event) = session.next().await {
        match event {
            Event::Step(_) => {}
            Event::Finished(answer) => panic!("an answer: {answer:?}"),
            Event::Failed(failure) => {
                assert_eq!(session.next().await, None, "a failure is the last event");
                return failure;
            }
        }
    }
    panic!("the session ended without a word")
}

/// A continuation of `prompt` by `new` tokens, one per step, nothing erased: `new` passes.
pub fn ask(prompt: &str, new: usize) -> Request {
    let task = Task::Continue { prompt: Prompt::Text(prompt.to_owned()), length: Length::New(new) };
    Request { remasking: Some(Choice::of(&OFF)), ..Request::new(task) }
}

/// How a pass ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the model behind it says.
    Read,
    /// The first row's reading lacks a proposal.
    Spoil,
    /// The first row's numbers are not finite.
    NotFinite,
    /// One reading is missing.
    Lose,
    /// With an error.
    Fail,
    /// With the error that a full device gives.
    NoRoom,
    /// With a panic.
    Panic,
}

/// The error of a row whose numbers are not finite.
pub fn not_finite() -> RowError {
    RowError::NotFinite { what: "a logit", dtype: "f32".to_owned() }
}

/// A model whose passes begin and end on command of the test.
pub struct Puppet {
    model: Box<dyn Denoiser>,
    /// The hand holds the other end.
    begun: mpsc::Sender<Vec<String>>,
    /// The hand holds the other end.
    verdicts: mpsc::Receiver<Verdict>,
}

/// Controls a puppet. Once it is dropped, passes end by themselves.
pub struct Hand {
    begun: mpsc::Receiver<Vec<String>>,
    verdicts: mpsc::Sender<Verdict>,
}

pub fn puppet(model: Box<dyn Denoiser>) -> (Box<dyn Denoiser>, Hand) {
    let ((begin, begun), (judge, verdicts)) = (mpsc::channel(), mpsc::channel());
    (Box::new(Puppet { model, begun: begin, verdicts }), Hand { begun, verdicts: judge })
}

impl Hand {
    /// Waits for a pass to begin; returns the text of the fixed cells of each row.
    #[track_caller]
    pub fn begun(&self) -> Vec<String> {
        self.begun.recv_timeout(Duration::from_secs(20)).expect("no pass has begun")
    }

    /// Ends the pass that has begun.
    pub fn end(&self, verdict: Verdict) {
        self.verdicts.send(verdict).unwrap();
    }

    /// A whole pass.
    #[track_caller]
    pub fn pass(&self) -> Vec<String> {
        let rows = self.begun();
        self.end(Verdict::Read);
        rows
    }

    /// Waits until the model is dropped, letting every pass end.
    pub fn until_gone(&self) {
        while self.begun.recv_timeout(Duration::from_secs(20)) != Err(mpsc::RecvTimeoutError::Disconnected) {
            self.end(Verdict::Read);
        }
    }
}

impl Denoiser for Puppet {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn read(&mut self, batch: &Batch<'_>) -> Result<Readings, ModelError> {
        let _ = self.begun.send(batch.iter().map(|row| fixed_text(row.canvas)).collect());
        let verdict = self.verdicts.recv().unwrap_or(Verdict::Read);
        let mut readings = self.model.read(batch)?;
        match verdict {
            Verdict::Read => {}
            Verdict::Spoil => drop(readings[0].as_mut().unwrap().proposals.pop()),
            Verdict::NotFinite => readings[0] = Err(not_finite()),
            Verdict::Lose => drop(readings.pop()),
            Verdict::Fail => return Err(ModelError::Failed("told to".to_owned())),
            Verdict::NoRoom => return Err(ModelError::OutOfMemory("told to".to_owned())),
            Verdict::Panic => panic!("told to"),
        }
        Ok(readings)
    }

    fn inspect(&mut self, ids: &[TokenId]) -> Result<Inspection, ModelError> {
        self.model.inspect(ids)
    }
}

fn fixed_text(canvas: &Canvas) -> String {
    let fixed = canvas.cells().iter().filter_map(|cell| match cell {
        Cell::Fixed(token) => char::from_u32(token.0),
        Cell::Blank | Cell::Filled(_) => None,
    });
    fixed.collect()
}
