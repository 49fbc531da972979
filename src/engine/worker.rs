//! The thread that owns engine and model: takes commands, ticks, delivers events, measures. The only place of the
//! engine with a clock and a channel; refuses to decide anything.

use super::admission::{Admission, Drafter};
use super::clock::Clock;
use super::event::{Answer, Event, Failure, StepEvent};
use super::handle::Handle;
use super::job::SequenceId;
use super::mailbox::Outbox;
use super::restart::{Restart, World};
use super::shared::{Command, Condition, FAILURES_MAX, Limits, Shared, Submission};
use super::tick::{Engine, Tick};
use crate::diffusion::Edit;
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

/// Who hears of a sequence.
#[derive(Debug)]
struct Owner {
    outbox: Outbox,
    /// Given back when the owner is dropped.
    _place: OwnedSemaphorePermit,
    submitted: Instant,
    has_edits: bool,
    /// What erases its cells where nobody judges them.
    policy: &'static str,
    trace: Trace,
}

/// Starts the engine on a thread of its own.
///
/// # Errors
/// When the operating system gives no thread.
pub fn start(
    model: Box<dyn Denoiser>,
    tokenizer: Option<Arc<Tokenizer>>,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> io::Result<Handle> {
    start_by(Clock::system(), model, tokenizer, limits, metrics)
}

/// The same in another world: by another clock than the system's, or with a way to load the model anew.
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
    let places_max = u32::try_from(limits.running_max.saturating_add(limits.queue_max).clamp(1, 1 << 20)).unwrap_or(1);
    let (commands, inbox) = mpsc::channel(places_max as usize + 1); // every place, and one command to give up
    let handle = Handle {
        admission: Arc::new(Admission { spec: Arc::clone(&spec), drafter: Drafter::new(spec, tokenizer, canvas_max) }),
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
        owners: BTreeMap::new(),
        clock,
        restart,
        shared: Arc::clone(&handle.shared),
        metrics,
    };
    std::thread::Builder::new().name("remask-model".to_owned()).spawn(move || worker.run())?;
    Ok(handle)
}

struct Worker {
    engine: Engine,
    /// Handles hold the other end.
    commands: mpsc::Receiver<Command>,
    owners: BTreeMap<SequenceId, Owner>,
    clock: Clock,
    restart: Restart,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

impl Drop for Worker {
    /// Whoever waits for an engine that ended by a panic waits no more.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.condition.send_replace(Condition::GivenUp);
        }
    }
}

/// What comes after a turn of the worker's loop.
enum Next {
    Turn,
    /// The model is not to be asked again as it is.
    Restart,
    End,
}

impl Worker {
    fn run(mut self) {
        loop {
            let next = catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|_| {
                self.break_down();
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
        let next = if self.engine.is_idle() { Next::Turn } else { self.step() };
        let Engine { running, waiting, running_max, .. } = &self.engine;
        self.metrics.sequences(running.len(), waiting.len(), *running_max);
        next
    }

    /// Says that the model is to be loaded anew, before anybody is told of a failure.
    fn break_down(&self) {
        if self.restart.is_possible() {
            tracing::error!("the model broke down and is to be loaded anew");
            self.metrics.restarted();
            self.shared.condition.send_replace(Condition::Restarting);
        }
    }

    /// Has the model loaded anew; those who were not in the pass that broke down wait for it. False when there is no
    /// model to go on with.
    fn restart(&mut self) -> bool {
        if !self.restart.is_possible() {
            return true;
        }
        let replaced = self.restart.replace(&mut self.engine.model, self.clock.now());
        let condition = match replaced {
            Ok(()) => {
                tracing::info!("the model was loaded anew");
                self.shared.failures_in_a_row.store(0, Ordering::Relaxed);
                Condition::Working
            }
            Err(cause) => {
                tracing::error!(cause, "the model is given up");
                Condition::GivenUp
            }
        };
        self.shared.condition.send_replace(condition);
        if condition == Condition::GivenUp {
            self.commands.close();
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
            self.fail_all(&Failure::BrokeDown);
        }
        condition == Condition::Working
    }

    /// Takes the commands that have come, waiting for one if there is nothing else to do. False once every handle
    /// is gone: then nobody is left to hear an answer.
    fn receive(&mut self) -> bool {
        if self.engine.is_idle() {
            match self.commands.blocking_recv() {
                Some(command) => self.obey(command),
                None => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return !self.engine.is_idle(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(submission) => {
                let Submission { id, job, outbox, place, at, trace } = *submission;
                let policy = job.policy();
                let owner = Owner { outbox, _place: place, submitted: at, has_edits: false, policy, trace };
                self.owners.insert(id, owner);
                self.engine.submit(id, job);
                self.metrics.admitted();
            }
            Command::Abandon => self.fail_all(&Failure::ShutDown),
        }
    }

    fn drop_abandoned(&mut self) {
        let gone: Vec<_> = self.owners.iter().filter(|(_, owner)| owner.outbox.is_abandoned()).collect();
        for id in gone.into_iter().map(|(id, _)| *id).collect::<Vec<_>>() {
            self.engine.cancel(id);
            self.owners.remove(&id);
            self.metrics.cancelled();
        }
    }

    fn step(&mut self) -> Next {
        let begun = self.clock.now();
        let late = self.hurry(begun);
        self.deliver(late);
        let tick = self.engine.tick();
        self.measure(&tick, begun);
        self.trace(&tick, begun);
        let is_broken = tick.failure == Some(ModelError::Panicked)
            || self.shared.failures_in_a_row.load(Ordering::Relaxed) >= FAILURES_MAX;
        if is_broken {
            self.break_down();
        }
        self.deliver(tick.events);
        if is_broken { Next::Restart } else { Next::Turn }
    }

    /// Gives up on everybody, saying why.
    fn fail_all(&mut self, failure: &Failure) {
        self.engine.clear();
        let events = self.owners.keys().map(|id| (*id, Event::Failed(failure.clone()))).collect();
        self.deliver(events);
    }

    /// Has those with a deadline give up what they have no time for, by what a step takes now.
    fn hurry(&mut self, now: Instant) -> Vec<(SequenceId, Event)> {
        let step = self.shared.pace.step();
        let owners = &self.owners;
        self.engine.hurry(|id, deadline, rounds| {
            let waited = owners.get(&id).map_or(Duration::ZERO, |owner| now.duration_since(owner.submitted));
            let left = deadline.checked_sub(waited)?.as_secs_f64();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is not negative
            let passes = (left / (step.as_secs_f64() * f64::from(rounds)).max(1e-9)) as u32;
            Some(passes)
        })
    }

    fn measure(&self, tick: &Tick, begun: Instant) {
        let took = self.clock.now().duration_since(begun);
        for owner in tick.admitted.iter().filter_map(|id| self.owners.get(id)) {
            self.metrics.left_queue(begun.duration_since(owner.submitted));
            owner.trace.part("queue", owner.submitted, begun, || []);
        }
        if let Some(limit) = tick.shrunk {
            tracing::warn!(limit, "the device ran out of memory; passes hold fewer tokens from now on");
            self.metrics.model_failed();
        } else if let Some(cause) = &tick.failure {
            tracing::error!(%cause, sequences = tick.sequences, tokens = tick.tokens, "a forward pass failed");
            self.metrics.model_failed();
            // a canvas that has no room alone says nothing about the next one
            if !matches!(cause, ModelError::OutOfMemory(_)) {
                self.shared.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
            }
        } else if tick.sequences > 0 {
            self.shared.failures_in_a_row.store(0, Ordering::Relaxed);
            self.shared.pace.measured(took, self.engine.passes_until_room());
            self.metrics.stepped(took, tick.sequences, tick.tokens);
        }
    }

    /// Tells the steps of a tick to whoever collects traces.
    fn trace(&self, tick: &Tick, begun: Instant) {
        let ended = self.clock.now();
        for (id, event) in &tick.events {
            if let (Some(owner), Event::Step(step)) = (self.owners.get(id), event) {
                owner.trace.step(step.step, begun, ended, || facts(tick, step));
            }
        }
    }

    fn deliver(&mut self, events: Vec<(SequenceId, Event)>) {
        for (id, event) in events {
            let Some(owner) = self.owners.get_mut(&id) else { continue };
            if let Event::Step(step) = &event {
                record_edits(&self.metrics, step, owner.policy);
                if !owner.has_edits {
                    owner.has_edits = true;
                    self.metrics.first_edit(self.clock.now().duration_since(owner.submitted));
                }
            }
            let is_last = match &event {
                Event::Step(_) => false,
                Event::Finished(answer) => {
                    record_answer(&self.metrics, answer);
                    true
                }
                Event::Failed(failure) => {
                    self.metrics.failed();
                    owner.trace.in_scope(|| tracing::warn!(%failure, "given up"));
                    true
                }
            };
            owner.outbox.send(event);
            if is_last {
                self.owners.remove(&id);
            }
        }
    }
}

/// What is told of a step.
fn facts(tick: &Tick, step: &StepEvent) -> [(&'static str, usize); 6] {
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
    metrics.finished();
    answer.written.iter().filter_map(|written| written.quality).for_each(|quality| metrics.judged(quality));
    if answer.degraded {
        metrics.degraded();
    }
}
