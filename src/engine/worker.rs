//! The thread that owns the engine and the model: receives commands, ticks, delivers events, and
//! records metrics. Out of scope: scheduling decisions (`tick`).

use super::admission::Admission;
use super::clock::Clock;
use super::event::{Answer, Event, Failure, StepEvent};
use super::handle::Handle;
use super::job::SequenceId;
use super::mailbox::Outbox;
use super::restart::{Restart, World};
use super::shared::{Command, Condition, FAILURES_MAX, Limits, Shared, Submission};
use super::throughput::{Rates, Throughput};
use super::tick::{Begun, Engine, Tick};
use crate::diffusion::{Edit, u32_of};
use crate::model::{Denoiser, ModelError};
use crate::telemetry::Metrics;
use crate::telemetry::trace::Trace;
use crate::text::Tokenizer;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

#[derive(Debug)]
struct Client {
    outbox: Outbox,
    /// Released when the client is dropped.
    _place: OwnedSemaphorePermit,
    submitted: Instant,
    has_edits: bool,
    /// The policy that erases cells without a quality, as the label of a metric.
    policy: &'static str,
    trace: Trace,
}

/// Starts the engine on its own thread.
///
/// # Errors
/// When the operating system cannot start a thread.
pub fn start(
    model: Box<dyn Denoiser>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> io::Result<Handle> {
    start_by(Clock::system(), model, tokenizer, limits, metrics)
}

/// Like [`start`], with another clock than the system's, or with a way to reload the model.
///
/// # Errors
/// As [`start`].
pub fn start_by(
    world: impl Into<World>,
    model: Box<dyn Denoiser>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> io::Result<Handle> {
    let World { clock, restart } = world.into();
    let spec = Arc::new(model.spec().clone());
    let canvas_max = limits.canvas_max.map_or(spec.canvas_max, |max| max.min(spec.canvas_max));
    let places_max = u32_of(limits.running_max.saturating_add(limits.queue_max).clamp(1, 1 << 20));
    let (commands, inbox) = mpsc::channel(places_max as usize + 1); // every place, and one to abandon all
    let handle = Handle {
        admission: Arc::new(Admission::new(spec, tokenizer, canvas_max)),
        commands,
        places: Arc::new(Semaphore::new(places_max as usize)),
        places_max,
        limits,
        clock: clock.clone(),
        shared: Arc::default(),
    };
    let worker = Worker {
        engine: Engine::new(model, limits.running_max.max(1), limits.batch_tokens_max),
        commands: inbox,
        clients: BTreeMap::new(),
        clock,
        restart,
        throughput: Throughput::default(),
        shared: Arc::clone(&handle.shared),
        metrics,
    };
    std::thread::Builder::new().name("remask-model".to_owned()).spawn(move || worker.run())?;
    Ok(handle)
}

struct Worker {
    engine: Engine,
    /// The handles hold the other end.
    commands: mpsc::Receiver<Command>,
    clients: BTreeMap<SequenceId, Client>,
    clock: Clock,
    restart: Restart,
    throughput: Throughput,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl Drop for Worker {
    /// Tells the handles when the engine ends by a panic.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.condition.send_replace(Condition::GivenUp);
        }
    }
}

/// What follows a turn of the worker's loop.
enum Next {
    Turn,
    /// The model must be replaced before its next pass.
    Restart,
    End,
}

impl Worker {
    fn run(mut self) {
        loop {
            let next = catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|_| {
                self.announce_restart();
                self.fail_all(&Failure::BrokeDown);
                Next::Restart
            });
            match next {
                Next::Turn => {}
                Next::Restart if self.restart() => {}
                Next::Restart | Next::End => return,
            }
        }
    }

    fn turn(&mut self) -> Next {
        if !self.receive() {
            return Next::End;
        }
        self.drop_abandoned();
        let next = if self.engine.is_idle() {
            self.throughput.rest();
            Next::Turn
        } else {
            self.step()
        };
        let Engine { running, waiting, running_max, .. } = &self.engine;
        self.metrics.sequences(running.len(), waiting.len(), *running_max);
        next
    }

    /// Publishes that the model will be reloaded, before any client receives a failure.
    fn announce_restart(&self) {
        if self.restart.is_possible() {
            tracing::error!("the model broke down and will be reloaded");
            self.metrics.model_restarts.inc();
            self.shared.condition.send_replace(Condition::Restarting);
        }
    }

    /// Reloads the model, while other sequences wait. False when there is no model to go on with.
    fn restart(&mut self) -> bool {
        if !self.restart.is_possible() {
            return true;
        }
        let Err(cause) = self.restart.replace(&mut self.engine.model, self.clock.now()) else {
            tracing::info!("the model was reloaded");
            self.shared.failures_in_a_row.store(0, Ordering::Relaxed);
            self.shared.condition.send_replace(Condition::Working);
            return true;
        };
        tracing::error!(cause, "the model broke down and cannot be reloaded");
        self.shared.condition.send_replace(Condition::GivenUp);
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.execute(command);
        }
        self.fail_all(&Failure::BrokeDown);
        false
    }

    /// Executes pending commands; waits for one when idle. False when idle and without any handle.
    fn receive(&mut self) -> bool {
        if self.engine.is_idle() {
            match self.commands.blocking_recv() {
                Some(command) => self.execute(command),
                None => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.execute(command),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return !self.engine.is_idle(),
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => {
                let Submission { id, job, outbox, place, at, trace } = *submission;
                let policy = job.policy();
                let client = Client { outbox, _place: place, submitted: at, has_edits: false, policy, trace };
                self.clients.insert(id, client);
                self.engine.submit(id, job);
                self.metrics.admitted.inc();
            }
            Command::Abandon => self.fail_all(&Failure::ShutDown),
        }
    }

    fn drop_abandoned(&mut self) {
        let gone: Vec<_> = self.clients.iter().filter(|(_, client)| client.outbox.is_abandoned()).collect();
        for id in gone.into_iter().map(|(id, _)| *id).collect::<Vec<_>>() {
            self.engine.cancel(id);
            self.clients.remove(&id);
            self.metrics.cancelled.inc();
        }
    }

    fn step(&mut self) -> Next {
        let begun = self.clock.now();
        let Begun { started, late } = self.begin(begun);
        self.record_starts(&started, begun);
        self.deliver(late);
        let tick = self.engine.tick();
        self.record(&tick, begun);
        self.trace(&tick, begun);
        let is_broken = tick.failure == Some(ModelError::Panicked)
            || self.shared.failures_in_a_row.load(Ordering::Relaxed) >= FAILURES_MAX;
        if is_broken {
            self.announce_restart();
        }
        self.deliver(tick.events);
        if is_broken { Next::Restart } else { Next::Turn }
    }

    fn fail_all(&mut self, failure: &Failure) {
        self.engine.clear();
        let events = self.clients.keys().map(|id| (*id, Event::Failed(failure.clone()))).collect();
        self.deliver(events);
    }

    /// Starts queued sequences, and limits those with a deadline to the passes they have time for,
    /// by the average step time.
    fn begin(&mut self, now: Instant) -> Begun {
        let step = self.shared.step_time.average();
        let clients = &self.clients;
        self.engine.begin(|id, deadline, rounds| {
            let waited = clients.get(&id).map_or(Duration::ZERO, |client| now.duration_since(client.submitted));
            let left = deadline.checked_sub(waited)?.as_secs_f64();
            let passes = (left / (step.as_secs_f64() * f64::from(rounds)).max(1e-9)) as u32; // saturates
            Some(passes)
        })
    }

    fn record_starts(&self, started: &[SequenceId], now: Instant) {
        for client in started.iter().filter_map(|id| self.clients.get(id)) {
            self.metrics.queue_duration.observe(now.duration_since(client.submitted).as_secs_f64());
            client.trace.part("queue", client.submitted, now, || []);
        }
    }

    fn record(&mut self, tick: &Tick, begun: Instant) {
        let ended = self.clock.now();
        let took = ended.duration_since(begun);
        if let Some(limit) = tick.shrunk {
            tracing::warn!(limit, "the device ran out of memory; passes hold fewer tokens for a while");
            self.metrics.model_failures.inc();
        } else if let Some(cause) = &tick.failure {
            tracing::error!(%cause, sequences = tick.sequences, tokens = tick.tokens, "a forward pass failed");
            self.metrics.model_failures.inc();
            // a canvas too large for the device is not a failure of the model
            if !matches!(cause, ModelError::OutOfMemory(_)) {
                self.shared.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
            }
        } else if tick.sequences > 0 {
            self.shared.failures_in_a_row.store(0, Ordering::Relaxed);
            self.shared.step_time.record(took, self.engine.passes_until_room());
            self.metrics.stepped(took, tick.sequences, tick.tokens);
            if let Some(limit) = tick.grown {
                tracing::info!(limit, "passes may hold more tokens again");
            }
            if let Some(Rates { passes_per_s, tokens_per_s }) = self.throughput.pass(begun, ended, filled(tick)) {
                let (running, waiting) = (self.engine.running.len(), self.engine.waiting.len());
                tracing::info!(running, waiting, passes_per_s, tokens_per_s, "throughput");
            }
        }
    }

    /// Adds the steps of a tick to the traces of their requests.
    fn trace(&self, tick: &Tick, begun: Instant) {
        let ended = self.clock.now();
        for (id, event) in &tick.events {
            if let (Some(client), Event::Step(step)) = (self.clients.get(id), event) {
                client.trace.step(step.step, begun, ended, || attributes(tick, step));
            }
        }
    }

    fn deliver(&mut self, events: Vec<(SequenceId, Event)>) {
        for (id, event) in events {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            match &event {
                Event::Step(step) => {
                    record_edits(&self.metrics, step, client.policy);
                    if !std::mem::replace(&mut client.has_edits, true) {
                        let after = self.clock.now().duration_since(client.submitted);
                        self.metrics.time_to_first_edit.observe(after.as_secs_f64());
                    }
                }
                Event::Finished(answer) => record_answer(&self.metrics, answer),
                Event::Failed(failure) => {
                    self.metrics.failed.inc();
                    client.trace.in_scope(|| tracing::warn!(%failure, "the request failed"));
                }
            }
            let is_last = !matches!(event, Event::Step(_));
            client.outbox.send(event);
            if is_last {
                self.clients.remove(&id);
            }
        }
    }
}

/// Tokens that a tick filled in.
fn filled(tick: &Tick) -> u32 {
    let steps = tick.events.iter().filter_map(|(_, event)| match event {
        Event::Step(step) => Some(&step.edits),
        Event::Finished(_) | Event::Failed(_) => None,
    });
    u32_of(steps.flatten().filter(|edit| matches!(edit, Edit::Fill { .. })).count())
}

/// The attributes of a step's span.
fn attributes(tick: &Tick, step: &StepEvent) -> [(&'static str, usize); 6] {
    let erased = step.edits.iter().filter(|edit| matches!(edit, Edit::Erase { .. })).count();
    [
        ("remask.step", step.step as usize),
        ("remask.filled", step.edits.len() - erased),
        ("remask.erased", erased),
        ("remask.blanks", step.blanks),
        ("remask.batch.sequences", tick.sequences),
        ("remask.batch.tokens", tick.tokens),
    ]
}

fn record_edits(metrics: &Metrics, step: &StepEvent, policy: &str) {
    for edit in &step.edits {
        match edit {
            Edit::Fill { confidence, .. } => metrics.filled(*confidence),
            Edit::Erase { quality, .. } => metrics.erased(if quality.is_some() { "quality" } else { policy }),
        }
    }
}

fn record_answer(metrics: &Metrics, answer: &Answer) {
    metrics.finished.inc();
    answer.written.iter().filter_map(|written| written.quality).for_each(|quality| metrics.quality(quality));
    if answer.degraded {
        metrics.degraded.inc();
    }
}
