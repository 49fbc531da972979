//! What several tests need: engines with small models behind them, and their answers.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

use remask::engine::{Answer, Event, Handle, Limits, Session, start};
use remask::model::{Denoiser, Device, Source, Toy, load};
use remask::telemetry::Metrics;
use remask::text::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;

/// A file or directory of `tests/data`.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

pub fn toy_tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_bytes(include_bytes!("../../models/toy/tokenizer.json")).unwrap())
}

pub fn engine(model: Box<dyn Denoiser>, tokenizer: Option<Arc<Tokenizer>>, limits: Limits) -> Handle {
    start(model, tokenizer, limits, Arc::new(Metrics::new().unwrap())).unwrap()
}

pub fn toy() -> Handle {
    engine(Box::new(Toy::new()), Some(toy_tokenizer()), Limits::default())
}

pub fn llada_tiny_model() -> Box<dyn Denoiser> {
    load(&Source::Directory { dir: data("llada-tiny"), prism_head: None, adapter: None }, Device::Cpu).unwrap()
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
