//! Requests to an engine in this process, each run to its answer.

use crate::api::with_presets;
use crate::engine::{Answer, Event, Handle, Limits, Session, Start, StepEvent, start};
use crate::{model::Denoiser, telemetry::Metrics, text::Tokenizer};
use anyhow::bail;
use std::{collections::VecDeque, sync::Arc};

/// Starts an engine with the default limits, and reads the presets of the model.
pub(super) fn engine(model: Box<dyn Denoiser>, tokenizer: Option<Arc<Tokenizer>>) -> anyhow::Result<Handle> {
    let handle = start(model, tokenizer, Limits::default(), Metrics::new()?.model("local")?)?;
    Ok(with_presets(&handle)?)
}

/// Reads a session to its answer.
///
/// # Errors
/// The [`Failure`](crate::engine::Failure) of a request that failed; the errors of `on_step`.
pub(super) async fn answer(
    session: &mut Session,
    mut on_step: impl AsyncFnMut(&StepEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    while let Some(event) = session.next().await {
        match event {
            Event::Step(step) => on_step(&step).await?,
            Event::Finished(answer) => return Ok(*answer),
            Event::Failed(failure) => return Err(failure.into()),
        }
    }
    bail!("the engine ended without an answer")
}

/// Runs requests 0 to `count`, at most `running_max` at a time. `submit` starts the request of a
/// number. `take` receives each answer and its canvas at the start, in the order of the numbers.
pub(super) async fn answer_all(
    count: usize,
    running_max: usize,
    mut submit: impl FnMut(usize) -> anyhow::Result<Session>,
    mut take: impl FnMut(usize, &Start, &Answer) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut running = VecDeque::new();
    let mut numbers = 0..count;
    loop {
        for number in numbers.by_ref().take(running_max - running.len()) {
            running.push_back((number, submit(number)?));
        }
        let Some((number, mut session)) = running.pop_front() else { return Ok(()) };
        let answer = answer(&mut session, async |_| Ok(())).await?;
        take(number, &session.start, &answer)?;
    }
}
