//! The thread that owns a model: waits for work, ticks, has events delivered, and records metrics.
//! There is one for each replica. Out of scope: scheduling decisions (`pool`, `placement`), sending
//! (`delivery`).

use super::clock::Clock;
use super::delivery::{Clients, Delivery};
use super::dispatch::State;
use super::event::{EditCounts, Event, Failure, StepEvent};
use super::job::SequenceId;
use super::pool::{Begun, Running, Sequence, Timing};
use super::restart::Restart;
use super::shared::{Condition, FAILURES_MAX, ReplicaState, Shared};
use super::throughput::{Rates, Throughput};
use super::tick::{Engine, Tick};
use crate::model::ModelError;
use crate::telemetry::DeviceMetrics;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) struct Worker {
    /// The number of its replica.
    replica: usize,
    /// The name of its device in metrics and logs.
    device: String,
    engine: Engine,
    /// The clients of the sequences in the present pass.
    clients: Clients,
    clock: Clock,
    restart: Restart,
    delivery: Delivery,
    throughput: Throughput,
    shared: Arc<Shared>,
    metrics: DeviceMetrics,
    /// Sequences that the model evicted from its store until the last count.
    evicted: u64,
}

/// What follows a turn of the worker's loop.
enum Next {
    Turn,
    /// The model must be replaced before its next pass.
    Restart,
    End,
}

impl Worker {
    pub(super) fn new(
        replica: usize,
        device: String,
        engine: Engine,
        restart: Restart,
        clock: Clock,
        delivery: Delivery,
        shared: Arc<Shared>,
    ) -> Self {
        let metrics = shared.metrics.device(&device);
        metrics.ready(true);
        let (clients, throughput) = (Clients::new(), Throughput::default());
        Self { replica, device, engine, clients, clock, restart, delivery, throughput, shared, metrics, evicted: 0 }
    }

    /// Works until all is done and no handle is left, or the model cannot be replaced.
    pub(super) fn work(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            self.retire();
        }
    }

    fn run(&mut self) {
        loop {
            let next = catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|_| {
                self.fail_own();
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
        let shared = Arc::clone(&self.shared);
        let Some(mut state) = shared.dispatcher.wait(self.replica) else { return Next::End };
        self.drop_abandoned(&mut state);
        if state.is_abandoned {
            let events = state.clients.keys().map(|id| (*id, Event::Failed(Failure::ShutDown))).collect();
            state.pool.clear();
            self.delivery.deliver(&mut state.clients, events);
        }
        self.keep_what_runs(&mut state);
        let begun = self.clock.now();
        let Begun { started, late } = self.begin(&mut state, begun);
        self.record_starts(&state.clients, &started, begun);
        self.delivery.deliver(&mut state.clients, late);
        let batch = state.pool.choose(self.replica, self.engine.batch.tokens());
        let clients = batch.iter().filter_map(|(id, _)| state.clients.remove_entry(id));
        self.clients.extend(clients);
        self.measure(&state);
        drop(state);
        shared.dispatcher.wake();
        let next = if batch.is_empty() { Next::Turn } else { self.step(batch, begun) };
        if shared.dispatcher.lock().pool.replicas[self.replica].len() == 0 {
            self.throughput.rest();
        }
        next
    }

    /// A pass of these sequences.
    fn step(&mut self, batch: Vec<Sequence>, begun: Instant) -> Next {
        let mut tick = self.engine.tick(batch);
        let ended = self.clock.now();
        let is_broken = self.record(&tick, begun, ended);
        self.trace(&tick, begun, ended);
        if is_broken {
            self.announce_restart();
        }
        let events = std::mem::take(&mut tick.events);
        // before others may take the sequences: the events of a sequence keep their order
        self.delivery.deliver(&mut self.clients, events);
        let shared = Arc::clone(&self.shared);
        let mut state = shared.dispatcher.lock();
        let is_read = tick.failure.is_none() && tick.sequences > 0;
        state.pool.put_back(self.replica, tick.unfinished, tick.shrunk.is_some());
        state.clients.append(&mut self.clients);
        if is_read {
            self.state().step_time.record(ended.duration_since(begun), tick.tokens);
        }
        self.keep_what_runs(&mut state);
        self.measure_running(&state);
        drop(state);
        self.shared.dispatcher.wake();
        if is_broken { Next::Restart } else { Next::Turn }
    }

    /// Has the model drop the keys and values of sequences that are gone, and counts what those
    /// that run have lost.
    fn keep_what_runs(&mut self, state: &mut State) {
        let Some(kept) = self.engine.model.kept() else { return };
        let pool = &mut state.pool;
        for name in kept.sequences.iter().filter(|name| !pool.may_read(self.replica, SequenceId(name.0))) {
            self.engine.model.forget(*name);
        }
        let model = &*self.engine.model;
        pool.replicas[self.replica].parked.iter_mut().for_each(|(id, job)| job.count_lost(*id, model));
        let kept = model.kept().unwrap_or_default();
        let before = std::mem::replace(&mut self.evicted, kept.evicted);
        self.metrics.keeps(kept.bytes, kept.sequences.len(), kept.evicted.saturating_sub(before));
    }

    fn state(&self) -> &ReplicaState {
        &self.shared.replicas[self.replica]
    }

    /// Sets the gauges after a change of the queue.
    fn measure(&self, state: &State) {
        self.shared.metrics.waiting(state.pool.waiting.len());
        self.measure_running(state);
    }

    fn measure_running(&self, state: &State) {
        let pool = &state.pool;
        self.metrics.running(pool.replicas[self.replica].len());
        let running = pool.replicas.iter().map(Running::len).sum();
        self.shared.metrics.occupied(running, pool.replicas.len() * pool.running_max);
    }

    /// Publishes that the model will be reloaded, before any client receives a failure. Its running
    /// sequences are queued, so that another replica can go on with them.
    fn announce_restart(&self) {
        if self.restart.is_possible() {
            tracing::error!(model = self.model(), device = self.device, "the model broke down and will be reloaded");
            self.metrics.model_restarts.inc();
            let mut state = self.shared.dispatcher.lock();
            self.set_condition(&mut state, Condition::Restarting);
            state.pool.release(self.replica);
            self.measure(&state);
            drop(state);
            self.shared.dispatcher.wake();
        }
    }

    fn set_condition(&self, state: &mut State, condition: Condition) {
        let is_serving = condition == Condition::Working;
        state.pool.replicas[self.replica].is_serving = is_serving;
        self.metrics.ready(is_serving);
        self.state().condition.send_replace(condition);
    }

    /// Reloads the model, while sequences wait or other replicas take them. False when there is no
    /// model to go on with.
    fn restart(&mut self) -> bool {
        if !self.restart.is_possible() {
            return true;
        }
        let Err(cause) = self.restart.replace(&mut self.engine.model, self.clock.now()) else {
            tracing::info!(model = self.model(), device = self.device, "the model was reloaded");
            self.state().failures_in_a_row.store(0, Ordering::Relaxed);
            self.set_condition(&mut self.shared.dispatcher.lock(), Condition::Working);
            return true;
        };
        tracing::error!(
            model = self.model(),
            device = self.device,
            cause,
            "the model broke down and cannot be reloaded"
        );
        self.retire();
        false
    }

    /// Gives the replica up. Its sequences go to the others; without any, all fail.
    fn retire(&mut self) {
        let mut state = self.shared.dispatcher.lock();
        state.pool.release(self.replica);
        self.set_condition(&mut state, Condition::GivenUp);
        let mut clients = std::mem::take(&mut self.clients);
        if self.shared.remaining().next().is_none() {
            state.is_closed = true;
            state.pool.clear();
            clients.append(&mut state.clients);
        }
        self.measure(&state);
        drop(state);
        self.shared.dispatcher.wake();
        self.fail(clients, &Failure::BrokeDown);
    }

    /// After a panic of the engine: fails the sequences of this replica, and those that were lost.
    fn fail_own(&mut self) {
        let mut state = self.shared.dispatcher.lock();
        let mut clients = std::mem::take(&mut self.clients);
        let parked = std::mem::take(&mut state.pool.replicas[self.replica].parked);
        state.pool.replicas[self.replica].in_pass.clear();
        drop(parked);
        let present = state.pool.ids();
        let lost: Vec<SequenceId> = state.clients.keys().filter(|id| !present.contains(id)).copied().collect();
        clients.extend(lost.iter().filter_map(|id| state.clients.remove_entry(id)));
        drop(state);
        self.announce_restart();
        self.fail(clients, &Failure::BrokeDown);
    }

    fn fail(&self, mut clients: Clients, failure: &Failure) {
        let events = clients.keys().map(|id| (*id, Event::Failed(failure.clone()))).collect();
        self.delivery.deliver(&mut clients, events);
    }

    /// Drops the sequences whose clients are gone, except those in a pass of another replica.
    fn drop_abandoned(&self, state: &mut State) {
        let State { clients, pool, .. } = state;
        clients.retain(|id, client| {
            let is_abandoned = client.outbox.is_abandoned();
            if is_abandoned {
                pool.cancel(*id);
                self.shared.metrics.cancelled.inc();
            }
            !is_abandoned
        });
    }

    /// Starts queued sequences, and limits those with a deadline to the passes they have time for.
    fn begin(&self, state: &mut State, now: Instant) -> Begun {
        let State { clients, pool, .. } = state;
        let left = |id, deadline: Duration| {
            let waited = clients.get(&id).map_or(Duration::ZERO, |client| now.duration_since(client.submitted));
            deadline.checked_sub(waited)
        };
        let has_begun = |id| clients.get(&id).is_some_and(|client| client.place.request_has_begun());
        let step = |tokens| self.state().step_time.of(tokens);
        let timing = Timing { left: &left, step: &step, has_begun: &has_begun };
        pool.begin(self.replica, self.engine.batch.tokens(), &timing)
    }

    fn record_starts(&self, clients: &Clients, started: &[SequenceId], now: Instant) {
        for client in started.iter().filter_map(|id| clients.get(id)) {
            self.shared.metrics.queue_duration.observe(now.duration_since(client.submitted).as_secs_f64());
            client.trace.part("queue", client.submitted, now, || []);
            client.place.begins();
        }
    }

    /// The name of its model in logs.
    fn model(&self) -> &str {
        self.shared.metrics.name()
    }

    /// Records a pass. True if the model has to be replaced.
    fn record(&mut self, tick: &Tick, begun: Instant, ended: Instant) -> bool {
        let (model, device) = (self.shared.metrics.name().to_owned(), &self.device);
        if let Some(limit) = tick.shrunk {
            tracing::warn!(model, device, limit, "the device ran out of memory; passes hold fewer tokens for a while");
            self.metrics.model_failures.inc();
        } else if let Some(cause) = &tick.failure {
            tracing::error!(model, device, %cause, sequences = tick.sequences, tokens = tick.tokens, "a forward pass failed");
            self.metrics.model_failures.inc();
            // a canvas too large for the device is not a failure of the model
            if !matches!(cause, ModelError::OutOfMemory(_)) {
                self.state().failures_in_a_row.fetch_add(1, Ordering::Relaxed);
            }
        } else if tick.sequences > 0 {
            self.state().failures_in_a_row.store(0, Ordering::Relaxed);
            self.metrics.stepped(ended.duration_since(begun), tick.sequences, tick.tokens);
            if let Some(limit) = tick.grown {
                tracing::info!(model, device, limit, "passes may hold more tokens again");
            }
            if let Some(Rates { passes_per_s, tokens_per_s }) = self.throughput.pass(begun, ended, filled(tick)) {
                let (running, waiting) = {
                    let pool = &self.shared.dispatcher.lock().pool;
                    (pool.replicas[self.replica].len(), pool.waiting.len())
                };
                tracing::info!(model, device, running, waiting, passes_per_s, tokens_per_s, "throughput");
            }
        }
        tick.failure == Some(ModelError::Panicked)
            || self.state().failures_in_a_row.load(Ordering::Relaxed) >= FAILURES_MAX
    }

    /// Adds the steps of a tick to the traces of their requests.
    fn trace(&self, tick: &Tick, begun: Instant, ended: Instant) {
        for (id, event) in &tick.events {
            if let (Some(client), Event::Step(step)) = (self.clients.get(id), event) {
                client.trace.step(step.step, begun, ended, || attributes(tick, step));
            }
        }
    }
}

/// Tokens that a tick filled in.
fn filled(tick: &Tick) -> u32 {
    let steps = tick.events.iter().filter_map(|(_, event)| match event {
        Event::Step(step) => Some(EditCounts::of(&step.edits).filled),
        Event::Finished(_) | Event::Failed(_) => None,
    });
    steps.sum()
}

/// The attributes of a step's span.
fn attributes(tick: &Tick, step: &StepEvent) -> [(&'static str, usize); 7] {
    let EditCounts { filled, erased, replaced } = EditCounts::of(&step.edits);
    [
        ("remask.step", step.step as usize),
        ("remask.filled", filled as usize),
        ("remask.erased", erased as usize),
        ("remask.replaced", replaced as usize),
        ("remask.blanks", step.blanks),
        ("remask.batch.sequences", tick.sequences),
        ("remask.batch.tokens", tick.tokens),
    ]
}
